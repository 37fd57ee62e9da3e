"""The worker slots of a run on Ray: starting, feeding, watching and replacing workers.

What happens to the units that a lost worker held is `dispatcher.py`'s to decide.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray

from wanbatch.errors import MachineryError
from wanbatch.jobs.driver.cluster_nodes import Placement
from wanbatch.jobs.driver.cluster_watch import ClusterWatch
from wanbatch.jobs.driver.events import Event, NodeRefused
from wanbatch.jobs.driver.ray_errors import ray_failures_raised
from wanbatch.jobs.driver.ray_health import RayHealth
from wanbatch.jobs.driver.worker_slot import WorkerSlot
from wanbatch.jobs.planning.units import Task, Unit
from wanbatch.jobs.worker.actor import Worker
from wanbatch.jobs.worker.context import LoadPipeline
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.manifests.dataset.visibility import take_mark

MAX_FAILED_STARTS = 3  # of every slot, in a row, before the run is given up
REPORT_SECONDS = 1.0  # before a worker with nothing to report says how far it is; longer with many workers:
MAX_EMPTY_REPORTS = 64  # such reports a second, of all workers together


class WorkerPool:
    """The workers of a run, each in a slot."""

    def __init__(
        self,
        setup: WorkerSetup,
        count: int,
        load: LoadPipeline | None = None,
        worker_class: Callable[..., object] = Worker,
        placement: Placement | None = None,
        most: int | None = None,
    ):
        """Start the workers.

        Args:
            setup: what they are started with.
            count: how many.
            load: what they build their pipeline with, instead of `Wan.load`; for tests of faults.
            worker_class: what runs in their processes; for measuring the driver alone.
            placement: where they may be; None: on one host.
            most: how many there are at most where the cluster grows; None: `count`.
        """
        self._placement = placement or Placement(device=setup.device)
        self._watch = ClusterWatch(self._placement)
        self._actor_class: Any = ray.remote(max_restarts=0, max_task_retries=0)(worker_class)
        self._ray = RayHealth()
        self._most = count if most is None else most
        self._setup, self._rest = setup, () if load is None else (load,)
        self._slots: dict[int, WorkerSlot] = {}
        self._numbers = itertools.count()
        self._add(count)

    def _add(self, count: int) -> None:
        for number in itertools.islice(self._numbers, count):
            self._slots[number] = WorkerSlot(
                number,
                partial(self._start_actor, number),
                lambda: max(REPORT_SECONDS, self.size / MAX_EMPTY_REPORTS),
                lambda started: take_mark(self._setup.out, started.mark, started.host, patience=0.0),
                self._watch.is_alive,
            )

    def _start_actor(self, number: int) -> Any:
        """Start a worker's process. Ray waits until there is a place for it."""
        placed = self._actor_class.options(**self._placement.actor_options(self._watch.refused))
        return placed.remote(self._setup, f"worker-{number}", *self._rest)

    @property
    def size(self) -> int:
        """How many worker slots there are."""
        return len(self._slots)

    @property
    def placed(self) -> int:
        """How many workers have a place; they may still load their model."""
        return sum(slot.placed for slot in self._slots.values())

    @property
    def busy(self) -> bool:
        """Whether any worker holds a unit."""
        return any(slot.busy for slot in self._slots.values())

    @property
    def any_ready(self) -> bool:
        """Whether any worker has loaded its model."""
        return any(slot.ready for slot in self._slots.values())

    @property
    def images_in_hand(self) -> int:
        """How many images are made of units that are still in the workers' hands, as of a moment ago."""
        return sum(slot.images_made for slot in self._slots.values())

    def idle(self) -> list[tuple[int, bool]]:
        """The slots whose workers hold no unit: (number, whether the worker's process has made an image)."""
        return [(slot.number, slot.trusted) for slot in self._slots.values() if slot.ready and not slot.busy]

    def with_room(self) -> list[int]:
        """The slots whose workers are at work and may get another unit: trusted ones, not on an isolated unit."""
        return [slot.number for slot in self._slots.values() if slot.has_room]

    def give(self, number: int, unit: Unit, task: Task, deadline: float) -> None:
        """Hand a unit to the worker in a slot; it goes out with `send`.

        Args:
            number: the slot's.
            unit: as the driver keeps it.
            task: the same unit, as the worker gets it.
            deadline: seconds that the worker may work on it.
        """
        self._slots[number].give(unit, task, deadline)

    def stop_making_after(self, seconds: float) -> None:
        """Have workers make images of what they hold for so long, and then write what they have of it."""
        for slot in self._slots.values():
            slot.stop_making_after(seconds)

    def send(self) -> None:
        """Send what was given, and ask each worker that holds anything what there is to report."""
        with ray_failures_raised():
            for slot in self._slots.values():
                slot.send()

    def poll(self, timeout: float) -> list[Event]:
        """Send, wait at most `timeout` seconds for something to happen, and return what has.

        Raises:
            MachineryError: No slot is left that can start a worker, or Ray failed.

        Raises the error of a worker that fails for a reason of its own, too (a full disk, a broken model, a bug).
        """
        with ray_failures_raised():
            self._ray.ensure_alive()
            self._follow_cluster()
            for slot in self._slots.values():
                slot.start_if_due()
            self.send()
            events: list[Event] = []
            for slot in self._wait(timeout):
                events += slot.receive()
            for slot in self._slots.values():
                events += slot.check_time()
            for refused in [event for event in events if isinstance(event, NodeRefused)]:
                self._watch.refuse(refused, self.placed)
            self._watch.ensure_any_placed(self.placed, self.size)
        self._raise_if_none_starts()
        changed = self._watch.changed(self.size, self.placed)
        return [changed, *events] if changed else events

    def _follow_cluster(self) -> None:
        """Have as many workers as the cluster has places, if that is wanted."""
        if not self._placement.grows:
            return
        wanted = self._watch.workers_wanted(self._most)
        if wanted > self.size:
            self._add(wanted - self.size)
        without = [slot for slot in self._slots.values() if not slot.placed]
        for slot in without[: max(0, self.size - wanted)]:
            slot.close()
            del self._slots[slot.number]

    def close(self) -> None:
        """End the workers, whatever they do."""
        for slot in self._slots.values():
            slot.close()

    def _raise_if_none_starts(self) -> None:
        """Those that have found no place yet do not count."""
        tried = [slot for slot in self._slots.values() if slot.placed or slot.failed_starts]
        if tried and all(slot.failed_starts >= MAX_FAILED_STARTS for slot in tried):
            why = tried[-1].start_failure
            raise MachineryError(
                f"every worker died while it loaded the model, perhaps because memory ran out: {why}"
            )

    def _wait(self, timeout: float) -> list[WorkerSlot]:
        """The slots whose workers have answered."""
        asked = {call: slot for slot in self._slots.values() if (call := slot.pending_call) is not None}
        if not asked:
            time.sleep(min(timeout, 0.1))
            return []
        calls = list(asked)
        if not ray.wait(calls, num_returns=1, timeout=timeout, fetch_local=False)[0]:
            return []
        return [asked[call] for call in ray.wait(calls, num_returns=len(calls), timeout=0, fetch_local=False)[0]]
