"""Formats of source images: which is which by the first bytes, which are read, and what to do about the others."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

READ = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Formats that are always read, as Pillow calls them."""

PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".heic", ".heif", ".jxl"),
)
"""Endings of the names of pictures, to find them in a folder; what a file is, its content says."""

SIGNATURE_BYTES = 512

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2")
_JXL_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_PLAIN = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\xff\x0a": "JXL",
    _JXL_CONTAINER: "JXL",
}
_NOT_READ = {
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"\0\0\1\0": "Windows icon",
    b"DDS ": "DirectDraw surface",
    b"qoif": "QOI",
    b"FUJIFILMCCD-RAW": "camera raw",
    b"IIU\0": "camera raw",
    b"IIRO": "camera raw",
}
_SUFFIXES = {"HEIF": "heic", "JXL": "jxl", "JPEG 2000": "jp2", "Photoshop": "psd", "OpenEXR": "exr", "SVG": "svg"}


@dataclass(frozen=True, slots=True)
class OptionalFormat:
    """A format that is read if a package is installed.

    Attributes:
        name: of the format, for people.
        extra: of this package, which brings the package.
        load: teaches Pillow the format; raises ImportError without the package.
    """

    name: str
    extra: str
    load: Callable[[], object]


def _load_heif() -> None:
    importlib.import_module("pillow_heif").register_heif_opener()


OPTIONAL = {
    "HEIF": OptionalFormat("HEIC", "heic", _load_heif),
    "JXL": OptionalFormat("JPEG XL", "jxl", lambda: importlib.import_module("pillow_jxl")),
}


def format_of(start: bytes) -> str | None:
    """The format of a file by its first bytes, as Pillow calls it; None if it is none that may be read.

    Args:
        start: `SIGNATURE_BYTES` of it, or the whole file if it is shorter.
    """
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[4:8] == b"ftyp":
        brands = {start[at : at + 4] for at in (8, *range(16, min(len(start), int.from_bytes(start[:4], "big")), 4))}
        return "AVIF" if brands & {b"avif", b"avis"} else "HEIF" if brands & {*_HEIF_BRANDS} else None
    return next((name for signature, name in _PLAIN.items() if start.startswith(signature)), None)


def says_size_at_its_beginning(start: bytes) -> bool:
    """Whether the beginning of a file is enough to tell the size of its upright image.

    Not of a PNG that is no square, which may say how to turn it behind its pixels, nor of a TIFF, whose tags may be
    anywhere; Pillow reads AVIF and WEBP as a whole.
    """
    name = format_of(start)
    if name == "PNG" and start[16:20] == start[20:24]:
        return True
    return name not in ("PNG", "TIFF", "AVIF", "WEBP", *OPTIONAL)


def why_not_read(start: bytes) -> str:
    """What to say of a file of no format that may be read, with the remedy."""
    other = next((name for signature, name in _NOT_READ.items() if start.startswith(signature)), None)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:SIGNATURE_BYTES].lower()
    if other is None and text.startswith((b"<svg", b"<?xml")):
        other = "SVG" if b"<svg" in text else None
    if text.startswith((b"<!doctype html", b"<html")):
        return "is an HTML page, not an image: look at what the server sent when it was downloaded"
    if text.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not an image: fetch the files with `git lfs pull`"
    if other is None:
        return f"is not a {', '.join(READ[:-1])} or {READ[-1]} image"
    return f"is a {other} file, which is not read: {convert(other)}"


def load_optional(name: str) -> str | None:
    """Make an optional format readable; what to say if its package is missing.

    Args:
        name: a key of `OPTIONAL`.
    """
    wanted = OPTIONAL[name]
    try:
        wanted.load()
    except ImportError:
        return (
            f"is a {wanted.name} image, for which a package is missing: pip install 'wanbatch[{wanted.extra}]' on "
            f"every machine with workers, or {convert(name)}"
        )
    return None


def convert(name: str) -> str:
    """The command that makes a PNG of a file of another format, for messages."""
    suffix = _SUFFIXES.get(name, name.lower() if name.isalnum() else "file")
    return f"convert it with `magick in.{suffix} out.png`"
