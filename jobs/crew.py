"""Worker processes on Ray: starting, feeding, watching and replacing them.

A place is where one worker stands. It is replaced, after a pause that grows, when its process dies, when its
node is lost, when its device breaks, or when a unit takes longer than its deadline: a stopped process says
nothing, so only time can tell. What happens to the units that were in its hands is `dispatch.py`'s to decide.

A worker has several units in hand: one that the model makes, one whose sources are read, some that are written.
When it dies, the unit that had the model is told as the one it was lost on, though that may be wrong: `backlog.py`
judges none that was not alone.
"""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray import exceptions

from wanbatch.errors import DeviceError, MachineryError, WanbatchError
from wanbatch.jobs.plan import Task
from wanbatch.jobs.pulse import Pulse
from wanbatch.jobs.worker import THREADS, Report, Started, Worker, WorkerSetup

TO_MAKE = 2  # units that a worker has still to make: one that has the model and one that is made ready
MADE = 2  # units on top of these that it is still writing; with more, the disk holds the model back
MAX_FAILED_STARTS = 3  # of every place, in a row, before the run is given up
START_SECONDS = 1800.0  # before a worker that still loads, or has found no room on the cluster, counts as failed
LONGEST_PAUSE = 30.0  # seconds before a worker is replaced
DEATH_SECONDS = 5.0  # that Ray has to report all calls of a worker that died
PROGRESS_SECONDS = 1.0
PROGRESS_PLACES = 64  # with more workers than this, progress is counted by the unit

_GONE = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
    exceptions.ObjectLostError,
)


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
class Finished:
    """A unit that came back."""

    unit: Unit
    worker: int
    report: Report


