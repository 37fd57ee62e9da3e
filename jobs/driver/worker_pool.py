"""Worker processes on Ray: starting, feeding, watching and replacing them.

A place is where one worker stands. It is replaced, after a pause that grows, when its process dies, when its
node is lost, when its device breaks, or when a unit takes longer than its deadline: a stopped process says
nothing, so only time can tell. What happens to the units that were in its hands is `dispatch.py`'s to decide.

A worker has several units in hand: one that the model makes, one whose sources are read, some that are written. It
is sent new ones with a call that comes back when there is something to tell, or after a while; it has at most one
such call at a time. When it dies, the unit that had the model, as far as it told, counts as the one it was lost on,
though that may be wrong: `backlog.py` judges none that was not alone.
"""

from __future__ import annotations

import itertools
import pickle
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray

from wanbatch.errors import DeviceError, MachineryError
from wanbatch.jobs.driver.ray_errors import WorkerGone, ray_troubles, result_of
from wanbatch.jobs.driver.ray_health import RayHealth
from wanbatch.jobs.planning.plan import Task
from wanbatch.jobs.worker.actor import Started, UnitReport, Worker, WorkerSetup, WorkerStatus

TO_MAKE = 2  # units that a worker has still to make: one that has the model and one that is made ready
MADE = 2  # units on top of these that it is still writing; with more, the disk holds the model back
MAX_FAILED_STARTS = 3  # of every place, in a row, before the run is given up
START_SECONDS = 1800.0  # before a worker that still loads, or has found no room on the cluster, counts as failed
LONGEST_PAUSE = 30.0  # seconds before a worker is replaced
PATIENCE = 1.0  # seconds before a worker with nothing to tell says how far it is; longer with many workers:
NOTHING_TOLD = 64  # such answers a second, of all workers together


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """Images that are made, written and committed together. places: theirs in the plan. attempt: from 1.

    suspect, strikes, control: see `backlog.py`.
    """

    number: int
    places: np.ndarray
    attempt: int = 1
    strikes: int = 0
    suspect: bool = False
    control: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class UnitFinished:
    """A unit that came back."""

    unit: Unit
    worker: int
    report: UnitReport


