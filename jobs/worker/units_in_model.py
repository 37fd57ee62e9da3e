"""The units that are in a worker's model: one, and those that follow it while its last images are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

from wanbatch.jobs.worker.recovery import generate_or_fail
from wanbatch.jobs.worker.unit_task import UnitTask
from wanbatch.pipeline.core.requests import Request


def generate_units(
    first: UnitTask, follow: Callable[[], UnitTask | None], left: Callable[[UnitTask], None] = lambda unit: None
) -> None:
    """Make the images of a unit, and of those that follow, until none is in the model or the run stops.

    What a unit has of the model's time is the time from one outcome to the next, for each outcome of its own.

    Args:
        first: the unit that gets the model.
        follow: gives the next unit that is prepared; None: there is none now.
        left: told of each unit of which everything is made or has failed.

    Raises:
        DeviceError: The device is in a bad state.
    """
    pipeline, device = first.context.pipeline, first.context.setup.device
    unit_of: dict[str, UnitTask] = {}  # by the ids of its images
    there: list[UnitTask] = []

    def enter(unit: UnitTask) -> list[Request]:
        requests = unit.enter_model()
        there.append(unit)
        unit_of.update((request.id, unit) for request in requests)
        if not requests:
            leave(unit)
        return requests

    def leave(unit: UnitTask) -> None:
        unit.leave_model()
        there.remove(unit)
        left(unit)

    def more() -> Sequence[Request]:
        requests: list[Request] = []
        while not requests and not first.stops and (unit := follow()) is not None:
            requests = enter(unit)
        return requests

    last = perf_counter()
    for outcome in generate_or_fail(pipeline, device, enter(first), more if pipeline.streams else None):
        unit, before, last = unit_of.pop(outcome.request.id), last, perf_counter()
        unit.take(outcome, last - before)
        if unit.all_taken:
            leave(unit)
        if first.stops:
            break
    for unit in tuple(there):
        leave(unit)


class ModelProgress:
    """Which units a worker has in the model, how many images of each are done (made, or have failed), and made."""

    def __init__(self) -> None:
        self._done: dict[int, int] = {}  # by unit, in the order in which they entered
        self._made: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._left: set[int] = set()
        self.oldest = (-1, 0)
        self.waiting = 0
        self.has_made = False

    def note(self, unit: int, size: int, done: int, made: int) -> None:
        """Note that so many of a unit's images are done, which are made or have failed, and so many are made."""
        self._done[unit], self._made[unit], self._sizes[unit] = done, made, size
        self.has_made |= made > 0
        self._update()

    def left(self, unit: int) -> None:
        """Note that a unit has left the model."""
        self._left.add(unit)
        self._update()

    def _update(self) -> None:
        """What another thread may read: the oldest unit that is in the model or, if none is, the last one."""
        there = [unit for unit in self._done if unit not in self._left]
        for unit in list(self._done)[:-1]:
            if unit in self._left:
                del self._done[unit], self._made[unit], self._sizes[unit]
                self._left.discard(unit)
        oldest = there[0] if there else next(reversed(self._done))
        self.waiting = sum(self._sizes[unit] - self._done[unit] for unit in there)
        self.oldest = oldest, self._made[oldest]
