"""Encoded images to pixels, with Pillow: checked before anything is decoded, upright, in sRGB, 8 bits a channel.

What comes of each kind of pixels:

- 8 bits: as they are. Palettes give the colours that they list; 1 bit gives 0 and 255.
- 16 bits, grey: `rint(value / 257)`. Fewer bits in 16 (12 in TIFF): scaled alike, so that the largest becomes 255.
- 16 bits, colour: the upper 8 bits.
- floats: 0 is black, 1 is white, `rint(value * 255)`; what is outside is clipped, NaN is black.
- transparency: laid over white, after colours were converted.
- other integers (32 bits, signed) are refused, since nothing says which value is white.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import PIL
from PIL import Image, features

from wanbatch.manifests.sources.colour import effect_of, lab_to_srgb, to_srgb
from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.formats import (
    OPTIONAL,
    SIGNATURE_BYTES,
    convert,
    format_of,
    load_optional,
    why_not_read,
)
from wanbatch.manifests.sources.jxl_header import jxl_size
from wanbatch.manifests.sources.nclx import HEAD_BYTES, is_not_srgb
from wanbatch.manifests.sources.notes import CLIPPED, CONVERTED, FIRST_FRAME, METADATA_SKIPPED, PROFILE_UNUSED
from wanbatch.manifests.sources.png_file import PngMetadata, picture_alone

DECODING = 2
"""Counts up when the same file gives other pixels than before. 1: releases up to 0.1.0."""

_ORIENTATION, _SUBFILE, _BITS, _PHOTOMETRIC, _DNG = 0x0112, 254, 258, 262, 50706
_STILL = ("PNG", "JPEG", "MPO")  # the first says it in `PngMetadata`; MPO are photographs with previews
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decoding_versions() -> dict[str, Any]:
    """What decides the pixels of source images besides the files, as JSON values."""
    return {"version": DECODING, "pillow": PIL.__version__, "littlecms": features.version("littlecms2")}


@dataclass(slots=True)
class OpenedImage:
    """An image whose header was read.

    Attributes:
        image: Pillow's; nothing of it is decoded yet.
        max_pixels: the most that it may have.
        png: what a PNG says beside its picture; of another format, nothing.
        notes: what is worth a note, of `notes.WORDS`.
    """

    image: Image.Image
    max_pixels: int
    png: PngMetadata
    notes: set[str] = field(default_factory=set)

    def tag(self, number: int) -> Any:
        """The first value of a tag of a TIFF; None for another format."""
        value = self.image.tag_v2.get(number) if hasattr(self.image, "tag_v2") else None
        return value[0] if isinstance(value, tuple) and value else value


def read_header(file: BinaryIO, max_pixels: int, with_pixels: bool = True) -> OpenedImage:
    """Read an image's header; nothing is decoded yet, but for JPEG XL.

    Args:
        file: the encoded image.
        max_pixels: the most that it may have.
        with_pixels: otherwise it cannot be decoded afterwards, and less is read of some formats.
    Raises:
        SourceError: of kind `bad_image`, or `too_large` for more than `max_pixels` pixels.
        OSError: with an `errno`, if the file cannot be read.
    """
    file.seek(0)
    start = file.read(SIGNATURE_BYTES)
    name = format_of(start)
    if name is None:
        raise SourceError("bad_image", why_not_read(start) if start else "is empty")
    if name in OPTIONAL and (problem := load_optional(name)) is not None:
        raise SourceError("bad_image", problem)
    png = PngMetadata()
    if name == "PNG":
        file, png = picture_alone(file, with_pixels)
    elif name == "JXL":
        file = io.BytesIO(start + file.read())
        _check_size(*_size_of_jxl(file), max_pixels)
    opened = OpenedImage(_open(file, name, max_pixels), max_pixels, png)
    _check_size(*opened.image.size, max_pixels)
    if name == "TIFF":
        _check_tiff(opened)
    elif name == "JXL" and not opened.image.jpeg:  # type: ignore[attr-defined]
        opened.image.info.pop("exif", None)  # the decoder has turned it, by what the codestream says
    elif name in ("AVIF", "HEIF") and not opened.image.info.get("icc_profile"):
        file.seek(0)
        if is_not_srgb(file.read(HEAD_BYTES)):
            opened.notes.add(PROFILE_UNUSED)
    opened.image.info.update(png.info)
    if png.skipped:
        opened.notes.add(METADATA_SKIPPED)
    if png.colour_tags:
        opened.notes.add(PROFILE_UNUSED)
    return opened


def upright_size(opened: OpenedImage) -> tuple[int, int]:
    """(width, height) of an image once it is turned upright; of most formats, reads no more than the header."""
    width, height = opened.image.size
    if opened.tag(_ORIENTATION) is not None:
        return width, height  # Pillow has turned the size of a TIFF by its tag already
    return (height, width) if _orientation(opened) >= 5 else (width, height)


def header_notes(opened: OpenedImage, look_for_frames: bool) -> frozenset[str]:
    """What is worth a note of an image, as far as its header tells: all but values that are clipped.

    Args:
        opened: after `upright_size`, which looks at its metadata.
        look_for_frames: read a GIF as far as its second frame, too.
    """
    notes, image = set(opened.notes), opened.image
    try:
        known = image.format not in _STILL and (image.format != "GIF" or look_for_frames)
        if opened.png.animated or (known and getattr(image, "is_animated", False)):
            notes.add(FIRST_FRAME)
    except Exception:  # noqa: BLE001  any type, as for images; whether the image can be used is said when it is decoded
        return frozenset(notes)
    if (profile := image.info.get("icc_profile")) and image.mode != "LAB":
        grey = image.mode in ("F", "LA", "La") or image.mode.startswith("I")
        grey |= image.mode in ("1", "L") and "transparency" not in image.info
        converts = effect_of("L" if grey else "CMYK" if image.mode == "CMYK" else "RGB", profile)
        if converts is not False:
            notes.add(CONVERTED if converts else PROFILE_UNUSED)
    return frozenset(notes)


def decode(opened: OpenedImage) -> np.ndarray:
    """Decode an image: the first frame, upright, in sRGB, on white where it was transparent, 8 bits a channel.

    Args:
        opened: with its pixels. Its notes become complete.
    Returns:
        uint8 [height, width, 3], RGB, contiguous.
    Raises:
        SourceError: of kind `bad_image`, or `too_large` if its header did not say its size.
    """
    image = opened.image
    try:
        if opened.png.animated or (image.format not in _STILL and getattr(image, "is_animated", False)):
            opened.notes.add(FIRST_FRAME)
        image.load()
        _check_size(*image.size, opened.max_pixels)
        transpose = _TRANSPOSES.get(_orientation(opened))  # a TIFF was turned when it was loaded, and says so
        return _to_rgb(image if transpose is None else image.transpose(transpose), opened)
    except SourceError:
        raise
    except Exception as error:
        # Decoders raise nearly any type on hostile data.
        said = f"cannot be decoded ({error}): it is damaged or was cut off; save or fetch it again"
        raise SourceError("bad_image", said) from error


def _open(file: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    try:
        return Image.open(file, formats=(name,))
    except Image.DecompressionBombError as error:
        raise SourceError("too_large", f"has too many pixels; at most {max_pixels}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk or the store; Pillow's have none
            raise
        known = OPTIONAL[name].name if name in OPTIONAL else name
        message = f"is a {known} image that is damaged, or of a rare kind that is not read: {convert(name)}"
        raise SourceError("bad_image", message) from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise SourceError("too_large", f"is {width}x{height}; at most {max_pixels} pixels are decoded")
    if width < 1 or height < 1:
        raise SourceError("bad_image", "has no pixels")


def _size_of_jxl(file: io.BytesIO) -> tuple[int, int]:
    try:
        return jxl_size(file.getvalue())
    except ValueError as error:
        raise SourceError("bad_image", f"is a JPEG XL image that is damaged ({error})") from error


def _check_tiff(opened: OpenedImage) -> None:
    """Camera raw files are TIFF files whose first image is a small preview."""
    if opened.tag(_DNG) is not None or (isinstance(found := opened.tag(_SUBFILE), int) and found & 1):
        message = "is a camera raw file, or begins with a reduced image: develop it, and give the PNG, JPEG or TIFF"
        raise SourceError("bad_image", message)


def _orientation(opened: OpenedImage) -> int:
    """The orientation, 1 to 8, as Pillow's `exif_transpose` finds it; damaged metadata counts as upright."""
    try:
        # Not PNG's own `getexif`: it decodes the image to look behind its pixels, where `png_file.py` has looked.
        value = Image.Image.getexif(opened.image).get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  any type, as for images; a bad tag is no reason to lose the image
        opened.notes.add(METADATA_SKIPPED)
        return 1
    return value if value in _TRANSPOSES else 1


