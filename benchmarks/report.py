"""How long the report of a large output folder takes, how much memory, and how large its page is.

    python benchmarks/report.py --images 100000 --unit-rows 16 --json benchmarks/results/report-2cores.json

The folder is made without a run: pictures of noise, so that they compress no better than real ones, a class, a
creativity and a source each, every fiftieth row failed. Making it takes minutes and is not measured.
"""

from __future__ import annotations

import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
from PIL import Image

from wanbatch.jobs.config.hardware import cpu_name

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))


def noise(number: int, side: int) -> bytes:
    """A PNG of coloured noise, coarse enough to look like a picture to an encoder."""
    random = np.random.default_rng(number % 512)
    small = random.integers(0, 255, (side // 4, side // 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def fill(out: Path, images: int, unit_rows: int, side: int) -> None:
    """Make the folder."""
    from report_folders import fill_folder, source_files

    kept = [noise(number, side) for number in range(512)]
    sources = source_files(out.parent / "sources", 64)
    units = images // unit_rows
    fill_folder(
        out, units, unit_rows, 2, 0, sources, out.parent / "sources", image_of=lambda number: kept[number % 512]
    )


@click.command()
@click.option("--images", default=100_000)
@click.option("--unit-rows", default=16)
@click.option("--side", default=256, help="pixels of the pictures")
@click.option("--folder", type=click.Path(path_type=Path), help="keep it here and use it if it is there")
@click.option("--json", "target", type=click.Path(path_type=Path))
def main(images: int, unit_rows: int, side: int, folder: Path | None, target: Path | None) -> None:
    """Measure the command in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        out = (folder or Path(scratch)) / "out"
        if not out.exists():
            fill(out, images, unit_rows, side)
        begin, load = time.monotonic(), round(os.getloadavg()[0], 1)
        subprocess.run([sys.executable, "-m", "wanbatch.jobs.cli", "report", str(out)], check=True)
        seconds, used = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        found = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": f"python benchmarks/report.py --images {images} --unit-rows {unit_rows} --side {side}",
            "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "load_before": load},
            "versions": {"python": platform.python_version(), "pyarrow": pa.__version__},
            "images": images,
            "unit_rows": unit_rows,
            "picture_bytes": sum(path.stat().st_size for path in (out / "data").iterdir()) // images,
            "seconds": round(seconds, 2),
            "processor_seconds": round(used.ru_utime + used.ru_stime, 2),
            "peak_memory_bytes": used.ru_maxrss * 1024,
            "page_bytes": (out / "report.html").stat().st_size,
            "json_bytes": (out / "report.json").stat().st_size,
        }
    click.echo(json.dumps(found))
    if target is not None:
        target.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
