"""Makes images, records and attempts for the tests of `wanbatch.manifests`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa
from PIL import Image

from wanbatch.manifests.records import Backends, Failure, Record, Timing, UsedSource, data_table

NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def encoded(width: int = 32, height: int = 32, colour=(200, 30, 30), kind: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), colour).save(buffer, kind)
    return buffer.getvalue()


def record(name: str, number: int = 0, image: bytes | None = None) -> Record:
    return Record(
        id=name,
        image=image or encoded(),
        prompt=f"prompt of {name}",
        negative_prompt=None,
        sources=(UsedSource("a.png", 0.25, "aa"), UsedSource("b.png", 0.75, "bb")),
        creativity=0.5,
        seed=2**62,
        variant=0,
        width=32,
        height=32,
        steps=4,
        guidance=5.0,
        shift=3.0,
        sampler="euler",
        schedule="linear",
        sigmas=None,
        step_cache="none",
        model="tiny",
        revision=None,
        sha256="ff",
        manifest_row=number,
    )


def timing(name: str, unit: int = 0) -> Timing:
    return Timing(name, unit, 0, "worker-0", "host", "cpu", 1, NOW, Backends(denoise="eager"), denoise_seconds=0.5)


def failure(name: str, unit: int = 0, kind: str = "bad_image") -> Failure:
    return Failure(name, 0, "source", kind, "is not an image", 1, unit, NOW)


def unit_of(unit: int, names: list[str], failed: Sequence[str] = (), passthrough: pa.Table | None = None) -> dict:
    """The arguments of `write_attempt` after the folder and before the attempt's token."""
    data = data_table([record(n, i) for i, n in enumerate(names)], passthrough) if names else None
    return {
        "unit": unit,
        "data": data,
        "timings": [timing(n, unit) for n in names],
        "failures": [failure(n, unit) for n in failed],
    }
