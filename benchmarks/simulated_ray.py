"""As much of Ray as the driver uses, simulated in this process: nodes that come and go, workers that only wait."""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from ray.exceptions import ActorDiedError

from wanbatch.jobs.driver import cluster_watch, ray_errors, worker_pool, worker_slot
from wanbatch.jobs.worker.messages import Started, UnitReport, WorkerSetup, WorkerStatus

JOIN_SECONDS = 0.2  # between two nodes


@dataclass(eq=False)
class Ref:
    """What a call will return: `at` a monotonic time; computed then. None: it is not known when."""

    at: float | None
    value: Callable[[], Any]


@dataclass(eq=False)
class Actor:
    """A worker's process: waits for a place, then makes unit after unit."""

    node: str = ""
    dead: bool = False
    free_at: float = 0.0
    units: deque[tuple[float, int]] = field(default_factory=deque)
    waiting: list[Ref] = field(default_factory=list)


class SimulatedRay:
    """As much of the module `ray` as the driver uses, with actors that are not there.

    Attributes:
        seconds: of the processor that the simulation itself took.
    """

    def __init__(self, nodes: int, places: int, unit_seconds: float, attempts: dict[int, Any]):
        self._places = {f"{number:056x}": places for number in range(nodes)}
        self._unit_seconds, self._attempts = unit_seconds, attempts
        self._coming = deque(self._places)
        self._begin, self._used = time.monotonic(), dict.fromkeys(self._places, 0)
        self._alive: list[str] = []
        self.places_alive = [(0.0, 0)]  # seconds since the begin, and how many workers there could be from then on
        self._pending: deque[Actor] = deque()
        self._actors: list[Actor] = []
        self.seconds = 0.0
        for _ in range(max(1, nodes // 10)):
            self._alive.append(self._coming.popleft())
        self._note_places()

    def _note_places(self) -> None:
        places = sum(self._places[node] for node in self._alive)
        self.places_alive.append((time.monotonic() - self._begin, places))

    # what the driver calls

    def nodes(self) -> list[dict[str, Any]]:
        with self._counted():
            places = {node: {"CPU": float(self._places[node])} for node in self._alive}
            return [{"Alive": True, "NodeID": node, "NodeName": node, "Resources": r} for node, r in places.items()]

    def remote(self, **options: Any) -> Callable[[type], Any]:
        return lambda worker: SimpleNamespace(options=lambda **chosen: SimpleNamespace(remote=self._start))

    def kill(self, actor: Any) -> None:
        with self._counted():
            one = actor.state
            if not one.dead and one.node:
                self._used[one.node] -= 1
            one.dead = True

    def get(self, ref: Ref) -> Any:
        with self._counted():
            return ref.value()

    def wait(self, refs: Sequence[Ref], num_returns: int, timeout: float, fetch_local: bool) -> tuple[list, list]:
        """Wait until one of them is there, as `ray.wait` does with `num_returns=1`; or say which are."""
        with self._counted():
            self._join()
            times = [(ref.at, ref) for ref in refs if ref.at is not None]
            now = time.monotonic()
            there = [ref for at, ref in times if at <= now]
            if there or timeout == 0:
                return there[:num_returns], []
            soon = min((at for at, _ in times), default=now + timeout)
        time.sleep(max(0.0, min(soon - now, timeout, JOIN_SECONDS)))
        return self.wait(refs, num_returns, max(0.0, timeout - (time.monotonic() - now)), fetch_local)

    # what happens to nodes

    def lose(self, count: int) -> None:
        """Take nodes away, with what is on them."""
        with self._counted():
            gone, self._alive = set(self._alive[:count]), self._alive[count:]
            for actor in self._actors:
                if actor.node in gone and not actor.dead:
                    actor.dead = True
                    for ref in actor.waiting:
                        ref.at, ref.value = time.monotonic(), self._died
                    actor.waiting.clear()
            for node in gone:  # as many others come
                other = f"f{node[1:]}"
                self._places[other], self._used[other] = self._places[node], 0
                self._coming.append(other)
            self._note_places()

    def _died(self) -> Any:
        raise ActorDiedError()

    def _join(self) -> None:
        joined = max(1, len(self._places) // 10) + int((time.monotonic() - self._begin) / JOIN_SECONDS)
        while self._coming and len(self._alive) < joined:
            self._alive.append(self._coming.popleft())
            self._note_places()
        free = deque(node for node in self._alive for _ in range(self._places[node] - self._used[node]))
        while free and self._pending:
            actor = self._pending.popleft()
            if not actor.dead:
                actor.node = free.popleft()
                self._used[actor.node] += 1
                for ref in actor.waiting:
                    ref.at = time.monotonic()
                actor.waiting.clear()

    # actors

    def _start(self, setup: WorkerSetup, name: str) -> Any:
        with self._counted():
            state = Actor()
            self._actors.append(state)
            self._pending.append(state)
            call: dict[str, Any] = {
                "__ray_call__": lambda place: self._when_placed(state, lambda: (state.node, state.node[-4:])),
                "ready": lambda: Ref(time.monotonic(), lambda: Started(0.0, 0.0, {}, state.node[-4:], "")),
                "exchange": lambda *given: self._exchange(state, *given),
            }
            remotes = {name: SimpleNamespace(remote=function) for name, function in call.items()}
            return SimpleNamespace(state=state, **remotes)

    def _when_placed(self, actor: Actor, value: Callable[[], Any]) -> Ref:
        ref = Ref(None, value)
        actor.waiting.append(ref)
        return ref

    def _exchange(self, actor: Actor, tasks: bytes, seconds: float, making: float | None) -> Ref:
        with self._counted():
            now = time.monotonic()
            for task in pickle.loads(tasks):
                actor.free_at = max(now, actor.free_at) + self._unit_seconds
                actor.units.append((actor.free_at, task.unit))
            ref = Ref(min(now + seconds, actor.units[0][0]) if actor.units else now + seconds, lambda: None)
            ref.value = lambda: self._status(actor, ref)
            if actor.dead:
                ref.at, ref.value = now, self._died
            actor.waiting = [ref]
            return ref

    def _status(self, actor: Actor, ref: Ref) -> bytes:
        now, reports = time.monotonic(), []
        actor.waiting.clear()
        while actor.units and actor.units[0][0] <= now:
            _, unit = actor.units.popleft()
            reports.append(UnitReport(self._attempts[unit], self._unit_seconds, self._unit_seconds, 4))
        return pickle.dumps(WorkerStatus(reports, 0, (-1, 0)), protocol=5)

    @contextmanager
    def _counted(self):
        begin = time.process_time()
        try:
            yield
        finally:
            self.seconds += time.process_time() - begin


@contextmanager
def instead_of_ray(simulated: SimulatedRay):
    """Have the driver use a simulated Ray."""
    health = SimpleNamespace(ensure_alive=lambda: None)
    with (
        patch.object(worker_pool, "ray", simulated),
        patch.object(worker_slot, "ray", simulated),
        patch.object(cluster_watch, "ray", simulated),
        patch.object(ray_errors, "ray", simulated),
        patch.object(worker_pool, "RayHealth", lambda: health),
        patch.object(worker_pool, "take_mark", lambda *given, **more: None),
    ):
        yield
