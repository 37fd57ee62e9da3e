"""One small picture as a finished row, for benchmarks in which no model runs."""

from __future__ import annotations

import io
from datetime import UTC, datetime

from PIL import Image

from wanbatch.manifests.records import Backends, Record, Timing


def record(name: str) -> Record:
    """A row of `data/` with a picture of 32x32 pixels."""
    return Record(
        id=name,
        image=PNG,
        prompt="a prompt",
        negative_prompt=None,
        sources=(),
        creativity=1.0,
        seed=0,
        variant=0,
        width=32,
        height=32,
        steps=4,
        guidance=5.0,
        shift=3.0,
        sampler="unipc",
        schedule="linear",
        sigmas=None,
        step_cache="none",
        model="tiny",
        revision=None,
        sha256="f" * 64,
        manifest_row=0,
    )


def timing(name: str) -> Timing:
    """Its row of `timings/`."""
    return Timing(name, 0, 1, "worker-0", "host", "cpu", 4, datetime.now(UTC), Backends("a", "b", "c", "d"))


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(buffer, "PNG")
    return buffer.getvalue()


PNG = _png()
