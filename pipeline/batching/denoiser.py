"""Denoising many rows in a fixed number of slots, with continuous batching.

The model always runs on the same number of slots, whatever fills them, so that a row's values do not depend on
its neighbours: a matrix product's rounding depends on the batch's size, not on what else is in it. Each slot has
its own schedule, solver, step, guidance and text. A finished row leaves and the next one enters at once.

Rows share slots if they have one *size class*: height, width, guided or not, and length of the text. What one
evaluation runs is the same for all rows that take part in it (`step_cache.Kind`). So that a cheap step never waits
for a neighbour's full one, more rows than slots may have begun: those whose next steps are of one kind take the
slots, and others are parked meanwhile.

A size class that has too few rows to fill the slots waits, as far as another can fill them, for rows that come
later: `run` asks for more before it runs an evaluation with empty slots.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

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

MoreSamples = Callable[[], Iterable[Sample] | None]
"""Gives rows that came since, which may be made ready only while they are taken; None: there are none now."""


@dataclass(slots=True, eq=False)
class _SizeClass:
    """The rows of one size class that are not finished, and their slots once one has begun."""

    key: tuple
    waiting: deque[Sample] = field(default_factory=deque)
    rows: list[Row] = field(default_factory=list)
    batch: Batch | None = None

    @property
    def size(self) -> int:
        return len(self.waiting) + len(self.rows)


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
        kinds = len(self.experts) > 1 or self.cache.partial
        self._enough = slots * MOST_BEGUN if kinds else slots  # rows of a class that fill the slots for certain
        self._batches: OrderedDict[tuple, Batch] = OrderedDict()  # least recently used first

    @property
    def kept_classes(self) -> int:
        """How many size classes have kept their tensors."""
        return len(self._batches)

    def forget(self) -> None:
        """Give up the tensors that are kept for the next call, and what was recorded of the model's launches."""
        self._batches.clear()

    def run(self, samples: Iterable[Sample], more: MoreSamples | None = None) -> Iterator[Denoised]:
        """Rows as they are finished; see `evaluations`."""
        for finished in self.evaluations(samples, more):
            yield from finished

    @torch.inference_mode()
    def evaluations(self, samples: Iterable[Sample], more: MoreSamples | None = None) -> Iterator[Sequence[Denoised]]:
        """After each evaluation the rows that it finishes, most often none.

        A GPU has been asked for what is handed over, and need not have done it yet.

        Args:
            samples: The rows to begin with.
            more: Asked for further rows whenever the slots cannot be filled; None: there are no further ones.
        """
        classes: dict[tuple, _SizeClass] = {}
        yield _without_steps(self._enter(samples, classes))
        clock: SharedClock | None = None
        current: _SizeClass | None = None
        while True:
            current = self._next_class(classes, current)
            if more is not None and (current is None or current.size < self._enough):
                coming = more()
                if coming is not None:
                    if clock is not None:
                        clock.share()
                    yield _without_steps(self._enter(coming, classes))
                    if clock is not None:
                        clock.restart()
                    continue
            if current is None:
                return
            clock = clock or SharedClock(_device_of(current))
            finished = self._evaluate(current, clock, open_classes=sum(1 for one in classes.values() if one.batch))
            yield finished
            if finished:
                clock.restart()
            if not current.size:
                self._keep(classes.pop(current.key))

    def _enter(self, samples: Iterable[Sample], classes: dict[tuple, _SizeClass]) -> Iterator[Sample]:
        """Put rows into their size classes. Yields those that need no evaluation."""
        for sample in samples:
            if sample.solution.steps == 0:
                yield sample
            else:
                key = sample.size_class
                classes.setdefault(key, _SizeClass(key)).waiting.append(sample)

    def _next_class(self, classes: dict[tuple, _SizeClass], current: _SizeClass | None) -> _SizeClass | None:
        """The size class to go on with: the same while it fills the slots, else one that does, else the largest.

        Only a few have tensors of their own at a time.
        """
        if current is not None and current.size >= self._enough:
            return current
        begun = [one for one in classes.values() if one.batch]
        allowed = begun if len(begun) >= max(1, self.kept) else list(classes.values())
        if current is not None and current.size:
            allowed = [current, *(one for one in allowed if one is not current)]
        return max(allowed, key=lambda one: min(one.size, self._enough), default=None)

    def _evaluate(self, current: _SizeClass, clock: SharedClock, open_classes: int) -> list[Denoised]:
        """Run one evaluation for rows of a size class. Returns those that it finishes."""
        if current.batch is None:
            current.batch = self._batches.pop(current.key, None)  # one that is left in the middle does not come back
            while self._batches and len(self._batches) + open_classes > self.kept:
                self._batches.popitem(last=False)
        if current.batch is None:
            first = current.waiting[0]
            current.batch = Batch(self.experts, self.cache, self.slots, first, stationary=self.kept > 0)
        kind, chosen = self._choose(current.rows, current.waiting)
        current.batch.step(kind, chosen)
        clock.count([row.sample for row in chosen], self.cache.blocks_run(kind), self.slots)
        if not any(row.plan.finished for row in chosen):
            return []
        current.rows = [row for row in current.rows if not row.plan.finished]
        clock.share()
        return [
            Denoised(row.sample, latent, *clock.take(row.sample), row.plan.counts)
            for row, latent in current.batch.release_finished(chosen)
        ]

    def _keep(self, finished: _SizeClass) -> None:
        """Keep the tensors of a size class for the rows that may come."""
        if finished.batch is not None:
            self._batches[finished.key] = finished.batch
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


def _without_steps(samples: Iterable[Sample]) -> list[Denoised]:
    """Rows that need no evaluation, as they are."""
    return [Denoised(sample, sample.start, (), 0.0, EvaluationCounts()) for sample in samples]


def _device_of(current: _SizeClass) -> torch.device:
    first = current.waiting[0] if current.waiting else current.rows[0].sample
    return first.start.device
