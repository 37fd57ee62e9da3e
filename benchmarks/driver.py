"""How many units a second the driver hands out and commits, and how fast it comes back to a million rows. No model.

    python benchmarks/driver.py dispatch [--units N] [--unit-rows N] [--picture-bytes N] [--workers N] [--out FILE]
    python benchmarks/driver.py resume [--rows N] [--left N] [--sources N] [--folder PATH] [--out FILE.json]

`dispatch`: the real loop (`Dispatcher`, `WorkerPool`, `OutputFolder`) on a real Ray. Its workers hand back attempts
that were written before (one 32x32 picture each; `--unit-rows 16 --picture-bytes 2700000` for 16 of the size of
1280x704), so that what is measured is the driver: making tasks, Ray's calls, verifying every byte, moving, committing
durably. With few cores the workers and Ray's daemons compete with the driver for them, so the driver's own processor
seconds a unit are given too: their inverse is what it could do with a core to itself.

`resume`: a manifest of JSON lines is planned in a process of its own; then its folder is given commits for all but
`--left` rows, in units of 16, and another process measures everything that `wanbatch run` does before it starts
workers: reading, planning, opening, comparing what was asked then and now, looking at sources, cutting units.

`--sources`: each row starts from one of so many local images and takes its size from it. Then the first start is
measured, too, which looks at all of them, and a start after a kill that came before anything was made, which knows
their sizes from the first.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pickle
import platform
import pstats
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path

import ray
from circumstances import circumstances, print_result
from PIL import Image
from small_records import PNG, record, timing

from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.dispatcher import Dispatcher, DispatchOptions
from wanbatch.jobs.driver.resume import changed_rows
from wanbatch.jobs.driver.run_context import prepare_run
from wanbatch.jobs.driver.source_sizing import size_what_is_pending
from wanbatch.jobs.driver.worker_pool import WorkerPool
from wanbatch.jobs.planning.preparation import prepare, read_plan
from wanbatch.jobs.planning.units import Task
from wanbatch.jobs.reporting.progress import JsonLines
from wanbatch.jobs.reporting.run_log import RunLog
from wanbatch.jobs.worker.messages import Started, UnitReport, WorkerSetup, WorkerStatus
from wanbatch.jobs.worker.stage_threads import StagePipeline
from wanbatch.manifests.dataset.commit_log import commit_name, to_json
from wanbatch.manifests.dataset.committed import part_name
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.visibility import leave_mark
from wanbatch.manifests.records import data_table

UNIT_ROWS = 16


def main() -> None:
    options = _options()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        measured = (
            measure_dispatch(folder, options) if options.what == "dispatch" else measure_resume(folder, options)
        )
    finally:
        shutil.rmtree(folder)
    result = {
        "what": {"dispatch": "dispatch and commits of the driver", "resume": "planning and resuming"}[options.what],
        **circumstances(("ray", "pyarrow"), load_before=options.load),
        **measured,
    }
    print_result(result, options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("dispatch", "resume"))
    parser.add_argument("--units", type=int, default=4000)
    parser.add_argument("--unit-rows", type=int, default=1)
    parser.add_argument("--picture-bytes", type=int, default=0, help="of each picture's file, at least")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--left", type=int, default=1_000)
    parser.add_argument("--sources", type=int, default=0, help="local images that rows start from; default: none")
    parser.add_argument("--profile", action="store_true", help="print where the driver's time goes")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where manifests and folders are made")
    parser.add_argument("--out", type=Path, help="write the result here too")
    options = parser.parse_args()
    options.load = round(os.getloadavg()[0], 1)
    return options


# ---- dispatch ------------------------------------------------------------------------------------------------


class PrewrittenWorker:
    """A worker, with its three threads, that hands back what was written before."""

    def __init__(self, setup: WorkerSetup, name: str):
        self._out, self._file = setup.out, Path(setup.out).parent / "attempts"
        self._stages = StagePipeline(lambda task: task, lambda task, follow, left: left(task), self._report)

    def ready(self) -> Started:
        self._attempts = pickle.loads(self._file.read_bytes())
        host = platform.node()
        return Started(0.0, 0.0, {}, host, leave_mark(self._out, host))

    def exchange(self, tasks: bytes, seconds: float, making_seconds: float | None = None) -> bytes:
        for task in pickle.loads(tasks):
            self._stages.submit(task)
        status = self._stages.wait_for_status(seconds)
        told = WorkerStatus(status.finished, status.generated, (-1, 0), status.entered)
        return pickle.dumps(told, protocol=5)

    def _report(self, task: Task) -> UnitReport:
        return UnitReport(self._attempts[task.unit], 0.01, 0.01, 4)


def measure_dispatch(folder: Path, options: argparse.Namespace) -> dict:
    manifest, rows = folder / "m.jsonl", options.units * options.unit_rows
    manifest.write_text("".join(json.dumps({"prompt": f"picture {n}"}) + "\n" for n in range(rows)))
    settings = Settings(width=32, height=32)
    plan, model = prepare(manifest, settings)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(address="local", include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    with OutputFolder.open(folder / "out", {}) as out:
        dispatcher = Dispatcher(
            plan, out, RunLog(out), DispatchOptions("run", unit_rows=options.unit_rows, slots=settings.slots)
        )
        attempts = {
            unit.number: _attempt(folder / "out", plan.task(unit.number, 1, "t", unit.indices), options.picture_bytes)
            for unit in dispatcher.waiting_units
        }
        (folder / "attempts").write_bytes(pickle.dumps(attempts))
        setup = WorkerSetup(model, str(folder / "out"), str(folder), False, "cpu", "float32", 4, 1)
        pool = WorkerPool(setup, options.workers, worker_class=PrewrittenWorker)
        while len(pool.idle()) < options.workers:
            pool.poll(0.5)
        profile = cProfile.Profile()
        wall, own = time.perf_counter(), time.process_time()
        if options.profile:
            profile.enable()
        dispatcher.loop(pool, JsonLines(len(plan), 0, StringIO()), lambda: False)
        profile.disable()
        wall, own = time.perf_counter() - wall, time.process_time() - own
        pool.close()
        assert len(out.committed().made) == rows
    ray.shutdown()
    if options.profile:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(45)
    return {
        "workers": options.workers,
        "units": options.units,
        "unit_rows": options.unit_rows,
        "picture_bytes": options.picture_bytes,
        "seconds": round(wall, 2),
        "units_per_second": round(options.units / wall, 1),
        "driver_cpu_milliseconds_a_unit": round(1000 * own / options.units, 3),
        "units_per_second_of_driver_cpu": round(options.units / own, 1),
    }


def _attempt(out: Path, task: Task, picture_bytes: int = 0):
    more = max(0, picture_bytes - len(PNG))
    records = [replace(record(image.id), image=PNG + os.urandom(more)) for image in task.images]
    data = data_table(records, task.passthrough)
    digests = {image.id: image.digest for image in task.images}
    return write_attempt(out, task.unit, "t", data, [timing(image.id) for image in task.images], [], digests)


# ---- resume --------------------------------------------------------------------------------------------------


def measure_resume(folder: Path, options: argparse.Namespace) -> dict:
    manifest = folder / "m.jsonl"
    with manifest.open("w") as file:
        for n in range(options.rows):
            row = {"id": f"sku-{n:07d}", "prompt": f"a big red heart, number {n}", "label": n % 7, "seed": n}
            if options.sources:
                row["image"] = _image(n % options.sources)
            file.write(json.dumps(row) + "\n")
    starts = {}
    if options.sources:
        _write_images(folder, options.sources)
        starts["first_start"] = _in_a_process("_resume", manifest, folder / "begun")
        starts["start_with_known_sizes"] = _in_a_process("_resume", manifest, folder / "begun")
        shutil.rmtree(folder / "begun")
    planning = _in_a_process("_plan", manifest)
    _in_a_process("_fill", manifest, folder / "out", options.rows - options.left)
    resuming = _in_a_process("_resume", manifest, folder / "out")
    assert resuming["pending"] == options.left
    return {"rows": options.rows, "sources": options.sources, "planning": planning, **starts, "resuming": resuming}


def _image(number: int) -> str:
    return f"images/{number // 1000:04d}/{number % 1000:03d}.png"


def _write_images(folder: Path, count: int) -> None:
    """So many files of one small picture."""
    buffer = BytesIO()
    Image.new("RGB", (96, 64), (200, 40, 40)).save(buffer, "PNG")
    for number in range(count):
        path = folder / _image(number)
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(buffer.getvalue())


def _in_a_process(function: str, *arguments: object) -> dict:
    code = f"import driver, json, sys; print(json.dumps(driver.{function}(*sys.argv[1:])))"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    return json.loads(done.stdout)


class _Laps:
    def __init__(self) -> None:
        self.found: dict[str, float] = {}
        self.begin = self.last = time.perf_counter()
        self.cpu = time.process_time()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self.found[name], self.last = round(now - self.last, 2), now

    def all(self) -> dict:
        peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
        return {
            **self.found,
            "seconds": round(time.perf_counter() - self.begin, 2),
            "cpu_seconds": round(time.process_time() - self.cpu, 2),
            "peak_megabytes": int(peak) // 1024,
        }


def _plan(manifest: str) -> dict:
    lap = _Laps()
    plan, _ = read_plan(Path(manifest), Settings())
    lap("read_and_plan")
    units = len(plan.units(UNIT_ROWS))
    lap("units")
    return {"units": units, **lap.all()}


def _resume(manifest: str, out: str) -> dict:
    lap = _Laps()
    context = prepare_run(Path(manifest), out, Settings())
    lap("read_and_plan")
    with OutputFolder.open(out, context.fingerprint) as folder:
        lap("open")
        again = changed_rows(folder, context.plan, allowed=False)
        lap("compare")
        plan = size_what_is_pending(folder, context, again, lambda: False)
        lap("sources")
        options = DispatchOptions("run", UNIT_ROWS, slots=4, again=again)
        dispatcher = Dispatcher(plan, folder, RunLog(folder), options)
        lap("dispatch")
        return {"commits": len(folder.committed().units), "pending": dispatcher.counters.pending, **lap.all()}


def _fill(manifest: str, out: str, rows: str) -> dict:
    """Commits for so many rows, a file each, the slowest way there is to read them; parts of no content."""
    context = prepare_run(Path(manifest), out, Settings())
    plan = context.plan
    OutputFolder.open(out, context.fingerprint).close()
    digests = plan.images["digest"].to_pylist()
    ids = plan.ids()
    template = _attempt(Path(out), plan.task(0, 1, "t", [0]))
    real = (Path(out) / "_wanbatch/tmp" / template.names["data"]).read_bytes()
    for number, rows_of_unit in _cut(iter(plan.units(UNIT_ROWS)), int(rows)):
        parts = {}
        for kind in ("data", "timings"):
            content = real if number == 0 and kind == "data" else b""
            name = part_name(kind, number)
            (Path(out) / name).write_bytes(content)
            parts[kind] = {"name": name, "bytes": len(content), "sha256": "f" * 64}
        record = {"unit": number, "seq": number, "attempt": "t", "ids": [ids[row] for row in rows_of_unit]}
        record |= {"failed": {}, "parts": parts, "time": "2030-01-01T00:00:00+00:00"}
        record["digests"] = [digests[row] for row in rows_of_unit]
        (Path(out) / commit_name([number])).write_bytes(to_json(record))
    return {}


def _cut(units: Iterator, rows: int) -> Iterator[tuple[int, list[int]]]:
    for number, rows_of_unit in enumerate(units):
        if rows <= 0:
            return
        yield number, rows_of_unit[:rows].tolist()
        rows -= len(rows_of_unit)


if __name__ == "__main__":
    main()