def _to_rgb(image: Image.Image, opened: OpenedImage) -> np.ndarray:
    """uint8 [height, width, 3], by the rules at the beginning of this file."""
    colours, alpha = _colours_and_alpha(image, opened)
    if (profile := image.info.get("icc_profile")) and image.mode != "LAB":
        converted = to_srgb(colours, profile)
        if converted is None:
            opened.notes.add(PROFILE_UNUSED)
        elif converted is not colours:
            opened.notes.add(CONVERTED)
        colours = converted or colours
    colours = colours.convert("RGB")
    if alpha is not None:
        colours.putalpha(alpha)
        white = Image.new("RGBA", colours.size, "white")
        colours = Image.alpha_composite(white, colours).convert("RGB")
    return np.ascontiguousarray(np.asarray(colours))


def _colours_and_alpha(image: Image.Image, opened: OpenedImage) -> tuple[Image.Image, Image.Image | None]:
    """Colours of mode L, RGB or CMYK, and the opacity, of mode L; None: opaque."""
    if image.mode == "I":
        raise SourceError("bad_image", "has integers of 32 bits, or signed ones: convert it to 16 bits without sign")
    if image.mode == "F":
        return _grey_of_floats(image, opened), None
    if image.mode.startswith("I;16"):
        return _grey_of_integers(image, opened)
    if image.mode == "LAB":
        return lab_to_srgb(image), None
    if image.mode in ("LA", "La"):
        grey, alpha = (image.convert("LA") if image.mode == "La" else image).split()
        return grey, alpha
    if image.mode in ("RGBA", "RGBa", "PA") or "transparency" in image.info:
        _scale_transparency(image, opened.png.depth)
        rgba = image.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
    if image.mode in ("1", "L"):
        return image.convert("L"), None
    return (image if image.mode in ("RGB", "CMYK") else image.convert("RGB")), None


