"""Which adapters are in which slot of a size class whose rows have some."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from torch import Tensor

from wanbatch.pipeline.core.backends import AdapterSlots, AnyDenoisingModel
from wanbatch.pipeline.core.samples import RowAdapters, Sample


class PromptOfRow(NamedTuple):
    """A text as a row sees it: its keys and values depend on the row's adapters, too.

    Attributes:
        embedding: [tokens, dim].
        adapters: Of the row; None for none.
    """

    embedding: Tensor
    adapters: RowAdapters | None

    @property
    def key(self) -> Hashable:
        """Equal for what has the same keys and values."""
        return id(self.embedding), None if self.adapters is None else self.adapters.key


class AdapterTable:
    """The adapters of the rows in the slots, for one transformer.

    Args:
        expert: The transformer.
        index: Its number, 0 or 1.
        slots: How many rows an evaluation takes.
        texts: How many texts have their keys and values made together.
        rank: Of the adapters of one row together, at most.

    Attributes:
        stacks: What evaluations read.
    """

    def __init__(self, expert: AnyDenoisingModel, index: int, slots: int, texts: int, rank: int):
        self._index = index
        self.stacks = expert.adapter_stacks(slots, rank)
        self._text_stacks = expert.adapter_stacks(texts, rank, text=True)

    def enter(self, slot: int, sample: Sample) -> None:
        """Have a row's adapters in its slot; nothing is done if they are there."""
        self._fill(self.stacks, slot, sample.adapters)

    def arranged(self, samples: Sequence[Sample], slots: Sequence[int]) -> list[int]:
        """Slots in the order in which rows take them: those first that hold the adapters of a row, for that row."""
        left = list(slots)
        chosen: list[int | None] = []
        for sample in samples[: len(left)]:
            key = None if sample.adapters is None else sample.adapters.key
            slot = next((one for one in left if self.stacks.held.get(one) == key), None)
            chosen.append(slot)
            if slot is not None:
                left.remove(slot)
        return [left.pop(0) if slot is None else slot for slot in chosen] + left

    def entered(self, samples: Sequence[Sample]) -> None:
        """Take note that rows have all that they need of their adapters, for their slots and their texts."""
        for sample in samples:
            if sample.adapters is not None:
                sample.adapters.entered(self._index)

    def of_texts(self, texts: Sequence[PromptOfRow]) -> AdapterSlots:
        """The stacks with the adapters of some texts, in their order, and of no others."""
        for number in [number for number in self._text_stacks.held if number >= len(texts)]:
            del self._text_stacks.held[number]
        for number, text in enumerate(texts):
            self._fill(self._text_stacks, number, text.adapters)
        return self._text_stacks

    def _fill(self, stacks: AdapterSlots, slot: int, adapters: RowAdapters | None) -> None:
        assert adapters is not None  # or the row would be of another size class
        if stacks.held.get(slot) != adapters.key:
            stacks.held.pop(slot, None)  # what a fill that fails leaves is nobody's
            stacks.fill(slot, adapters.pairs(self._index))
            stacks.held[slot] = adapters.key
