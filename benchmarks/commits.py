"""How fast the driver commits units, and how fast it reads the commits again. No model, no Ray.

    python benchmarks/commits.py [--units N] [--group N] [--resume-commits N] [--folder PATH] [--out FILE.json]

Publishing: small units (`--ids` images of 32x32 pixels) are written first, as workers do; then only the driver's
part is timed: verify every byte, move, commit durably. Resuming: `--resume-commits` commit files of 16 ids are
read by a process of its own, whose peak memory is noted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from small_records import record, timing

from wanbatch.jobs.config.hardware import cpu_name
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.records import data_table

RESUME = (
    "import json, sys, time\n"
    "from wanbatch.manifests.dataset.folder import OutputFolder\n"
    "from wanbatch.manifests.dataset.status import status\n"
    "start = time.perf_counter()\n"
    "with OutputFolder.open(sys.argv[1], {}) as folder:\n"
    "    seconds = time.perf_counter() - start\n"
    "    ids = len(folder.committed().made)\n"
    "peak = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]\n"
    "print(json.dumps({'ids': ids, 'seconds': round(seconds, 2), 'peak_megabytes': int(peak) // 1024}))\n"
)


def main() -> None:
    options = _options()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        publishing = {
            f"groups of {size}": measure_publishing(folder / f"publish{size}", options.units, options.ids, size)
            for size in dict.fromkeys((1, 8, options.group))
        }
        resuming = measure_resuming(folder / "resume", options.resume_commits)
    finally:
        shutil.rmtree(folder)
    result = {
        "what": "commits of the driver",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "file_system": _file_system(options.folder)},
        "versions": {"python": platform.python_version(), "pyarrow": pa.__version__},
        "ids_in_a_unit": options.ids,
        "publishing": publishing,
        "resuming": resuming,
    }
    text = json.dumps(result, indent=1) + "\n"
    if options.out:
        Path(options.out).write_text(text)
    print(text, end="")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=2000)
    parser.add_argument("--ids", type=int, default=4, help="images in a unit")
    parser.add_argument("--group", type=int, default=64, help="units published at once")
    parser.add_argument("--resume-commits", type=int, default=62_500)
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the output folders are made")
    parser.add_argument("--out", help="write the result here too")
    return parser.parse_args()


def measure_publishing(out: Path, units: int, ids: int, group: int) -> dict[str, float]:
    """Units a second of `publish_many` with groups of a size."""
    with OutputFolder.open(out, {}) as folder:
        attempts = [_attempt(out, unit, ids) for unit in range(units)]
        start = time.perf_counter()
        for first in range(0, units, group):
            refused = folder.publish_many(attempts[first : first + group])
            assert not refused, refused
        seconds = time.perf_counter() - start
    return {"units": units, "seconds": round(seconds, 3), "units_per_second": round(units / seconds, 1)}


def _attempt(out: Path, unit: int, ids: int):
    names = [f"{unit:06d}-{n}" for n in range(ids)]
    return write_attempt(out, unit, "t", data_table([record(n) for n in names]), [timing(n) for n in names], [])


def measure_resuming(out: Path, commits: int) -> dict[str, float]:
    """Opening a folder with many commit files of one unit each, the slowest way it can be."""
    OutputFolder.open(out, {}).close()
    for kind in ("data", "timings"):
        (out / kind).mkdir(exist_ok=True)
    schema_holder = _attempt(out, 0, 1)
    real = (out / "_wanbatch/tmp" / schema_holder.names["data"]).read_bytes()
    for unit in range(commits):
        ids = [f"sku-{unit:06d}-{n:02d}" for n in range(16)]
        parts = {}
        for kind in ("data", "timings"):
            name = f"{kind}/part-{unit:05d}.parquet"
            content = real if unit == 0 and kind == "data" else b""
            (out / name).write_bytes(content)
            parts[kind] = {"name": name, "bytes": len(content), "sha256": "f" * 64}
        record = {"unit": unit, "seq": unit, "attempt": "t" * 12, "ids": ids, "failed": {}, "parts": parts}
        record |= {"time": "2030-01-01T00:00:00+00:00", "digests": [f"{unit:08x}{n:08x}" for n in range(16)]}
        (out / f"_wanbatch/commits/{unit:05d}.json").write_text(json.dumps(record, separators=(",", ":")))
    done = subprocess.run([sys.executable, "-c", RESUME, out], capture_output=True, text=True, check=True)
    return {"commits": commits, **json.loads(done.stdout)}


def _file_system(folder: str) -> str:
    return subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