@dataclass(frozen=True, slots=True, eq=False)
class UnitLost:
    """A unit that did not come back. first: the worker was lost on it, as far as can be known."""

    unit: Unit
    worker: int
    cause: str
    first: bool


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker that has loaded the model and compiled what it could know of."""

    worker: int
    load_seconds: float
    warm_up_seconds: float


Event = UnitFinished | UnitLost | WorkerReady


@dataclass(slots=True, eq=False)
class _Given:
    unit: Unit
    deadline: float  # seconds from when it gets the model until it is back
    turned: float | None = None  # monotonic: when it got the model


@dataclass(slots=True, eq=False)
class _Place:
    number: int
    actor: Any = None
    loading: ray.ObjectRef | None = None
    call: ray.ObjectRef | None = None  # an exchange
    spoken: float = 0.0  # monotonic: when it was sent or, if it has been, answered
    to_send: list[Task] = field(default_factory=list)  # by the next exchange
    in_hand: deque[_Given] = field(
        default_factory=deque
    )  # in the order of the worker's work; also what is to be sent
    made: int = 0  # of these, the first ones, are made and not back yet
    making: tuple[int, int] = (-1, 0)  # (unit, its images made)
    loading_since: float = 0.0  # monotonic
    start_at: float = 0.0  # monotonic: when a new worker may be started
    trusted: bool = False  # this worker has finished a unit
    failures: int = 0  # in a row, without a finished unit
    failed_starts: int = 0  # in a row

    @property
    def ready(self) -> bool:
        return self.actor is not None and self.loading is None

    @property
    def has_room(self) -> bool:
        """Whether the worker is at work and may have another unit, too."""
        if not (self.trusted and self.in_hand) or self.in_hand[0].unit.suspect:
            return False
        return len(self.in_hand) - self.made < TO_MAKE and len(self.in_hand) < TO_MAKE + MADE

    @property
    def in_model(self) -> _Given | None:
        """What the model has, as far as the worker told."""
        return self.in_hand[self.made] if self.made < len(self.in_hand) else None

    def turn(self) -> None:
        """The first unit that is not made has the model, from now on if it had not."""
        if (current := self.in_model) is not None and current.turned is None:
            current.turned = time.monotonic()


class WorkerPool:
    """The workers.

    load: what they build their pipeline with instead of `Wan.load`; for tests of faults.
    """

    def __init__(self, setup: WorkerSetup, count: int, load: Callable | None = None):
        options: dict[str, Any] = {"num_cpus": 0, "num_gpus": 1 if setup.device == "cuda" else 0}
        options |= {"max_restarts": 0, "max_task_retries": 0}
        self._class: Any = ray.remote(**options)(Worker)
        self._setup, self._load = setup, load
        self._pulse = RayHealth()
        self._places = [_Place(number) for number in range(count)]
        self._patience = max(PATIENCE, count / NOTHING_TOLD)
        self._why = ""  # the last worker died while it loaded
        for place in self._places:
            self._start(place)

    @property
    def busy(self) -> bool:
        """Whether any unit is in a worker's hands."""
        return any(place.in_hand for place in self._places)

    @property
    def size(self) -> int:
        """Places for workers."""
        return len(self._places)

    @property
    def any_ready(self) -> bool:
        return any(place.ready for place in self._places)

    def idle(self) -> list[tuple[int, bool]]:
        """(place, whether its worker has finished something) of each worker with nothing in hand."""
        return [(place.number, place.trusted) for place in self._places if place.ready and not place.in_hand]

    def with_room(self) -> list[int]:
        """Places whose workers are at work and may get another unit for later: trusted ones, not on a suspect."""
        return [place.number for place in self._places if place.has_room]

    def give(self, number: int, unit: Unit, task: Task, deadline: float) -> None:
        """Hand a unit to a worker; it goes out with `send`. deadline: seconds that it may work on it."""
        place = self._places[number]
        place.to_send.append(task)
        place.in_hand.append(_Given(unit, deadline))
        place.turn()

    def send(self) -> None:
        """Send what was given, and ask each worker with something in hand what there is to tell."""
        with ray_troubles():
            for place in self._places:
                if place.in_hand and place.call is None:
                    place.call = place.actor.exchange.remote(pickle.dumps(place.to_send, protocol=5), self._patience)
                    place.spoken = time.monotonic()
                    place.to_send.clear()

    def poll(self, timeout: float) -> list[Event]:
        """Send, and tell what has happened; waits at most `timeout` seconds for something to.

        Raises the error of a worker that fails for a reason of its own (a full disk, a broken model, a bug), and
        MachineryError when no place is left that can start a worker.
        """
        with ray_troubles():
            self._pulse.require()
            self._start_due()
            self.send()
            events: list[Event] = []
            for place, ref in self._wait(timeout):
                events += self._loaded(place, ref) if place.loading is not None else self._told(place, ref)
            for place in self._places:
                events += self._overdue(place)
        if all(place.failed_starts >= MAX_FAILED_STARTS for place in self._places):
            raise MachineryError(
                f"each worker died while it loaded the model, of too little memory perhaps: {self._why}"
            )
        return events

    def made_in_hand(self) -> int:
        """Images of units that are still in hand, as of a moment ago."""
        counted = 0
        for place in self._places:
            counted += sum(len(given.unit.places) for given in itertools.islice(place.in_hand, place.made))
            unit, images = place.making
            if (current := place.in_model) is not None and current.unit.number == unit:
                counted += images
        return counted

    def close(self) -> None:
        """End the workers, whatever they do."""
        for place in self._places:
            if place.actor is not None:
                ray.kill(place.actor)

    # ---- one place -------------------------------------------------------------------------------------------

    def _start(self, place: _Place) -> None:
        arguments = (self._setup, f"worker-{place.number}") + (() if self._load is None else (self._load,))
        place.actor = self._class.remote(*arguments)
        place.loading = place.actor.ready.remote()
        place.loading_since = time.monotonic()

    def _start_due(self) -> None:
        for place in self._places:
            if place.actor is None and time.monotonic() >= place.start_at:
                self._start(place)

    def _loaded(self, place: _Place, ref: ray.ObjectRef) -> list[Event]:
        place.loading = None
        try:
            started: Started = result_of(ref)
        except (WorkerGone, DeviceError) as error:
            self._failed_to_start(place, str(error))
            return []
        place.failed_starts = 0
        return [WorkerReady(place.number, started.load_seconds, started.warm_up_seconds)]

    def _failed_to_start(self, place: _Place, why: str) -> None:
        self._why = why
        self._vacate(place)
        place.failed_starts += 1

    def _told(self, place: _Place, ref: ray.ObjectRef) -> list[Event]:
        place.call = None
        try:
            told: WorkerStatus = pickle.loads(result_of(ref))
        except WorkerGone as error:
            return self._lose(place, place.in_model or place.in_hand[0], str(error))
        except DeviceError as error:  # told when all before it is
            return self._lose(place, place.in_hand[0], str(error))
        finished: list[Event] = [
            UnitFinished(place.in_hand.popleft().unit, place.number, report) for report in told.reports
        ]
        if finished:
            place.failures, place.trusted = 0, True
        place.made, place.making, place.spoken = told.made, told.making, time.monotonic()
        place.turn()
        return finished

    def _overdue(self, place: _Place) -> list[Event]:
        now = time.monotonic()
        if place.loading is not None and now - place.loading_since > START_SECONDS:
            self._failed_to_start(place, f"it was not ready after {START_SECONDS:.0f} s")
        if now - place.spoken < self._patience / 2:
            return []  # what was finished while this process did other things may be on its way
        for given in place.in_hand:
            if given.turned is not None and now - given.turned > given.deadline:
                return self._lose(place, given, f"it was not done after {given.deadline:.0f} s")
        return []

    def _lose(self, place: _Place, cause: _Given, message: str) -> list[Event]:
        """Give up a worker and take back its units. cause: the one that it is put down to."""
        given = list(place.in_hand)
        self._vacate(place)
        return [UnitLost(one.unit, place.number, message, first=one is cause) for one in given]

    def _vacate(self, place: _Place) -> None:
        """End what is left of a worker; the next may start after a pause that doubles each time."""
        ray.kill(place.actor)
        place.failures += 1
        place.trusted = False
        place.start_at = time.monotonic() + min(LONGEST_PAUSE, 0.1 * 2**place.failures)
        place.actor = place.loading = place.call = None
        place.to_send.clear()
        place.in_hand.clear()
        place.made, place.making = 0, (-1, 0)

    # ---- waiting ---------------------------------------------------------------------------------------------

    def _wait(self, timeout: float) -> list[tuple[_Place, ray.ObjectRef]]:
        """Places whose workers have answered, and the answers."""
        asked = {ref: place for place in self._places if (ref := place.loading or place.call) is not None}
        if not asked:
            time.sleep(min(timeout, 0.1))
            return []
        refs = list(asked)
        if not ray.wait(refs, num_returns=1, timeout=timeout, fetch_local=False)[0]:
            return []
        return [(asked[ref], ref) for ref in ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)[0]]
