"""Pictures as files: the formats that a dataset's images can have.

The settings of each are those that measured best (`benchmarks/image_encoding.py`); docs/performance.md says how.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

SUFFIXES = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
JPEG_QUALITY = 95
PNG_XMP = "XML:com.adobe.xmp"
"""The keyword of the text chunk of a PNG that holds XMP."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file says of its picture.

    Attributes:
        xmp: an XMP packet, UTF-8.
        parameters: the settings as text, as A1111 writes them: in PNG a text chunk of that name, else the comment of
            the EXIF data. None: none.
    """

    xmp: bytes
    parameters: str | None = None


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

    def encode(self, pixels: np.ndarray, metadata: Metadata | None = None) -> bytes:
        """Pixels as a file: the same bytes for the same pixels, metadata and libraries.

        Args:
            pixels: uint8 [height, width, 3], RGB.
            metadata: what the file says of them.
        """
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, **self._options(), **self._metadata_options(metadata))
        return buffer.getvalue()

    def _metadata_options(self, metadata: Metadata | None) -> dict[str, Any]:
        if metadata is None:
            return {}
        if self.name == "png":
            return {"pnginfo": _png_chunks(metadata)}
        exif = {} if metadata.parameters is None else {"exif": _exif(metadata.parameters)}
        return {"xmp": metadata.xmp, **exif}

    def _options(self) -> dict[str, Any]:
        if self.name == "png":
            return {"format": "PNG", "compress_level": 1, "compress_type": zlib.Z_RLE}
        if self.name == "jpeg":
            return {"format": "JPEG", "quality": self.quality or JPEG_QUALITY, "subsampling": "4:4:4"}
        if self.quality is not None:
            return {"format": "WEBP", "quality": self.quality, "method": 4}
        return {"format": "WEBP", "lossless": True, "quality": 0, "method": 0, "exact": True}


def _png_chunks(metadata: Metadata) -> PngInfo:
    chunks = PngInfo()
    chunks.add_itxt(PNG_XMP, metadata.xmp.decode())
    if metadata.parameters is not None:
        chunks.add_text("parameters", metadata.parameters)
    return chunks


def _exif(comment: str) -> bytes:
    """EXIF data with a user comment, in big-endian UTF-16 whatever the byte order of the rest, as A1111 does."""
    exif = Image.Exif()
    exif.endian = ">"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + comment.encode("utf-16-be")
    return exif.tobytes()
