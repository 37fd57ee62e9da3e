"""Encoded images to pixels, with Pillow: PNG, JPEG and WEBP only, checked before anything is decoded."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from PIL import Image

from wanbatch.manifests.sources.errors import SourceError

FORMATS = ("PNG", "JPEG", "WEBP")

_ORIENTATION = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_header(file: BinaryIO, max_pixels: int) -> Image.Image:
    """Read an image's header; nothing is decoded yet.

    Raises:
        SourceError: of kind `bad_image`, or `too_large` for more than `max_pixels` pixels.
        OSError: with an `errno`, if the file cannot be read.
    """
    if not file.read(1):
        raise SourceError("bad_image", "is empty")
    file.seek(0)
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise SourceError("too_large", f"has too many pixels; at most {max_pixels}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk or the store; Pillow's have none
            raise
        raise SourceError("bad_image", "is not a PNG, JPEG or WEBP image") from error
    if image.width * image.height > max_pixels:
        message = f"is {image.width}x{image.height}; at most {max_pixels} pixels are decoded"
        raise SourceError("too_large", message)
    return image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of an image once it is turned upright; reads no more than the header."""
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def decode(image: Image.Image) -> np.ndarray:
    """Decode an image: upright, on white where it was transparent, 8 bits a channel.

    Returns:
        uint8 [height, width, 3], RGB, contiguous.
    Raises:
        SourceError: of kind `bad_image`.
    """
    try:
        return _to_rgb(_upright(image))
    except Exception as error:
        # Decoders raise nearly any type on hostile data.
        raise SourceError("bad_image", f"cannot be decoded ({error})") from error


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; damaged EXIF counts as upright. Reads no more than the header."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # getexif() would decode the whole image to look behind its pixels
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  any type, as for images; a bad tag is no reason to lose the image
        return 1
    return value if value in _TRANSPOSES else 1


def _upright(image: Image.Image) -> Image.Image:
    transpose = _TRANSPOSES.get(_orientation(image))
    image.load()
    return image if transpose is None else image.transpose(transpose)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 [height, width, 3]; 16-bit values are scaled, alpha is laid over white."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float64).clip(0, 65535) / 257.0
        return np.ascontiguousarray(np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.ascontiguousarray(np.asarray(image.convert("RGB")))
