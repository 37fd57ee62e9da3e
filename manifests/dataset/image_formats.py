"""Pictures as files: the formats that a dataset's images can have.

The settings of each are those that measured best (`benchmarks/image_encoding.py`); docs/performance.md says how.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

SUFFIXES = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """How pictures are written.

    Attributes:
        name: `png`, `webp` or `jpeg`.
        quality: 1 to 100; None: nothing is lost with PNG and WEBP, 95 with JPEG.
    Raises:
        ValueError: for a name that is not known, or a quality of PNG, which has none.
    """

    name: str = "png"
    quality: int | None = None

    def __post_init__(self) -> None:
        if self.name not in SUFFIXES:
            raise ValueError(f"no image format {self.name!r}; known: {', '.join(SUFFIXES)}")
        if self.name == "png" and self.quality is not None:
            raise ValueError("PNG loses nothing and has no quality; leave it out, or choose webp or jpeg")

    @property
    def suffix(self) -> str:
        """Of a file's name, with its dot."""
        return SUFFIXES[self.name]

    @property
    def lossy(self) -> bool:
        """Whether a file decodes to other pixels than it was made from."""
        return self.name == "jpeg" or self.quality is not None

    def encode(self, pixels: np.ndarray) -> bytes:
        """uint8 [height, width, 3], RGB -> a file. The same bytes for the same pixels and the same libraries."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, **self._options())
        return buffer.getvalue()

    def _options(self) -> dict[str, Any]:
        if self.name == "png":
            return {"format": "PNG", "compress_level": 1, "compress_type": zlib.Z_RLE}
        if self.name == "jpeg":
            return {"format": "JPEG", "quality": self.quality or JPEG_QUALITY, "subsampling": "4:4:4"}
        if self.quality is not None:
            return {"format": "WEBP", "quality": self.quality, "method": 4}
        return {"format": "WEBP", "lossless": True, "quality": 0, "method": 0, "exact": True}
