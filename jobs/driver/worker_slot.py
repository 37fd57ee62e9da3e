"""One worker slot: a worker's process on Ray, which is replaced when it is lost.

A worker is replaced, after a pause that doubles each time, when its process dies, when its node is lost, when its
device breaks, or when a unit takes longer than its deadline: a stopped process says nothing, so only time can tell.
It is sent units with a call that comes back when there is something to report, or after a while; it has at most one
such call at a time.

First a worker waits for a place, which on a cluster may be for ever; then it loads the model. Where the connection to
one breaks, Ray does not know at first what became of it: it is asked again until that is known.
"""

from __future__ import annotations

import pickle
import socket
import time
from collections.abc import Callable
from typing import Any

import ray

from wanbatch.errors import DeviceError, NodeError
from wanbatch.jobs.driver.events import Event, NodeLost, NodeRefused, UnitFinished, UnitLost, WorkerReady
from wanbatch.jobs.driver.ray_errors import WorkerGone, result_of
from wanbatch.jobs.driver.units_in_hand import UnitsInHand
from wanbatch.jobs.planning.units import Task, Unit
from wanbatch.jobs.worker.messages import Started, WorkerStatus
from wanbatch.manifests.dataset.visibility import PATIENCE_SECONDS

START_SECONDS = 1800.0  # before a worker that still loads counts as failed
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0  # seconds before a worker is replaced
FRESH_SECONDS = 0.5  # how old it may be what is known of nodes while a worker cannot be reached
DOUBT_SECONDS, DOUBT_PAUSE = 60.0, 1.0  # until a worker that cannot be reached is given up, with its node


def place_of_this_process(actor: object) -> tuple[str, str]:
    """Where a worker is: Ray's id of its node, and the host's name."""
    return ray.get_runtime_context().get_node_id(), socket.gethostname()


