"""Makes manifests, runs the command and reads output folders, for the tests of `wanbatch.jobs`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

WANBATCH = str(Path(sys.executable).parent / "wanbatch")


def write_jsonl(path: Path, rows: Iterable[dict | str]) -> Path:
    """One line a row; text goes in as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def picture(path: Path, width: int, height: int, seed: int = 0, orientation: int | None = None) -> Path:
    """A smooth coloured picture, another one for each seed. orientation: of EXIF."""
    y, x = np.mgrid[0:height, 0:width]
    phases = np.random.default_rng(seed).uniform(0, 6, 3)
    waves = [np.sin(x / 9 + phase) + np.cos(y / 7 - phase) for phase in phases]
    pixels = (np.stack(waves, axis=-1) * 60 + 128).clip(0, 255).astype(np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def environment(**changes: str | None) -> dict[str, str]:
    """This process's environment without `WANBATCH_*`, offline, without reports, with changes; None: it is not set.

    Without `RAY_AUTH_MODE` too, which Ray sets in a process that starts one: its children would ask for a token.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANBATCH_", "RAY_AUTH_MODE"))}
    whole = {**kept, "HF_HUB_OFFLINE": "1", "WANBATCH_REPORT": "off", **changes}
    return {name: value for name, value in whole.items() if value is not None}


@dataclass(frozen=True)
class Ended:
    """A finished command."""

    code: int
    out: str
    err: str


def command(*arguments: object, cwd: Path, timeout: float = 200, **changes: str) -> Ended:
    """Run `wanbatch` in a folder until it ends. changes: of the environment."""
    done = subprocess.run(
        [WANBATCH, *map(str, arguments)],
        cwd=cwd,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def start(*arguments: object, cwd: Path) -> subprocess.Popen:
    """Start `wanbatch` in a session of its own, as a terminal would in a process group of its own."""
    return subprocess.Popen(
        [WANBATCH, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(holds: Callable[[], Any], seconds: float = 90, what: str = "it") -> Any:
    """What `holds()` returns once it is true. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := holds():
            return found
        time.sleep(0.05)
    raise TimeoutError(f"waited {seconds} s for {what}")


def family(pid: int) -> list[psutil.Process]:
    """The living descendants of a process."""
    return psutil.Process(pid).children(recursive=True)


def workers_of(pid: int) -> list[psutil.Process]:
    """The processes of `Worker` actors below a process."""
    found = []
    for process in family(pid):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "ray::Worker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def gone(processes: Iterable[psutil.Process], seconds: float = 20) -> list[psutil.Process]:
    """Those processes that still live after a while."""
    return psutil.wait_procs(list(processes), timeout=seconds)[1]


def table(out: Path, kind: str) -> pa.Table:
    """All parts of a kind, in the order of their names; fails if there are none."""
    return pa.concat_tables([pq.read_table(part) for part in sorted((out / kind).glob("part-*.parquet"))])


def rows_by_id(out: Path, kind: str = "data") -> dict[str, dict[str, Any]]:
    """id -> row; an id that is there twice is an error."""
    rows = table(out, kind).to_pylist()
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows), "an id is there twice"
    return found


def decoded(row: dict[str, Any]) -> np.ndarray:
    """The pixels of a data row, uint8 [height, width, 3]."""
    image = Image.open(io.BytesIO(row["image"]["bytes"]))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.asarray(image)


def pixel_hash(row: dict[str, Any]) -> str:
    """SHA-256 of the decoded pixels of a data row."""
    return hashlib.sha256(decoded(row).tobytes()).hexdigest()


def pictures(out: Path) -> dict[str, str]:
    """id -> hash of the decoded pixels."""
    return {name: pixel_hash(row) for name, row in rows_by_id(out).items()}


def commits(out: Path) -> list[Path]:
    return sorted((out / "_wanbatch" / "commits").glob("*.json"))


def commit_records(out: Path) -> list[dict[str, Any]]:
    """What is committed, unit by unit; a file has those that were committed together."""
    return [json.loads(line) for path in commits(out) for line in path.read_text().splitlines()]


def log_events(out: Path, event: str) -> list[dict[str, Any]]:
    """The events of one kind in a folder's log."""
    lines = (out / "_wanbatch" / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == event]


def part_files(out: Path) -> dict[str, tuple[int, int, int]]:
    """Name -> (inode, time of change, size) of every part and commit."""
    paths = [*out.glob("*/part-*.parquet"), *commits(out)]
    stats = {str(path.relative_to(out)): path.stat() for path in paths}
    return {name: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in stats.items()}


def snapshot(folder: Path) -> dict[str, str]:
    """Name -> hash of every file below a folder."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
