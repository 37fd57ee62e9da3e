"""Denoising many rows in a fixed number of slots, with continuous batching.

The model always runs on the same number of slots, whatever fills them, so that a row's values do not depend on
its neighbours: a matrix product's rounding depends on the batch's size, not on what else is in it. Each slot has
its own schedule, solver, step, guidance and text. A finished row leaves and the next one enters at once.

Rows share slots if they have one *size class*: height, width, guided or not, and length of the text. What one
evaluation runs is the same for all rows that take part in it (`step_cache.Kind`). So that a cheap step never waits
for a neighbour's full one, more rows than slots may have begun: those whose next steps are of one kind take the
slots, and others are parked meanwhile.

Each expert of a model of two (A14B) has slots of its own. A row that passes the boundary between their noise levels
leaves the slots of the first and waits for those of the second, with nothing but what its solver carries. Where both
experts are on the device, rows of the second go first as soon as they fill its slots. Where there is room for one at
a time, all rows go through the first and then all through the second, so that weights move twice for all the rows
that `run` was given.

A size class that has too few rows to fill the slots waits, as far as another can fill them, for rows that come
later: `run` asks for more before it runs an evaluation with empty slots, and before the last evaluation of a row that
nobody waits for.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakSet

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

HaveExpert = Callable[[int], None]
"""Has an expert, 0 or 1, on the device, perhaps in place of the other."""


class _Key(NamedTuple):
    """What rows that share slots have in common: their size class, and the expert of their next evaluation."""

    size_class: tuple
    expert: int


@dataclass(slots=True, eq=False)
class _SizeClass:
    """The rows of one size class and expert that are not finished, and their slots once one has begun."""

    key: _Key
    waiting: deque[Row] = field(default_factory=deque)
    rows: list[Row] = field(default_factory=list)
    batch: Batch | None = None

    @property
    def size(self) -> int:
        return len(self.waiting) + len(self.rows)


_Classes = dict[_Key, _SizeClass]


class Denoiser:
    """Denoises rows with one model.

    Args:
        experts: The transformer, or two of which the second takes noise levels below `boundary` (A14B).
        slots: Rows in each batch.
        boundary: A noise level; None for a model of one transformer.
        cache: What is left out at which step; None for nothing.
        kept: How many size classes keep their tensors for the next call; 0 if the model may move in between.
        have_expert: Called before an expert works that did not work last; None: all are on the device.
        take_turns: Whether the device has room for one expert at a time.
    """

    def __init__(
        self,
        experts: Sequence[AnyDenoisingModel],
        slots: int,
        boundary: float | None = None,
        cache: StepCache | None = None,
        kept: int = KEPT_CLASSES,
        have_expert: HaveExpert | None = None,
        take_turns: bool = False,
    ):
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}")
        self.experts, self.slots, self.boundary = tuple(experts), slots, boundary or 0.0
        self.cache = cache or StepCache(experts[0].layers)
        self.kept = kept * len(self.experts)
        self._have_expert, self._take_turns = have_expert, take_turns and len(self.experts) > 1
        self._present: int | None = None  # the expert that worked last
        self._enough = slots * MOST_BEGUN if self.cache.partial else slots  # rows that fill the slots for certain
        self._batches: OrderedDict[_Key, Batch] = OrderedDict()  # least recently used first
        self._open: WeakSet[Batch] = WeakSet()  # all that have tensors

    @property
    def kept_classes(self) -> int:
        """How many size classes have kept their tensors, each for as many experts as it has been at."""
        return len(self._batches)

    def forget(self) -> None:
        """Give up the tensors that are kept for the next call, and what was recorded of the model's launches."""
        self._batches.clear()
        for batch in self._open:
            batch.forget_launches()

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
            more: Asked for further rows whenever the slots cannot be filled, or soon cannot; None: there are none.
        """
        classes: _Classes = {}
        yield _without_steps(self._enter(samples, classes))
        clock: SharedClock | None = None
        current: _SizeClass | None = None
        self._present = None
        while True:
            current = self._next_class(classes, current)
            if more is not None and self._wants_more(current, classes):
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
            finished = self._evaluate(current, clock, classes)
            yield finished
            if finished:
                clock.restart()
            if not current.size:
                self._keep(classes.pop(current.key))

    def _wants_more(self, current: _SizeClass | None, classes: _Classes) -> bool:
        """Whether to ask for further rows: the slots cannot be filled, or a row is about to leave and none waits.

        The latter is earlier than they are needed. To make rows ready takes the host a while, in which a GPU that was
        asked for evaluations has more to do than one that was asked for the pictures of the rows that left.
        """
        if current is None or current.size < self._enough:
            return True
        leaving = any(row.plan.next_is_last for row in current.rows)
        return leaving and not any(one.waiting for one in classes.values())

    def _enter(self, samples: Iterable[Sample], classes: _Classes) -> Iterator[Sample]:
        """Put rows into their size classes. Yields those that need no evaluation."""
        for sample in samples:
            if sample.solution.steps == 0:
                yield sample
            else:
                plan = StepPlan(self.cache, sample.solution, sample.guided, self.boundary)
                _wait(Row(sample, plan), classes)

    def _next_class(self, classes: _Classes, current: _SizeClass | None) -> _SizeClass | None:
        """The size class to go on with: the same while it fills the slots, else one that does, else the largest.

        Only a few have tensors of their own at a time.
        """
        if current is not None and current.size >= self._enough:
            second = classes.get(_Key(current.key.size_class, 1))
            finishing = not self._take_turns and self.kept and second is not None and second.size >= self._enough
            return second if finishing else current
        begun = [one for one in classes.values() if one.batch]
        allowed = begun if len(begun) >= max(1, self.kept) else list(classes.values())
        if current is not None and current.size:
            allowed = [current, *(one for one in allowed if one is not current)]
        return max(allowed, key=self._rank, default=None)

    def _rank(self, one: _SizeClass) -> tuple[bool, int]:
        """How much a size class is to be preferred: above all one whose expert need not come first."""
        present = self._take_turns and one.key.expert == (self._present or 0)
        return present, min(one.size, self._enough)

    def _evaluate(self, current: _SizeClass, clock: SharedClock, classes: _Classes) -> list[Denoised]:
        """Run one evaluation for rows of a size class. Returns those that it finishes."""
        expert = current.key.expert
        if self._have_expert is not None and expert != self._present:
            self._have_expert(expert)
        self._present = expert
        if current.batch is None:
            current.batch = self._batches.pop(current.key, None)  # one that is left in the middle does not come back
            open_classes = sum(1 for one in classes.values() if one.batch)
            while self._batches and len(self._batches) + open_classes > self.kept:
                self._batches.popitem(last=False)
        if current.batch is None:
            first, kept = current.waiting[0].sample, self.kept > 0
            current.batch = Batch(self.experts[expert], expert, self.cache, self.slots, first, stationary=kept)
            self._open.add(current.batch)
        kind, chosen = self._choose(current.rows, current.waiting)
        current.batch.step(kind, chosen)
        clock.count([row.sample for row in chosen], self.cache.blocks_run(kind), self.slots)
        finished = [row for row in chosen if row.plan.finished]
        passing = [row for row in chosen if not row.plan.finished and row.plan.expert != expert]
        if finished or passing:
            leaving = {*finished, *passing}
            current.rows = [row for row in current.rows if row not in leaving]
        for row in passing:
            state = current.batch.release(row)
            row.state = state.cpu() if self._take_turns else state  # the other rows may be many
            _wait(row, classes)
        if finished:
            clock.share()
        return [
            Denoised(row.sample, current.batch.release(row)[0].clone(), *clock.take(row.sample), row.plan.counts)
            for row in finished
        ]

    def _keep(self, finished: _SizeClass) -> None:
        """Keep the tensors of a size class for the rows that may come."""
        if finished.batch is not None:
            self._batches[finished.key] = finished.batch
        while len(self._batches) > self.kept:
            self._batches.popitem(last=False)

    def _choose(self, rows: list[Row], waiting: deque[Row]) -> tuple[Kind, list[Row]]:
        """What to run next and for which rows: of the kind that most rows want, the oldest.

        Rows whose next kind is still on its way from the device are asked only if the others do not fill the slots,
        and a row begins only if no kind has enough rows.
        """
        chosen = self._largest([row for row in rows if row.plan.next_kind_known])
        if len(chosen) < self.slots:
            chosen = self._largest(rows)
        while len(chosen) < self.slots and waiting and len(rows) < MOST_BEGUN * self.slots:
            rows.append(waiting.popleft())
            chosen = self._largest(rows)
        return chosen[0].plan.next_kind, chosen

    def _largest(self, rows: Iterable[Row]) -> list[Row]:
        kinds: dict[Kind, list[Row]] = {}
        for row in rows:
            kinds.setdefault(row.plan.next_kind, []).append(row)
        return max((wanting[: self.slots] for wanting in kinds.values()), key=len, default=[])


def _wait(row: Row, classes: _Classes) -> None:
    """Put a row to those that wait for the slots of its size class and expert."""
    key = _Key(row.sample.size_class, row.plan.expert)
    classes.setdefault(key, _SizeClass(key)).waiting.append(row)


def _without_steps(samples: Iterable[Sample]) -> list[Denoised]:
    """Rows that need no evaluation, as they are."""
    return [Denoised(sample, sample.start, (), 0.0, EvaluationCounts()) for sample in samples]


def _device_of(current: _SizeClass) -> torch.device:
    first = current.waiting[0] if current.waiting else current.rows[0]
    return first.sample.start.device