def pause_after(losses: int) -> float:
    """Seconds before a lost worker is replaced. losses: how many were lost in its slot before it, in a row."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2**losses)


class WorkerSlot:
    """Where one worker runs at a time. A failed call of Ray's own is raised as Ray raises it."""

    def __init__(
        self,
        number: int,
        start_actor: Callable[[], Any],
        report_seconds: Callable[[], float],
        check: Callable[[Started], None],
        is_alive: Callable[[str, float], bool] = lambda node, age: True,
    ):
        """Start the slot's first worker.

        Args:
            number: the slot's.
            start_actor: starts the process of a `Worker` and returns Ray's handle of it.
            report_seconds: gives the seconds after which a worker with nothing to report says how far it is.
            check: looks at what a worker says when it is ready, before it gets a unit, and again for a while as long
                as it raises NodeError; then its node gets no worker any more. What else it raises ends the run.
            is_alive: whether a node is, by Ray's id of it, as of so many seconds ago at most.
        """
        self.number = number
        self._start_actor, self._report_seconds, self._check = start_actor, report_seconds, check
        self._is_alive = is_alive
        self._actor: Any = None
        self._node = self._host = ""  # where the worker is
        self._placing: ray.ObjectRef | None = None
        self._doubt: ray.ObjectRef | None = None
        self._doubt_since: float | None = None  # monotonic
        self._starting: ray.ObjectRef | None = None
        self._unchecked: Started | None = None  # what it said when it was ready, as long as that is not checked
        self._ready_since = 0.0  # monotonic
        self._exchange: ray.ObjectRef | None = None
        self._last_exchange = 0.0  # monotonic: when it was sent or, if it has been, answered
        self._to_send: list[Task] = []  # by the next exchange
        self._making_seconds: float | None = None  # that are left to make images, as the run stops
        self._units = UnitsInHand()
        self._starting_since = self._start_at = 0.0  # monotonic
        self._trusted = False
        self._losses_in_a_row = 0  # without a finished unit
        self._failed_starts = 0
        self._start_failure = ""
        self._start()

    @property
    def pending_call(self) -> ray.ObjectRef | None:
        """What Ray returns once there is something to `receive`; None if nothing is asked of the worker."""
        return self._placing or self._doubt or self._starting or self._exchange

    @property
    def placed(self) -> bool:
        """Whether the worker's process has a place; it may still load its model."""
        return bool(self._node)

    @property
    def ready(self) -> bool:
        """Whether the worker has loaded its model, and is not known to be out of reach."""
        waits = self._starting is not None or self._unchecked is not None or self._doubt_since is not None
        return self.placed and not waits

    @property
    def trusted(self) -> bool:
        """Whether this process has made an image."""
        return self._trusted

    @property
    def busy(self) -> bool:
        """Whether the worker holds any unit."""
        return bool(self._units)

    @property
    def has_room(self) -> bool:
        """Whether the worker is at work and may have another unit, too."""
        return self._trusted and self._doubt_since is None and self._units.have_room

    @property
    def images_made(self) -> int:
        """Images of units that the worker still holds, as of its last report."""
        return self._units.images_made

    @property
    def failed_starts(self) -> int:
        """How many workers, one after the other, did not become ready here."""
        return self._failed_starts

    @property
    def start_failure(self) -> str:
        """Why the last worker that did not become ready did not."""
        return self._start_failure

    def give(self, unit: Unit, task: Task, deadline: float) -> None:
        """Hand a unit to the worker; it goes out with `send`. deadline: seconds that it may work on it."""
        self._to_send.append(task)
        self._units.add(unit, deadline, time.monotonic())

    def stop_making_after(self, seconds: float) -> None:
        """Tell the worker, with the next `send`, to make images for so long and then to write what it has."""
        self._making_seconds = seconds

    def send(self) -> None:
        """Send what was given; a worker that holds anything is asked what there is to report."""
        if self._units and self._exchange is None and self._doubt_since is None:
            self._exchange = self._actor.exchange.remote(
                pickle.dumps(self._to_send, protocol=5), self._report_seconds(), self._making_seconds
            )
            self._last_exchange = time.monotonic()
            self._to_send.clear()

    def start_if_due(self) -> None:
        """Start the next worker if there is none and the pause is over."""
        if self._actor is None and time.monotonic() >= self._start_at:
            self._start()

    def receive(self) -> list[Event]:
        """Take what the pending call returned.

        Raises the worker's error if it is of its own making: a full disk, a broken model, a bug.
        """
        if (placing := self._placing) is not None:
            self._placing = None
            return self._receive_place(placing)
        if (doubt := self._doubt) is not None:
            self._doubt = None
            return self._receive_doubt(doubt)
        if (starting := self._starting) is not None:
            self._starting = None
            return self._receive_start(starting)
        assert self._exchange is not None
        exchange, self._exchange = self._exchange, None
        return self._receive_status(exchange)

    def check_time(self) -> list[Event]:
        """Give up a worker that does not become ready, or is not done with a unit, in time."""
        now = time.monotonic()
        if self._doubt_since is not None:
            return self._ask_again(now)
        if self._unchecked is not None:
            return self._check_again(self._unchecked, now)
        if self._starting is not None and now - self._starting_since > START_SECONDS:
            self._start_failed(f"it was not ready after {START_SECONDS:.0f} s")
        if now - self._last_exchange < self._report_seconds() / 2:
            return []  # what was finished while this process did other things may be on its way
        if (overdue := self._units.overdue(now)) is None:
            return []
        unit, deadline = overdue
        return self._lose(unit, f"it was not done after {deadline:.0f} s")

    def close(self) -> None:
        """End the worker, whatever it does."""
        if self._actor is not None:
            ray.kill(self._actor)

    def _start(self) -> None:
        self._actor = self._start_actor()
        self._placing = self._actor.__ray_call__.remote(place_of_this_process)

    def _receive_place(self, call: ray.ObjectRef) -> list[Event]:
        try:
            self._node, self._host = result_of(call)
        except WorkerGone as error:
            return self._gone(error)
        self._starting = self._actor.ready.remote()
        self._starting_since = time.monotonic()
        return []

    def _receive_start(self, call: ray.ObjectRef) -> list[Event]:
        try:
            self._unchecked = result_of(call)
        except WorkerGone as error:
            return self._gone(error)
        except NodeError as error:
            return self._refused(error)
        except DeviceError as error:
            self._start_failed(str(error))
            return []
        self._ready_since = time.monotonic()
        assert self._unchecked is not None
        return self._check_again(self._unchecked, self._ready_since)

    def _check_again(self, started: Started, now: float) -> list[Event]:
        """Check what a worker said; a network disk may take a while to show what it wrote."""
        try:
            self._check(started)
        except NodeError as error:
            return self._refused(error) if now - self._ready_since > PATIENCE_SECONDS else []
        self._unchecked = None
        self._failed_starts = 0
        times = started.load_seconds, started.warm_up_seconds
        where = started.host, started.device, started.gpu
        return [WorkerReady(self.number, *times, started.backends, *where, started.steps)]

    def _refused(self, error: NodeError) -> list[Event]:
        node = self._node
        self._vacate(counts=False)
        return [NodeRefused(self.number, node, error)]

    def _gone(self, error: WorkerGone) -> list[Event]:
        """Act on a worker that is gone: with its node, alone, or for a reason that is not known yet."""
        alive = not error.with_node and self._is_alive(self._node, 0.0)
        if error.unclear and alive:
            self._doubt_since = self._doubt_since or time.monotonic()
            return []
        return self._lose_worker(str(error), with_node=not alive)

    def _ask_again(self, now: float) -> list[Event]:
        """Ask a worker that could not be reached whether it is there, again after a pause."""
        assert self._doubt_since is not None
        if now - self._doubt_since > DOUBT_SECONDS or not self._is_alive(self._node, FRESH_SECONDS):
            return self._lose_worker("its node cannot be reached", with_node=True)
        if self._doubt is None and now - self._last_exchange > DOUBT_PAUSE:
            self._doubt = self._actor.__ray_ready__.remote()
            self._last_exchange = now
        return []

    def _receive_doubt(self, call: ray.ObjectRef) -> list[Event]:
        try:
            result_of(call)
        except WorkerGone as error:
            return [] if error.unclear else self._gone(error)
        # It lives, but what it answered is lost.
        return self._lose_worker("the connection to its node broke for a while", with_node=True)

    def _lose_worker(self, cause: str, with_node: bool) -> list[Event]:
        events: list[Event] = [NodeLost(self.number, self._host, self._node, cause)] if with_node else []
        if self._units:
            events += self._lose(self._units.in_model or self._units.first, cause, with_node)
        elif with_node:
            self._vacate(counts=False)
        else:
            self._start_failed(cause)
        return events

    def _start_failed(self, why: str) -> None:
        self._start_failure = why
        self._vacate()
        self._failed_starts += 1

    def _receive_status(self, call: ray.ObjectRef) -> list[Event]:
        try:
            status: WorkerStatus = pickle.loads(result_of(call))
        except WorkerGone as error:
            return self._gone(error)
        except DeviceError as error:  # raised when all before it is reported
            return self._lose(self._units.first, str(error))
        self._last_exchange = time.monotonic()
        finished = self._units.update(status, self._last_exchange)
        events = [UnitFinished(unit, self.number, report) for unit, report in finished]
        self._trusted |= status.has_made
        if any(event.made for event in events):
            self._losses_in_a_row, self._trusted = 0, True
        return list[Event](events)

    def _lose(self, blamed: Unit, cause: str, with_node: bool = False) -> list[Event]:
        """Give up the worker and take back its units."""
        units = self._units.take_all()
        self._vacate(counts=not with_node)
        return [UnitLost(unit, self.number, cause, unit is blamed, with_node) for unit in units]

    def _vacate(self, counts: bool = True) -> None:
        """End what is left of the worker; the next may start after a pause.

        Args:
            counts: whether the pause is longer each time; not where a node is lost or refused.
        """
        ray.kill(self._actor)
        self._start_at = time.monotonic() + (pause_after(self._losses_in_a_row) if counts else FIRST_PAUSE)
        self._losses_in_a_row += counts
        self._trusted = False
        self._actor = self._starting = self._exchange = self._placing = None
        self._unchecked = self._doubt = self._doubt_since = None
        self._node = self._host = ""
        self._to_send.clear()
        self._units.take_all()
