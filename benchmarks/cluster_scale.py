"""The driver with a thousand workers on a hundred nodes that are not there: how fast it is, and what breaks first.

    python benchmarks/cluster_scale.py [--workers N] [--nodes N] [--rows N] [--unit-rows N] [--unit-seconds S]
                                       [--lost-nodes N] [--folder PATH] [--out FILE.json]

The real loop (`Dispatcher`, `WorkerPool` with its slots and its watch of the nodes, `OutputFolder`) on a Ray that is
simulated in this process: actors that take `--unit-seconds` for a unit, and hand back attempts that were written
before (a 32x32 picture for each row; writing them takes some 3 ms of a processor a unit, before anything is timed).
Nodes join one after the other, a tenth of them at the start; in the middle some are lost with all workers on them and
others join. Ray's own part of the driver's work is not in it: `driver.py` has it.

megabytes_before: of this process when the first unit is handed out, with the plan and all attempts. It is what the
simulation holds, too: a real driver has no attempts before they are made.

driver_milliseconds_a_unit: the processor time of this process without what the simulation took. ideal_seconds: when
the workers that there were, as nodes came and went, would have been through all units, each with the next one at
once; what was lost with nodes is made again in it, too. seconds_over_ideal: how long it took, by that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import pickle
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from circumstances import circumstances, print_result
from ray.exceptions import ActorDiedError
from small_attempts import write_attempts

from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver import cluster_watch, ray_errors, worker_pool, worker_slot
from wanbatch.jobs.driver.cluster_nodes import Placement
from wanbatch.jobs.driver.dispatcher import Dispatcher, DispatchOptions
from wanbatch.jobs.driver.worker_pool import WorkerPool
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.reporting.progress import JsonLines
from wanbatch.jobs.reporting.run_log import RunLog
from wanbatch.jobs.worker.messages import Started, UnitReport, WorkerSetup, WorkerStatus
from wanbatch.manifests.dataset.folder import OutputFolder

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


def main() -> None:
    options = _options()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        measured = measure(folder, options)
    finally:
        shutil.rmtree(folder)
    result = {
        "what": "the driver with simulated workers on simulated nodes",
        **circumstances(("pyarrow",), load_before=options.load),
        **measured,
    }
    print_result(result, options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--unit-rows", type=int, default=16)
    parser.add_argument("--unit-seconds", type=float, default=8.0)
    parser.add_argument("--lost-nodes", type=int, default=10, help="in the middle")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where manifest and folder are made")
    parser.add_argument("--out", type=Path, help="write the result here too")
    options = parser.parse_args()
    options.load = round(os.getloadavg()[0], 1)
    return options


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    settings = Settings(width=32, height=32)
    plan, model = prepare(_manifest(folder, options.rows), settings)
    with OutputFolder.open(folder / "out", {}) as out:
        dispatch = DispatchOptions("run", unit_rows=options.unit_rows, slots=settings.slots)  # as if for one worker
        dispatcher = Dispatcher(plan, out, RunLog(out), dispatch)
        begin = time.perf_counter()
        attempts = write_attempts(folder / "out", plan, dispatcher.waiting_units)
        writing = time.perf_counter() - begin
        units = len(attempts)
        simulated = SimulatedRay(options.nodes, options.workers // options.nodes, options.unit_seconds, attempts)
        setup = WorkerSetup(model, str(folder / "out"), str(folder), False, "cpu", "float32", 4, 1)
        with _instead_of_ray(simulated):
            pool = WorkerPool(setup, options.workers, placement=Placement(on_cluster=True), most=options.workers)
            lost: list[float] = []

            def half_way() -> bool:
                if not lost and dispatcher.counters.made * 2 >= options.rows:
                    lost.append(time.monotonic())
                    simulated.lose(options.lost_nodes)
                return False

            before = _megabytes("VmRSS")
            print(f"{units} attempts written in {writing:.0f} s; the run begins", file=sys.stderr, flush=True)
            wall, own = time.perf_counter(), time.process_time()
            dispatcher.loop(pool, JsonLines(len(plan), 0, StringIO()), half_way)
            wall, own = time.perf_counter() - wall, time.process_time() - own - simulated.seconds
            pool.close()
        assert len(out.committed().made) == options.rows, "every row once"
        assert not out.committed().failed
    lost_nodes, lost_units = _lost(folder / "out/_wanbatch/log.jsonl")
    ideal = _time_of(simulated.places_alive, (units + lost_units) * options.unit_seconds, options.workers)
    return {
        **{name: getattr(options, name) for name in ("workers", "nodes", "rows", "unit_rows")},
        "units": units,
        **{name: getattr(options, name) for name in ("unit_seconds", "lost_nodes")},
        "nodes_lost_with_workers": lost_nodes,
        "units_lost_with_nodes": lost_units,
        "writing_attempts_before_seconds": round(writing, 1),
        "seconds": round(wall, 2),
        "ideal_seconds": round(ideal, 2),
        "seconds_over_ideal": round(wall / ideal, 3),
        "units_per_second": round(units / wall, 1),
        "driver_milliseconds_a_unit": round(1000 * own / units, 3),
        "units_per_second_of_driver_cpu": round(units / own, 1),
        "driver_share_of_a_core": round(own / wall, 3),
        "megabytes_before": before,
        "peak_megabytes": _megabytes("VmHWM"),
    }


def _lost(log: Path) -> tuple[int, int]:
    """How many nodes with workers, and how many units, were lost in a run."""
    events = [json.loads(line) for line in log.read_text().splitlines()]
    nodes = {event["node"] for event in events if event["event"] == "node_lost"}
    return len(nodes), sum(event["event"] == "unit_lost" for event in events)


def _manifest(folder: Path, rows: int) -> Path:
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"picture {n}"}) + "\n" for n in range(rows)))
    return path


def _megabytes(name: str) -> int:
    """Memory of this process: `VmRSS` what it has now, `VmHWM` what it had at most."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) // 1024


def _time_of(places_alive: Sequence[tuple[float, int]], work: float, workers: int) -> float:
    """When workers are through some work.

    Args:
        places_alive: times in seconds, and how many workers there may be from each on.
        work: seconds of one worker.
        workers: at most so many.
    """
    for (begin, places), (end, _) in itertools.pairwise([*places_alive, (math.inf, 0)]):
        there = min(places, workers)
        if there and begin + work / there <= end:
            return begin + work / there
        work -= there * (end - begin)
    raise ValueError("there are no workers in the end")


@contextmanager
def _instead_of_ray(simulated: SimulatedRay):
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


if __name__ == "__main__":
    main()
