"""Output folders as runs leave them, filled without a run, for the tests of the report and its benchmark."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from wanbatch.manifests.columns import LATER
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import Attempt, write_attempt
from wanbatch.manifests.dataset.status import INTERNAL
from wanbatch.manifests.records import Backends, Failure, Record, Timing, UsedSource, data_table
from wanbatch.manifests.storage.backend import open_backend

BEGIN = datetime(2026, 5, 1, 8, 0, tzinfo=UTC)
CLASSES = ("cat", "owl", "rocket")
CREATIVITIES = (0.25, 0.5, 0.75, 1.0)
FINGERPRINT = {"model": "tiny", "revision": None, "seed": 0, "steps": None, "slots": 4}


def drawing(number: int, side: int = 64) -> bytes:
    """A PNG that differs by its number."""
    picture = Image.new("RGB", (side, side), ((number * 37) % 200, (number * 91) % 200, 120))
    draw = ImageDraw.Draw(picture)
    inset = 4 + number % (side // 4)
    draw.ellipse((inset, inset, side - inset, side - inset), fill=(240, (number * 53) % 255, 90))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def source_files(folder: Path, count: int = 3) -> list[UsedSource]:
    """Pictures in a folder, as sources of images."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        data = drawing(1000 + number)
        (folder / f"source-{number}.png").write_bytes(data)
        found.append(UsedSource(f"source-{number}.png", 1.0, sha256(data).hexdigest()))
    return found


def record_of(number: int, image: bytes, sources: Sequence[UsedSource], **changes: Any) -> Record:
    """One image of a sweep over classes and creativities."""
    creativity = CREATIVITIES[number % len(CREATIVITIES)]
    used = (sources[number % len(sources)],) if sources and creativity < 1 else ()
    values: dict[str, Any] = {
        "id": f"row-{number:06d}",
        "image": image,
        "prompt": f'a <large> {CLASSES[number % len(CLASSES)]} & its "friends"',
        "sources": used,
        "creativity": creativity,
        "seed": number,
        "variant": 0,
        "width": 64,
        "height": 64,
        "steps": 8,
        "guidance": 5.0,
        "shift": 3.0,
        "negative_prompt": None,
        "sigmas": None,
        "revision": None,
        "sampler": "unipc",
        "schedule": "shifted",
        "step_cache": "none",
        "model": "tiny",
        "sha256": sha256(image).hexdigest(),
        "manifest_row": number,
    }
    return Record(**values | changes)


def timing_of(number: int, unit: int, slots: int, worker: str = "worker-0") -> Timing:
    """How an image was made: a unit a minute on each worker, half a second of denoising."""
    started = BEGIN + timedelta(minutes=unit)
    names = Backends(text="eager", denoise="eager", decode="eager")
    cost = {"load_seconds": 0.01, "text_seconds": 0.02, "denoise_seconds": 0.5, "decode_seconds": 0.1}
    counts = {"steps_full": 6, "steps_cached": 2, "blocks_full": 60, "blocks_cached": 20}
    return Timing(f"row-{number:06d}", unit, 1, worker, "host", "cpu", slots, started, names, **cost, **counts)


def failure_of(number: int, unit: int, kind: str = "missing_image") -> Failure:
    """An image whose source is not there."""
    message = f"lost-{number}.png does not exist in /data/pictures"
    return Failure(f"row-{number:06d}", number, "source", kind, message, 1, unit, BEGIN)


def event(name: str, seconds: float, **fields: Any) -> bytes:
    """A line of the log at a time after the beginning."""
    time = (BEGIN + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
    return json.dumps({"time": time, "event": name, **fields}).encode() + b"\n"


def fill_folder(
    out: str | Path,
    units: int = 4,
    rows: int = 8,
    failed: int = 2,
    left: int = 0,
    sources: Sequence[UsedSource] = (),
    source_root: str | Path = ".",
    ended: str | None = "finished",
    image_of: Callable[[int], bytes] = drawing,
    **changes: Any,
) -> None:
    """Fill an output folder.

    Args:
        out: the folder or its URL.
        units: how many, of `rows` images each; the last `failed` images of the first unit failed.
        left: images that are planned and not made.
        sources: what images below creativity 1 start from.
        source_root: where those are.
        ended: the last event of the log; None: the run was killed.
        image_of: gives the file of the image of a number.
        changes: values that every image has.
    """
    planned = units * rows + left
    log = [event("started", 0, pid=1, rows=planned, pending=planned)]
    log.append(event("warning", 0, message="rows.jsonl: column 'sedd' passes through: did you mean seed?"))
    with OutputFolder.open(out, FINGERPRINT, {"wanbatch": "0.1.0"}) as folder:
        root = str(source_root)
        settings = {"source_root": root, "source_fence": root, "steps": 8}
        folder.set_plan({"rows": planned, "manifest": f"{root}/rows.jsonl", "digest": "d", "settings": settings})
        together = []
        for unit in range(units):
            numbers = list(range(unit * rows, (unit + 1) * rows))
            bad = numbers[rows - failed :] if unit == 0 and failed else []
            made = [number for number in numbers if number not in bad]
            images = [record_of(number, image_of(number), sources, **changes) for number in made]
            together.append(_attempt(folder.url, unit, rows, images, bad))
            if len(together) == 64 or unit == units - 1:
                folder.publish_many(together, verify_checksums=False)
                together = []
            counts = {"made": len(made), "failed": len(bad), "slots": rows}
            seconds = {"busy_seconds": 20.0, "model_seconds": 15.0}
            log.append(event("unit", unit * 60 + 30, unit=unit, worker=unit % 2, **counts, **seconds))
        if ended:
            log.append(event(ended, units * 60, made=units * rows - failed, pending=left, drained=0))
    open_backend(out).write_atomic(f"{INTERNAL}/log.jsonl", b"".join(log))


def _attempt(url: str, unit: int, slots: int, images: Sequence[Record], bad: Sequence[int]) -> Attempt:
    made = [image.manifest_row for image in images]
    classes = pa.table({"class": pa.array([CLASSES[number % len(CLASSES)] for number in made], pa.string())})
    timings = [timing_of(number, unit, slots, f"worker-{unit % 2}") for number in made]
    later = [name for name in LATER if any(getattr(image, name) is not None for image in images)]
    data = data_table(images, classes, later) if images else None
    return write_attempt(url, unit, "try", data, timings, [failure_of(number, unit) for number in bad])


def write_checks(out: Path, names: Sequence[str]) -> None:
    """Checks of some images, as `wanbatch check` writes them: the last two are too blurred."""
    sharp = np.linspace(9, 1, len(names))
    reasons = [["blurred"] if index >= len(names) - 2 else [] for index in range(len(names))]
    table = pa.table(
        {
            "id": list(names),
            "manifest_row": pa.array(range(len(names)), pa.int64()),
            "sharpness": sharp,
            "source_distance": [abs(index - 7) / 100 + 0.1 for index in range(len(names))],
            "strange": [5.0] * len(names),
            "near_duplicate": [False] * len(names),
            "label_rank": pa.nulls(len(names), pa.int32()),
            "rejected_by": pa.array(reasons, pa.list_(pa.string())),
        }
    )
    (out / "checks").mkdir()
    half = len(names) // 2  # as there is one part beside each of `data/`
    pq.write_table(table.slice(0, half), out / "checks" / "part-00000.parquet")
    pq.write_table(table.slice(half), out / "checks" / "part-00001.parquet")
