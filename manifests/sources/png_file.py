"""PNG files by their chunks: what Pillow is given of one, and the metadata that it is not given.

Pillow refuses a PNG for metadata that is too large or damaged, and finds metadata behind the pixels only by decoding
them. So it gets the chunks that make the picture, and the few others that matter are read here.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from wanbatch.manifests.sources.errors import SourceError

MAX_PROFILE = 4 << 20
MAX_TEXT = 1 << 20
"""The most bytes that a colour profile and other metadata may have, unpacked. What is larger is left out."""

MAX_CHUNKS = 200_000

_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_READ = (b"eXIf", b"iCCP", b"cICP", b"sRGB", b"gAMA", b"acTL", *_TEXTS)
_EXIF_TEXT, _XMP = b"Raw profile type exif", b"XML:com.adobe.xmp"
_PLAIN_GAMMA = 45455  # of sRGB, in 1/100000
_SRGB_CODES = ((1, 13), (1, 1), (1, 6))  # primaries and transfer function of ITU-T H.273 that look like sRGB


@dataclass(slots=True)
class PngMetadata:
    """What a PNG says beside its picture.

    Attributes:
        info: under the names that Pillow has for it: `exif`, `Raw profile type exif`, `xmp`, `icc_profile`.
        skipped: something was damaged or too large, and is left out.
        colour_tags: there are tags of colours that are not sRGB's, and no profile.
        animated: there are several frames.
        depth: bits a channel.
    """

    info: dict[str, Any] = field(default_factory=dict)
    skipped: bool = False
    colour_tags: bool = False
    animated: bool = False
    depth: int = 8


def picture_alone(file: BinaryIO, with_pixels: bool) -> tuple[BinaryIO, PngMetadata]:
    """A PNG with nothing but its picture, and what the rest of it says.

    Args:
        file: a PNG; it may be damaged.
        with_pixels: otherwise the picture ends where its pixels begin, and few bytes of the file are read.
    Raises:
        SourceError: of kind `bad_image`, if it has too many chunks.
        OSError: if the file cannot be read.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    kept, found = [file.read(8)], PngMetadata()
    tags: dict[bytes, bytes] = {}
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        kind, after = head[4:], file.tell() + int.from_bytes(head[:4], "big") + 4
        if len(head) < 8 or not kind.isalpha():
            kept.append(head)  # Pillow says what is wrong with it
            break
        if kind == b"IDAT" and not with_pixels:
            kept.append(head)  # as far as Pillow reads when it opens a file
        elif kind in _PICTURE:
            kept += head, file.read(min(after, size) - file.tell())
        elif kind in _READ:
            data = _read_tag(file, kind, after)
            found.skipped |= data is None
            if data is not None:
                tags[kind] = data
                _note(found, kind, data)
        if kind == b"IEND":
            break
        file.seek(min(after, size))
    else:
        raise SourceError("bad_image", f"has more than {MAX_CHUNKS} chunks")
    found.colour_tags = "icc_profile" not in found.info and _has_other_colours(tags)
    found.depth = kept[2][8] if len(kept) > 2 and len(kept[2]) > 8 else 8
    return io.BytesIO(b"".join(kept)), found


def without_pixels(start: bytes, end: bytes) -> bytes | None:
    """A PNG without its pixels, made of the beginning and the end of the file, to read its metadata from.

    Args:
        start: the first bytes.
        end: the last bytes.
    Returns:
        The file with empty pixels; None if the pixels do not begin in the one part or do not end in the other.
    """
    if (at := pixels_begin(start)) is None:
        return None
    empty = b"\0\0\0\0IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")
    last = len(end)
    while (last := end.rfind(b"IDAT", 4, last)) >= 0:
        behind = last + 8 + int.from_bytes(end[last - 4 : last], "big")
        if _ends_in_chunks(end, behind):
            return start[:at] + empty + end[behind:]
        last += 3
    return None


def pixels_begin(start: bytes) -> int | None:
    """Where the first chunk of pixels is in the first bytes of a PNG; None if it is not in them."""
    at = 8
    while (kind := start[at + 4 : at + 8]) != b"IDAT":
        if len(kind) < 4:
            return None
        at += int.from_bytes(start[at : at + 4], "big") + 12
    return at


def _ends_in_chunks(data: bytes, at: int) -> bool:
    """Whether there are chunks from here to the last one of a PNG."""
    while len(kind := data[at + 4 : at + 8]) == 4 and kind.isalpha():
        at += int.from_bytes(data[at : at + 4], "big") + 12
        if kind == b"IEND":
            return at <= len(data)
    return False


def _read_tag(file: BinaryIO, kind: bytes, after: int) -> bytes | None:
    """What a chunk says, empty if it is a text about other things; None if it is damaged or too large.

    Args:
        file: behind the chunk's head.
        kind: of the chunk.
        after: where the next one begins.
    """
    length = after - 4 - file.tell()
    data = file.read(min(length, 128))
    if kind in _TEXTS and data.partition(b"\0")[0] not in (_EXIF_TEXT, _XMP):
        return b""
    if length > MAX_PROFILE:
        return None
    data += file.read(length - len(data))
    return data if zlib.crc32(data, zlib.crc32(kind)) == int.from_bytes(file.read(4), "big") else None


def _note(found: PngMetadata, kind: bytes, data: bytes) -> None:
    """Take what one chunk says into account, as Pillow does."""
    if kind == b"eXIf":
        if len(data) > MAX_TEXT:
            found.skipped = True
        else:
            found.info["exif"] = b"Exif\0\0" + data
    elif kind == b"acTL":
        found.animated = len(data) >= 8 and struct.unpack(">I", data[:4])[0] > 1
    elif kind == b"iCCP":
        profile = _unpacked(data.partition(b"\0")[2], MAX_PROFILE)
        found.skipped |= profile is None
        if profile:
            found.info["icc_profile"] = profile
    elif kind in _TEXTS:
        _note_text(found, kind, data)


def _note_text(found: PngMetadata, kind: bytes, data: bytes) -> None:
    name, _, rest = data.partition(b"\0")
    if name not in (_EXIF_TEXT, _XMP):
        return
    text: bytes | None = rest
    if kind == b"zTXt":
        text = _unpacked(rest, MAX_TEXT)
    elif kind == b"iTXt":
        content = rest[2:].split(b"\0", 2)[-1]
        text = content if rest[:1] == b"\0" else _unpacked(rest[1:2] + content, MAX_TEXT)
    if text is None or len(text) > MAX_TEXT:
        found.skipped = True
    elif name == _XMP:
        found.info["xmp"] = text
    else:
        found.info[name.decode()] = text.decode("latin-1")


def _unpacked(data: bytes, limit: int) -> bytes | None:
    """What is packed in a chunk, after the byte that says how; None if it is damaged or larger than the limit."""
    unpacking = zlib.decompressobj()
    try:
        unpacked = unpacking.decompress(data[1:], limit + 1)
    except zlib.error:
        return None
    return unpacked if data[:1] == b"\0" and unpacking.eof and len(unpacked) <= limit else None


def _has_other_colours(tags: dict[bytes, bytes]) -> bool:
    """Whether there are tags that say how colours are meant, and not as sRGB. The first kind there is counts."""
    if b"cICP" in tags:
        return tuple(tags[b"cICP"][:2]) not in _SRGB_CODES
    if b"sRGB" in tags:
        return False
    gamma = int.from_bytes(tags.get(b"gAMA", b"")[:4], "big") or _PLAIN_GAMMA
    return abs(gamma - _PLAIN_GAMMA) > _PLAIN_GAMMA * 0.02
