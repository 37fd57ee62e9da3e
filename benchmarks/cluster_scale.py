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
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from circumstances import circumstances, print_result
from simulated_ray import SimulatedRay, instead_of_ray
from small_attempts import write_attempts

from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.cluster_nodes import Placement
from wanbatch.jobs.driver.dispatcher import Dispatcher, DispatchOptions
from wanbatch.jobs.driver.worker_pool import WorkerPool
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.reporting.progress import JsonLines
from wanbatch.jobs.reporting.run_log import RunLog
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.manifests.dataset.folder import OutputFolder


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
        with instead_of_ray(simulated):
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


if __name__ == "__main__":
    main()
