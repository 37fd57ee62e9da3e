"""The units that one worker holds, and what it last reported of them. Pure: no Ray, no clock of its own.

A worker holds several units: one that the model makes, or a few of which some images are left there; one whose
sources are read; some that are written. When it dies, the first unit that had the model, as far as it reported,
counts as the one it was lost on, though that may be wrong: `retry_policy.py` judges no unit that was not alone.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

from wanbatch.jobs.planning.slot_turns import MAX_IN_MODEL
from wanbatch.jobs.planning.units import Unit
from wanbatch.jobs.worker.messages import UnitReport, WorkerStatus

MAX_WRITING = 2  # units that are being written before another is sent; with more, the disk holds the model back


@dataclass(slots=True, eq=False)
class _Held:
    unit: Unit
    deadline: float  # seconds from when it gets the model until it is back, with what other units take meanwhile
    unit_seconds: float  # the same for the unit alone
    model_since: float | None = None  # monotonic: when it got the model


class UnitsInHand:
    """The units of a worker, in the order in which it works on them; also those that are still to be sent.

    Times are those of a monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self._held: deque[_Held] = deque()
        self._generated = 0  # the first ones: they have left the model and are not back yet
        self._entered = 0  # the first ones: the model has or had images of them
        self._in_model = (-1, 0)  # unit number, its images made

    def __bool__(self) -> bool:
        return bool(self._held)

    @property
    def count(self) -> int:
        """How many units there are."""
        return len(self._held)

    @property
    def have_room(self) -> bool:
        """Whether another unit may be added to those that are here, to be made ready while the model has others.

        None is added to no unit, and none to an isolated one.
        """
        if not self._held or self._held[0].unit.isolated:
            return False
        entered = max(self._entered, self._generated + 1)
        few_in_model = len(self._held) - self._generated <= MAX_IN_MODEL
        return entered >= len(self._held) and few_in_model and self._generated <= MAX_WRITING

    @property
    def first(self) -> Unit:
        """The unit that comes back next."""
        return self._held[0].unit

    @property
    def in_model(self) -> Unit | None:
        """The unit that has the model, as far as the worker reported."""
        return self._held[self._generated].unit if self._generated < len(self._held) else None

    @property
    def images_made(self) -> int:
        """How many images of these units are made, as of the last report."""
        made = sum(held.unit.size for held in itertools.islice(self._held, self._generated))
        unit, images = self._in_model
        if (current := self.in_model) is not None and current.number == unit:
            made += images
        return made

    def add(self, unit: Unit, deadline: float, now: float) -> None:
        """Add a unit. deadline: seconds that it may take from when it gets the model."""
        self._held.append(_Held(unit, deadline, deadline))
        self._start_clock(now)

    def update(self, status: WorkerStatus, now: float) -> list[tuple[Unit, UnitReport]]:
        """Take over what the worker reports. Returns the units that came back, and the reports of them."""
        entered = max(1, self._entered - len(status.reports))
        finished = [(self._held.popleft().unit, report) for report in status.reports]
        for index in range(entered, min(status.entered, len(self._held))):
            for earlier in range(status.generated, index):
                self._held[earlier].deadline += self._held[index].unit_seconds
        self._generated, self._entered, self._in_model = status.generated, status.entered, status.in_model
        self._start_clock(now)
        return finished

    def overdue(self, now: float) -> tuple[Unit, float] | None:
        """The first unit that takes longer than its deadline, and that deadline in seconds."""
        for held in self._held:
            if held.model_since is not None and now - held.model_since > held.deadline:
                return held.unit, held.deadline
        return None

    def take_all(self) -> list[Unit]:
        """Take the units out of the hands of a worker that is lost."""
        units = [held.unit for held in self._held]
        self._held.clear()
        self._generated, self._entered, self._in_model = 0, 0, (-1, 0)
        return units

    def _start_clock(self, now: float) -> None:
        """The first unit that has not left the model has it: from now on, if it had not."""
        if self._generated < len(self._held) and self._held[self._generated].model_since is None:
            self._held[self._generated].model_since = now
