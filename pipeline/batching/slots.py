"""Which row is in which slot, and the tensors of the slots.

A row on its way is in a slot or parked. While the same rows go on, nothing is copied; a row that comes back finds
what it had, to the last bit. Who comes and goes is decided in `denoise.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wanbatch.pipeline.batching.residuals import ResidualCache, moved
from wanbatch.pipeline.models.dit import Context, FrameTransformer
from wanbatch.pipeline.sampling.solvers import STATES
from wanbatch.pipeline.sampling.step_cache import Kind, StepCache
from wanbatch.pipeline.sampling.step_plan import StepPlan

if TYPE_CHECKING:
    from wanbatch.pipeline.batching.denoiser import Sample


@dataclass(slots=True, eq=False)
class Row:
    """A row on its way. slot: where it is; None while it is parked. parked: its part of the tensors, then."""

    sample: Sample
    course: StepPlan
    slot: int | None = None
    parked: list[Tensor] | None = None


class SlotTable:
    """The tensors of one size class, of fixed shapes, and the rows in them.

    state: float32 [slots, STATES, channels, height, width], what the solver carries.
    contexts: of each expert, the text of the slots, with the prompt first and then, under guidance, without.
    residuals: of the same sequences; differences: of the slots. tokens: of the largest evaluation.
    """

    def __init__(self, experts: Sequence[FrameTransformer], cache: StepCache, slots: int, first: Sample):
        height, width, self.guided, self.places = first.size_class
        self.experts, self.slots, self.device = experts, slots, first.start.device
        self.state = torch.zeros((slots, STATES, *first.start.shape), device=self.device)
        self.contexts: list[Context | None] = [None] * len(experts)
        self.sequences = slots * (2 if self.guided else 1)
        rows, columns = experts[0].patch
        hidden = (height // rows * (width // columns), experts[0].dim)
        self.tokens = self.sequences * hidden[0]
        self.residuals = ResidualCache(self.sequences, cache.residuals_kept, hidden, experts[0].dtype, self.device)
        kept = cache.differences_kept if self.guided else 0
        self.differences = ResidualCache(slots, kept, first.start.shape, torch.float32, self.device)
        self.rows: dict[int, Row] = {}
        # Texts whose keys and values are made together. A GPU takes as long for one as for several.
        self.group = slots if self.device.type == "cuda" else 1

    def seat(self, rows: Sequence[Row]) -> None:
        """Bring rows into slots. Those that are there stay; others are parked only for want of an empty slot."""
        coming = [row for row in rows if row.slot is None]
        taking_part = {row.slot for row in rows}
        empty = [slot for slot in range(self.slots) if slot not in self.rows]
        idle = [slot for slot in self.rows if slot not in taking_part]
        entering: dict[int, Sample] = {}
        for row, slot in zip(coming, empty + idle, strict=False):
            if slot in self.rows:
                self._park(self.rows[slot])
            row.slot, self.rows[slot] = slot, row
            if row.parked is None:
                entering[slot] = row.sample
            else:
                for part, kept in zip(self._parts(slot), row.parked, strict=True):
                    part.copy_(kept)
                row.parked = None
        self._enter(entering)

    def leave(self, row: Row) -> Tensor:
        """Free a row's slot. Returns its latent, [channels, height, width]."""
        assert row.slot is not None
        del self.rows[row.slot]
        return self.state[row.slot, 0].clone()

    def context(self, kind: Kind) -> Context:
        """The text that an evaluation sees: of all sequences, or of those with the prompt."""
        context = self.contexts[kind.expert]
        assert context is not None
        if kind.guided or not self.guided:
            return context
        count = self.slots
        return Context(context.keys[:, :count], context.values[:, :count], context.bias[:count])

    def _park(self, row: Row) -> None:
        assert row.slot is not None
        row.parked = [part.clone() for part in self._parts(row.slot)]
        del self.rows[row.slot]
        row.slot = None

    def _parts(self, slot: int) -> list[Tensor]:
        """Views of all that the tensors hold of a slot."""
        parts = self._values(slot)
        for sequence in range(slot, self.sequences, self.slots):
            for context in self.contexts:
                assert context is not None
                parts += [context.keys[:, sequence], context.values[:, sequence], context.bias[sequence]]
        return parts

    def _values(self, slot: int) -> list[Tensor]:
        """The same, without the text."""
        values = [self.state[slot], *self.differences.of(slot)]
        for sequence in range(slot, self.sequences, self.slots):
            values += self.residuals.of(sequence)
        return values

    def _enter(self, entering: dict[int, Sample]) -> None:
        """Put samples that begin into their slots."""
        texts: dict[int, Tensor] = {}
        for slot, sample in entering.items():
            for part in self._values(slot):
                part.zero_()  # what is left of the last row may be infinite, which no weight of zero would remove
            self.state[slot, 0] = sample.start
            texts[slot] = sample.prompt
            if self.guided:
                texts[self.slots + slot] = sample.negative
        for index in range(len(self.experts)):
            self._place_texts(index, texts)

    def _place_texts(self, index: int, texts: dict[int, Tensor]) -> None:
        """Put keys and values of texts into their places of an expert's batch; each distinct text is worked out once.

        They are made in groups of one size, whatever the number of texts, because the size decides the last bits.
        """
        distinct = list({id(text): text for text in texts.values()}.values())
        for first in range(0, len(distinct), self.group):
            group = distinct[first : first + self.group]
            made = self._context(index, group)
            batch = self.contexts[index]
            if batch is None:
                batch = self.contexts[index] = self._filled(made)
            numbers = {id(text): number for number, text in enumerate(group)}
            for place, text in texts.items():
                if (number := numbers.get(id(text))) is not None:
                    batch.keys[:, place], batch.values[:, place] = made.keys[:, number], made.values[:, number]
                    batch.bias[place] = made.bias[number]

    def _context(self, index: int, group: Sequence[Tensor]) -> Context:
        padded = group[0].new_zeros(self.group, self.places, group[0].shape[1])
        lengths = np.ones(self.group, dtype=np.int64)
        for number, text in enumerate(group):
            padded[number, : len(text)], lengths[number] = text, len(text)
        return self.experts[index].context(padded, moved(lengths, self.device))

    def _filled(self, made: Context) -> Context:
        """A batch for all sequences, with the first of those that were made in every place."""
        rows = self.sequences
        keys, values = (part[:, :1].repeat(1, rows, 1, 1, 1) for part in (made.keys, made.values))
        return Context(keys, values, made.bias[:1].repeat(rows, 1, 1, 1))
