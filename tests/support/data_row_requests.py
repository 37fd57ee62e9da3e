"""The request that a data row was made from, for comparing pixels with the pipeline's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from wanbatch.pipeline.core.requests import Request, SourceImage, fit


def data_row_request(row: dict[str, Any], folder: Path) -> Request:
    """The request that a data row was made from, its sources read by Pillow alone."""
    loaded = []
    for source in row["sources"]:
        image = ImageOps.exif_transpose(Image.open(folder / source["path"])).convert("RGB")
        pixels = fit(np.asarray(image), row["width"], row["height"])
        loaded.append(SourceImage(source["path"] + str(pixels.shape), pixels, source["weight"]))
    names = ("id", "prompt", "negative_prompt", "creativity", "seed", "width", "height", "steps")
    names += ("guidance", "shift", "sampler", "schedule", "sigmas")
    return Request(sources=tuple(loaded), **{name: row[name] for name in names})