def _grey_of_floats(image: Image.Image, opened: OpenedImage) -> Image.Image:
    values = np.asarray(image)
    if opened.tag(_PHOTOMETRIC) == 0:
        values = 1 - values
    if not ((values >= 0) & (values <= 1)).all():
        opened.notes.add(CLIPPED)
        values = np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    return Image.fromarray(np.rint(values.astype(np.float64) * 255).astype(np.uint8))


def _grey_of_integers(image: Image.Image, opened: OpenedImage) -> tuple[Image.Image, Image.Image | None]:
    values, bits = np.asarray(image).astype(np.float64), opened.tag(_BITS) or 16
    most = 2**bits - 1
    transparent = image.info.get("transparency")
    alpha = None if transparent is None else Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    if opened.tag(_PHOTOMETRIC) == 0:
        values = most - values
    return Image.fromarray(np.rint(values / (most / 255)).clip(0, 255).astype(np.uint8)), alpha


def _scale_transparency(image: Image.Image, depth: int) -> None:
    """Pillow compares values of 8 bits with the transparent one as the PNG has it, of its own depth."""
    key = image.info.get("transparency")
    if image.mode == "L" and isinstance(key, int) and depth in (2, 4):
        image.info["transparency"] = key * 255 // (2**depth - 1)
    elif image.mode == "RGB" and isinstance(key, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)
