"""Denoising many rows in a fixed number of slots, with continuous batching.

The model always runs on the same number of slots, whatever fills them, so that a row's values do not depend on
its neighbours: a matrix product's rounding depends on the batch's size, not on what else is in it. Each slot has
its own schedule, solver, step, guidance and text. A finished row leaves and the next one enters at once.

Rows share slots if they have one *size class*: height, width, guided or not, and length of the text. What one
evaluation runs is the same for all rows that take part in it (`step_cache.Kind`). So that a cheap step never waits
for a neighbour's full one, more rows than slots may have begun: those whose next steps are of one kind take the
slots, and others are parked meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence

import torch

from wanbatch.pipeline.batching.batch import Batch
from wanbatch.pipeline.batching.shared_clock import SharedClock
from wanbatch.pipeline.batching.slots import Row
from wanbatch.pipeline.core.backends import AnyDenoisingModel
from wanbatch.pipeline.core.samples import Denoised, Sample
from wanbatch.pipeline.sampling.evaluation_counts import EvaluationCounts
from wanbatch.pipeline.sampling.step_cache import Kind, StepCache
from wanbatch.pipeline.sampling.step_plan import StepPlan

KEPT_CLASSES = 2
MOST_BEGUN = 3  # times the slots: how many rows may have begun, so that enough of them want one kind of step


class Denoiser:
    """Denoises rows with one model.

    Args:
        experts: The transformer, or two of which the second takes noise levels below `boundary` (A14B).
        slots: Rows in each batch.
        boundary: A noise level; None for a model of one transformer.
        cache: What is left out at which step; None for nothing.
        kept: How many size classes keep their tensors for the next call; 0 if the model may move in between.
    """

    def __init__(
        self,
        experts: Sequence[AnyDenoisingModel],
        slots: int,
        boundary: float | None = None,
        cache: StepCache | None = None,
        kept: int = KEPT_CLASSES,
    ):
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}")
        self.experts, self.slots, self.boundary = tuple(experts), slots, boundary or 0.0
        self.cache = cache or StepCache(experts[0].layers)
        self.kept = kept
        self._batches: OrderedDict[tuple, Batch] = OrderedDict()  # least recently used first

    @property
    def kept_classes(self) -> int:
        """How many size classes have kept their tensors."""
        return len(self._batches)

    def forget(self) -> None:
        """Give up the tensors that are kept for the next call, and what was recorded of the model's launches."""
        self._batches.clear()

    def run(self, samples: Iterable[Sample]) -> Iterator[Denoised]:
        """Rows as they are finished, one size class after the other."""
        classes: dict[tuple, deque[Sample]] = {}
        for sample in samples:
            if sample.solution.steps == 0:
                yield Denoised(sample, sample.start, 0.0, EvaluationCounts())
            else:
                classes.setdefault(sample.size_class, deque()).append(sample)
        for waiting in classes.values():
            yield from self._run_class(waiting)

    @torch.inference_mode()
    def _run_class(self, waiting: deque[Sample]) -> Iterator[Denoised]:
        first = waiting[0]
        batch = self._batches.pop(first.size_class, None)  # one that is left in the middle does not come back
        batch = batch or Batch(self.experts, self.cache, self.slots, first, stationary=self.kept > 0)
        clock = SharedClock(waiting[0].start.device)
        rows: list[Row] = []
        while waiting or rows:
            kind, chosen = self._choose(rows, waiting)
            batch.step(kind, chosen)
            clock.count([row.sample for row in chosen], self.cache.blocks_run(kind))
            if any(row.plan.finished for row in chosen):
                rows = [row for row in rows if not row.plan.finished]
                clock.share()
                for row, latent in batch.release_finished(chosen):
                    yield Denoised(row.sample, latent, clock.take(row.sample), row.plan.counts)
                clock.restart()
        self._batches[first.size_class] = batch
        while len(self._batches) > self.kept:
            self._batches.popitem(last=False)

    def _choose(self, rows: list[Row], waiting: deque[Sample]) -> tuple[Kind, list[Row]]:
        """What to run next and for which rows: of the kind that most rows want, the oldest.

        Rows whose next kind is still on its way from the device are asked only if the others do not fill the slots,
        and a row begins only if no kind has enough rows.
        """
        chosen = self._largest([row for row in rows if row.plan.next_kind_known])
        if len(chosen) < self.slots:
            chosen = self._largest(rows)
        while len(chosen) < self.slots and waiting and len(rows) < MOST_BEGUN * self.slots:
            sample = waiting.popleft()
            rows.append(Row(sample, StepPlan(self.cache, sample.solution, sample.guided, self.boundary)))
            chosen = self._largest(rows)
        return chosen[0].plan.next_kind, chosen

    def _largest(self, rows: Iterable[Row]) -> list[Row]:
        kinds: dict[Kind, list[Row]] = {}
        for row in rows:
            kinds.setdefault(row.plan.next_kind, []).append(row)
        return max((wanting[: self.slots] for wanting in kinds.values()), key=len, default=[])