@dataclass(frozen=True, slots=True, eq=False)
class Lost:
    """A unit that did not come back. first: the worker was lost on it, as far as can be known."""

    unit: Unit
    worker: int
    cause: str
    first: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker that has loaded the model and compiled what it could know of."""

    worker: int
    load_seconds: float
    warm_up_seconds: float


Event = Finished | Lost | Ready


@dataclass(slots=True, eq=False)
class _Given:
    unit: Unit
    making: ray.ObjectRef
    report: ray.ObjectRef
    deadline: float  # seconds from when it gets the model until it is back
    made: bool = False
    turned: float | None = None  # monotonic: when it got the model


@dataclass(slots=True, eq=False)
class _Place:
    number: int
    actor: Any = None
    loading: ray.ObjectRef | None = None
    in_hand: deque[_Given] = field(default_factory=deque)
    loading_since: float = 0.0  # monotonic
    start_at: float = 0.0  # monotonic: when a new worker may be started
    trusted: bool = False  # this worker has finished a unit
    failures: int = 0  # in a row, without a finished unit
    failed_starts: int = 0  # in a row
    asked: ray.ObjectRef | None = None  # a question for progress
    progress: tuple[int, int] = (-1, 0)  # (unit, its images made)

    @property
    def ready(self) -> bool:
        return self.actor is not None and self.loading is None

    @property
    def to_make(self) -> int:
        return sum(not given.made for given in self.in_hand)

    @property
    def has_room(self) -> bool:
        """Whether the worker is at work and may have another unit, too."""
        if not (self.trusted and self.in_hand) or self.in_hand[0].unit.suspect:
            return False
        return self.to_make < TO_MAKE and len(self.in_hand) < TO_MAKE + MADE

    def turn(self) -> None:
        """The first unit that is not made has the model, from now on if it had not."""
        current = next((given for given in self.in_hand if not given.made), None)
        if current is not None and current.turned is None:
            current.turned = time.monotonic()


class Crew:
    """The workers.

    load: what they build their pipeline with instead of `Wan.load`; for tests of faults.
    """

    def __init__(self, setup: WorkerSetup, count: int, load: Callable | None = None):
        options: dict[str, Any] = {"num_cpus": 0, "num_gpus": 1 if setup.device == "cuda" else 0}
        options |= {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": THREADS}
        self._class: Any = ray.remote(**options)(Worker)
        self._setup, self._load = setup, load
        self._pulse = Pulse()
        self._places = [_Place(number) for number in range(count)]
        self._asked_at = 0.0
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
        """Hand a unit to a worker. deadline: seconds that it may work on it."""
        place = self._places[number]
        with _ray_troubles():
            packed = pickle.dumps(task, protocol=5)
            place.actor.prepare_packed.options(concurrency_group="prepare").remote(packed)
            making = place.actor.make.options(concurrency_group="make").remote(task.unit)
            report = place.actor.finish_packed.options(concurrency_group="finish").remote(task.unit)
        place.in_hand.append(_Given(unit, making, report, deadline))
        place.turn()

    def poll(self, timeout: float) -> list[Event]:
        """What has happened; waits at most `timeout` seconds for something to.

        Raises the error of a worker that fails for a reason of its own (a full disk, a broken model, a bug), and
        MachineryError when no place is left that can start a worker.
        """
        with _ray_troubles():
            self._pulse.require()
            self._start_due()
            events: list[Event] = []
            done = self._wait(timeout)
            for place in self._places:
                if place.loading is not None and place.loading in done:
                    events += self._loaded(place, place.loading)
                if place.in_hand and place.in_hand[0].report in done:
                    events += self._came_back(place)
                events += self._made(place, done)
            for place in self._places:
                events += self._overdue(place)
        if all(place.failed_starts >= MAX_FAILED_STARTS for place in self._places):
            raise MachineryError(
                f"each worker died while it loaded the model, of too little memory perhaps: {self._why}"
            )
        return events

    def made_in_hand(self) -> int:
        """Images of units that are still in hand, as of a moment ago."""
        self._ask_progress()
        counted = 0
        for place in self._places:
            unit, images = place.progress
            counted += sum(len(given.unit.places) for given in place.in_hand if given.made)
            counted += sum(images for given in place.in_hand if not given.made and given.unit.number == unit)
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
        place.loading = place.actor.ready.options(concurrency_group="make").remote()
        place.loading_since = time.monotonic()

    def _start_due(self) -> None:
        for place in self._places:
            if place.actor is None and time.monotonic() >= place.start_at:
                self._start(place)

    def _loaded(self, place: _Place, ref: ray.ObjectRef) -> list[Event]:
        place.loading = None
        try:
            started: Started = _result(ref)
        except (WorkerGone, DeviceError) as error:
            self._failed_to_start(place, str(error))
            return []
        place.failed_starts = 0
        return [Ready(place.number, started.load_seconds, started.warm_up_seconds)]

    def _failed_to_start(self, place: _Place, why: str) -> None:
        self._why = why
        self._vacate(place)
        place.failed_starts += 1

    def _made(self, place: _Place, done: set[ray.ObjectRef]) -> list[Event]:
        """Note which units are made: the next one has the model from then on."""
        for given in place.in_hand:
            if given.making in done and not given.made:
                try:
                    _result(given.making)
                except (WorkerGone, DeviceError) as error:
                    return self._lose(place, _cause(place, given, error), str(error))
                given.made = True
        place.turn()
        return []

    def _came_back(self, place: _Place) -> list[Event]:
        given = place.in_hand[0]
        try:
            report: Report = pickle.loads(_result(given.report))
        except (WorkerGone, DeviceError) as error:
            return self._lose(place, _cause(place, given, error), str(error))
        place.in_hand.popleft()
        place.failures, place.trusted = 0, True
        return [Finished(given.unit, place.number, report)]

    def _overdue(self, place: _Place) -> list[Event]:
        now = time.monotonic()
        if place.loading is not None and now - place.loading_since > START_SECONDS:
            self._failed_to_start(place, f"it was not ready after {START_SECONDS:.0f} s")
        for given in place.in_hand:
            if given.turned is not None and now - given.turned > given.deadline:
                return self._lose(place, given, f"it was not done after {given.deadline:.0f} s")
        return []

    def _lose(self, place: _Place, cause: _Given, message: str) -> list[Event]:
        """Give up a worker and take back its units. cause: the one that it is put down to."""
        given = list(place.in_hand)
        self._vacate(place)
        return [Lost(one.unit, place.number, message, first=one is cause) for one in given]

    def _vacate(self, place: _Place) -> None:
        """End what is left of a worker; the next may start after a pause that doubles each time."""
        ray.kill(place.actor)
        place.failures += 1
        place.trusted = False
        place.start_at = time.monotonic() + min(LONGEST_PAUSE, 0.1 * 2**place.failures)
        place.actor = place.loading = place.asked = None
        place.in_hand.clear()

    # ---- waiting ---------------------------------------------------------------------------------------------

    def _wait(self, timeout: float) -> set[ray.ObjectRef]:
        """References that are done."""
        refs = [place.loading for place in self._places if place.loading is not None]
        for place in self._places:  # a worker keeps the order of its units: the first of each kind will do
            refs += [given.report for given in place.in_hand][:1]
            refs += [given.making for given in place.in_hand if not given.made][:1]
        if not refs:
            time.sleep(min(timeout, 0.1))
            return set()
        if not ray.wait(refs, num_returns=1, timeout=timeout, fetch_local=False)[0]:
            return set()
        return set(ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)[0])

    def _ask_progress(self) -> None:
        """Take the answers that are there and ask again once a second; never waits."""
        if len(self._places) > PROGRESS_PLACES:
            return
        asked = {place.asked: place for place in self._places if place.asked is not None}
        for ref in ray.wait(list(asked), num_returns=len(asked), timeout=0)[0] if asked else []:
            place = asked[ref]
            place.asked = None
            try:
                place.progress = ray.get(ref)
            except exceptions.RayError:
                continue  # the worker is gone; its units come back as lost
        if time.monotonic() - self._asked_at >= PROGRESS_SECONDS:
            self._asked_at = time.monotonic()
            for place in self._places:
                if place.in_hand and place.asked is None:
                    place.asked = place.actor.progress.options(concurrency_group="progress").remote()


class WorkerGone(Exception):
    """The process of a worker is gone, or its node."""


def _cause(place: _Place, given: _Given, error: Exception) -> _Given:
    """The unit that a loss is put down to. given: the one whose call brought the error.

    If the worker died, it is the one that had the model: the first that is not known to be made. Ray reports the
    calls of a dead actor in any order, so this waits for all of them.
    """
    if isinstance(error, DeviceError):
        return given
    making = [given.making for given in place.in_hand]
    ray.wait(making, num_returns=len(making), timeout=DEATH_SECONDS, fetch_local=False)
    for given in place.in_hand:
        try:
            ray.get(given.making, timeout=0)
        except exceptions.RayError:
            return given
    return place.in_hand[0]


def _result(ref: ray.ObjectRef) -> Any:
    """What a worker's call returned.

    Raises WorkerGone, the error itself if it is one of ours, MachineryError for Ray's own troubles; a bug in a
    worker is raised as Ray reports it.
    """
    try:
        return ray.get(ref)
    except _GONE as error:
        raise WorkerGone(_first_line(error)) from error
    except exceptions.RayTaskError as error:
        if isinstance(error.cause, WanbatchError):
            raise error.cause from None
        raise
    except exceptions.RayError as error:
        raise _ray_failed(error) from error


@contextmanager
def _ray_troubles() -> Iterator[None]:
    """Ray's own troubles (its object store or its disk is full, it is gone) become MachineryError."""
    try:
        yield
    except exceptions.RayTaskError:  # a bug in a worker
        raise
    except exceptions.RayError as error:
        raise _ray_failed(error) from error


def _ray_failed(error: exceptions.RayError) -> MachineryError:
    return MachineryError(f"Ray failed: {_first_line(error)}; run the same command again")


def _first_line(error: Exception) -> str:
    lines: list[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
