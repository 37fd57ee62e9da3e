"""Worker processes on Ray: starting, feeding, watching and replacing them.

A place is where one worker stands. It is replaced, after a pause that grows, when its process dies, when its
node is lost, when its device breaks, or when a unit takes longer than its deadline: a stopped process says
nothing, so only time can tell. What happens to the units that were in its hands is `dispatch.py`'s to decide.
"""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray import exceptions

from wanbatch.errors import DeviceError, MachineryError
from wanbatch.jobs.plan import Task
from wanbatch.jobs.pulse import Pulse
from wanbatch.jobs.ray_errors import WorkerGone, ray_troubles, result_of
from wanbatch.jobs.worker import Report, Worker, WorkerSetup

IN_HAND = 2  # units a worker has: one that it works on and one that waits
MAX_FAILED_STARTS = 3  # of every place, in a row, before the run is given up
START_SECONDS = 1800.0  # before a worker that still loads, or has found no room on the cluster, counts as failed
LONGEST_PAUSE = 30.0  # seconds before a worker is replaced
PROGRESS_SECONDS = 1.0
PROGRESS_PLACES = 64  # with more workers than this, progress is counted by the unit


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
    """A unit that did not come back.

    first: the worker was on it, if its report of the one before got through; else it waited there.
    """

    unit: Unit
    worker: int
    cause: str
    first: bool


@dataclass(slots=True, eq=False)
class _Given:
    ref: ray.ObjectRef
    unit: Unit
    deadline: float  # seconds from when the worker turns to it


@dataclass(slots=True, eq=False)
class _Place:
    number: int
    actor: Any = None
    loading: ray.ObjectRef | None = None
    in_hand: deque[_Given] = field(default_factory=deque)
    turned: float = 0.0  # monotonic: when the worker turned to loading, or to the first unit in hand
    start_at: float = 0.0  # monotonic: when a new worker may be started
    trusted: bool = False  # this worker has finished a unit
    failures: int = 0  # in a row, without a finished unit
    failed_starts: int = 0  # in a row
    asked: ray.ObjectRef | None = None  # a question for progress
    progress: tuple[int, int] = (-1, 0)  # (unit, its images made)

    @property
    def ready(self) -> bool:
        return self.actor is not None and self.loading is None


class Crew:
    """The workers.

    load: what they build their pipeline with instead of `Wan.load`; for tests of faults.
    """

    def __init__(self, setup: WorkerSetup, count: int, load: Callable | None = None):
        options: dict[str, Any] = {"num_cpus": 0, "num_gpus": 1 if setup.device == "cuda" else 0}
        options |= {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": {"progress": 1}}
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
        return [
            place.number
            for place in self._places
            if place.trusted and 0 < len(place.in_hand) < IN_HAND and not place.in_hand[0].unit.suspect
        ]

    def give(self, number: int, unit: Unit, task: Task, deadline: float) -> None:
        """Hand a unit to a worker. deadline: seconds that it may work on it."""
        place = self._places[number]
        if not place.in_hand:
            place.turned = time.monotonic()
        with ray_troubles():
            ref = place.actor.run_packed.remote(pickle.dumps(task, protocol=5))
        place.in_hand.append(_Given(ref, unit, deadline))

    def poll(self, timeout: float) -> list[Finished | Lost]:
        """What has happened; waits at most `timeout` seconds for something to.

        Raises the error of a worker that fails for a reason of its own (a full disk, a broken model, a bug), and
        MachineryError when no place is left that can start a worker.
        """
        with ray_troubles():
            self._pulse.require()
            self._start_due()
            events: list[Finished | Lost] = []
            done = self._wait(timeout)
            for place in self._places:
                if place.loading is not None and place.loading in done:
                    self._loaded(place, place.loading)
                elif place.in_hand and place.in_hand[0].ref in done:
                    events += self._came_back(place)
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
            counted += images if place.in_hand and place.in_hand[0].unit.number == unit else 0
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
        place.turned = time.monotonic()

    def _start_due(self) -> None:
        for place in self._places:
            if place.actor is None and time.monotonic() >= place.start_at:
                self._start(place)

    def _loaded(self, place: _Place, ref: ray.ObjectRef) -> None:
        place.loading = None
        try:
            result_of(ref)
        except WorkerGone as error:
            self._failed_to_start(place, str(error))
        else:
            place.failed_starts = 0

    def _failed_to_start(self, place: _Place, why: str) -> None:
        self._why = why
        self._vacate(place)
        place.failed_starts += 1

    def _came_back(self, place: _Place) -> list[Finished | Lost]:
        given = place.in_hand[0]
        try:
            report = pickle.loads(result_of(given.ref))
        except (WorkerGone, DeviceError) as error:
            return self._lose(place, str(error))
        place.in_hand.popleft()
        place.turned, place.failures, place.trusted = time.monotonic(), 0, True
        return [Finished(given.unit, place.number, report)]

    def _overdue(self, place: _Place) -> list[Finished | Lost]:
        waited = time.monotonic() - place.turned
        if place.loading is not None and waited > START_SECONDS:
            self._failed_to_start(place, f"it was not ready after {START_SECONDS:.0f} s")
        if not place.in_hand or waited <= place.in_hand[0].deadline:
            return []
        return self._lose(place, f"it was not done after {place.in_hand[0].deadline:.0f} s")

    def _lose(self, place: _Place, cause: str) -> list[Finished | Lost]:
        units = [given.unit for given in place.in_hand]
        self._vacate(place)
        return [Lost(unit, place.number, cause, first=index == 0) for index, unit in enumerate(units)]

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
        refs += [place.in_hand[0].ref for place in self._places if place.in_hand]  # a worker keeps their order
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
