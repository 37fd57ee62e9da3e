"""Which row is in which slot, and the tensors of the slots.

A row that was begun is in a slot or parked. While the same rows go on, nothing is copied; a row that comes back finds
what it had, to the last bit. Who comes and goes is decided in `denoiser.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wanbatch.pipeline.batching.adapter_table import AdapterTable, PromptOfRow
from wanbatch.pipeline.batching.regions import Regions
from wanbatch.pipeline.batching.residuals import ResidualCache
from wanbatch.pipeline.core.backends import AnyDenoisingModel, TextContext
from wanbatch.pipeline.core.device import to_device
from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.core.samples import Sample
from wanbatch.pipeline.sampling.solvers import STATES
from wanbatch.pipeline.sampling.step_cache import Kind, StepCache
from wanbatch.pipeline.sampling.step_plan import StepPlan


@dataclass(slots=True, eq=False)
class Row:
    """A row and its way through its schedule.

    Attributes:
        sample: What is asked for.
        plan: The evaluations that it has made, and the next one.
        state: What its solver carries, float32 [STATES, channels, height, width], of a row that goes on in the slots
            of another expert; None: it begins at its start, or is in a slot.
    """

    sample: Sample
    plan: StepPlan
    state: Tensor | None = None


class SlotTable:
    """The tensors of one size class, of fixed shapes, and the rows in them, all of which one expert evaluates.

    With guidance a slot has two sequences: number `slot` with the prompt, and `slots + slot` without.

    Args:
        model: The transformer. It must be where the rows are whenever rows are assigned.
        expert: Its number, 0 or 1.
        cache: What the rows may skip, which decides how much is kept of each.
        slots: How many rows an evaluation takes.
        first: A row of the size class.

    Attributes:
        state: Float32 [slots, STATES, channels, height, width], what the solver carries.
        residuals: What the cached blocks added, of each sequence.
        differences: What guidance is made of, of each slot.
        regions: Where each row starts later than at its first noise level; None if no row of the class does.
        rows: The row in each slot that has one.
        guided: Whether there are sequences without the prompt.
        sequences: How many sequences an evaluation has at most.
        tokens: How many tokens an evaluation has at most.
    """

    def __init__(self, model: AnyDenoisingModel, expert: int, cache: StepCache, slots: int, first: Sample):
        height, width, self.guided, self._text_length, mapped, rank = first.size_class
        self._model, self._slots, self._device = model, slots, first.start.device
        self.state = torch.zeros((slots, STATES, *first.start.shape), device=self._device)
        shape = (slots, *first.start.shape) if mapped else None
        self.regions = None if shape is None else Regions.empty(shape, self._device)
        self._context: TextContext | None = None
        self.sequences = slots * (2 if self.guided else 1)
        rows, columns = model.patch
        hidden = (height // rows * (width // columns), model.dim)
        self.tokens = self.sequences * hidden[0]
        self.residuals = ResidualCache(self.sequences, cache.residuals_kept, hidden, model.dtype, self._device)
        kept = cache.differences_kept if self.guided else 0
        self.differences = ResidualCache(slots, kept, first.start.shape, torch.float32, self._device)
        self.rows: dict[int, Row] = {}
        self._slot_of: dict[Row, int] = {}
        self._parked: dict[Row, list[Tensor]] = {}  # copies of all that the tensors held of each
        # Texts whose keys and values are made together. A GPU takes as long for one as for several.
        self._texts_at_once = slots if self._device.type == "cuda" else 1
        self._adapters = AdapterTable(model, expert, slots, self._texts_at_once, rank) if rank else None

    def assign(self, rows: Sequence[Row]) -> dict[int, Row]:
        """Bring rows into slots. Those that are there stay; others are parked only if no slot is empty.

        Returns:
            These rows by their slots.
        """
        coming = [row for row in rows if row not in self._slot_of]
        taking_part = {self._slot_of[row] for row in rows if row in self._slot_of}
        empty = [slot for slot in range(self._slots) if slot not in self.rows]
        idle = [slot for slot in self.rows if slot not in taking_part]
        entering: dict[int, Row] = {}
        if self._adapters is not None:
            empty = self._adapters.arranged([row.sample for row in coming], empty)
        for row, slot in zip(coming, empty + idle, strict=False):
            if slot in self.rows:
                self._park(slot)
            self.rows[slot], self._slot_of[row] = row, slot
            if row in self._parked:
                for view, kept in zip(self._views(slot), self._parked.pop(row), strict=True):
                    view.copy_(kept)
            else:
                entering[slot] = row
        if self._adapters is not None:
            for row in rows:  # other batches may have been at work in between
                self._adapters.enter(self._slot_of[row], row.sample)
        self._enter(entering)
        return {self._slot_of[row]: row for row in rows}

    def update(self, state: Tensor, taking_part: Collection[int]) -> None:
        """Take over the next state of these slots; those of other rows stay as they are."""
        if len(taking_part) < len(self.rows):
            mask = np.array([slot in taking_part for slot in range(self._slots)])
            state = torch.where(to_device(mask, self._device)[:, None, None, None, None], state, self.state)
        self.state = state

    def release(self, row: Row) -> Tensor:
        """Free a row's slot. Returns what its solver carries, [STATES, channels, height, width]; the latent first."""
        slot = self._slot_of.pop(row)
        del self.rows[slot]
        return self.state[slot].clone()

    def context(self, kind: Kind) -> TextContext:
        """The text that an evaluation sees: of all sequences, or of those with the prompt."""
        assert self._context is not None
        return self._context if kind.guided or not self.guided else self._context.first(self._slots)

    def _park(self, slot: int) -> None:
        row = self.rows.pop(slot)
        self._parked[row] = [view.clone() for view in self._views(slot)]
        del self._slot_of[row]

    def _views(self, slot: int) -> list[Tensor]:
        """Views of all that the tensors hold of a slot."""
        assert self._context is not None
        views = self._values(slot)
        for sequence in range(slot, self.sequences, self._slots):
            views += self._context.views(sequence)
        return views

    def _values(self, slot: int) -> list[Tensor]:
        """The same, without the text."""
        values = [self.state[slot], *self.differences.views(slot)]
        if self.regions is not None:
            values += self.regions.views(slot)
        for sequence in range(slot, self.sequences, self._slots):
            values += self.residuals.views(sequence)
        return values

    def _enter(self, entering: dict[int, Row]) -> None:
        """Put rows that begin, or come from another expert, into their slots."""
        texts: dict[int, PromptOfRow] = {}
        for slot, row in entering.items():
            sample = row.sample
            for value in self._values(slot):
                value.zero_()  # what is left of the last row may be infinite, which no weight of zero would remove
            if row.state is None:
                self.state[slot, 0] = sample.start
            else:
                self.state[slot].copy_(row.state)
                row.state = None
            if self.regions is not None and sample.region is not None:
                self.regions.enter(slot, sample.region)
            texts[slot] = PromptOfRow(sample.prompt, sample.adapters)
            if self.guided:
                texts[self._slots + slot] = PromptOfRow(sample.negative, sample.adapters)
        self._set_texts(texts)
        if self._adapters is not None:
            self._adapters.entered([row.sample for row in entering.values()])

    def _set_texts(self, texts: dict[int, PromptOfRow]) -> None:
        """Set the texts of sequences; each is worked out once for the same adapters.

        They are made in groups of one size, whatever the number of texts, because the size decides the last bits.
        """
        distinct = list({text.key: text for text in texts.values()}.values())
        for first in range(0, len(distinct), self._texts_at_once):
            group = distinct[first : first + self._texts_at_once]
            made = self._context_of(group)
            context = self._context
            if context is None:
                context = made.repeated(self.sequences)
                if self._adapters is not None:
                    context = context.with_adapters(self._adapters.stacks)
                self._context = context
            numbers = {text.key: number for number, text in enumerate(group)}
            for sequence, text in texts.items():
                if (number := numbers.get(text.key)) is not None:
                    for ours, theirs in zip(context.views(sequence), made.views(number), strict=True):
                        ours.copy_(theirs)

    def _context_of(self, group: Sequence[PromptOfRow]) -> TextContext:
        first = group[0].embedding
        padded = first.new_zeros(self._texts_at_once, self._text_length, first.shape[1])
        lengths = np.ones(self._texts_at_once, dtype=np.int64)
        for number, text in enumerate(group):
            padded[number, : len(text.embedding)], lengths[number] = text.embedding, len(text.embedding)
        adapters = () if self._adapters is None else (self._adapters.of_texts(group),)
        return self._model.context(padded, to_device(lengths, self._device), TEXT_TOKENS, *adapters)
