"""PNG files by their chunks."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunk(data: bytes, added: bytes, late: bool = False) -> bytes:
    """A PNG with one more chunk, before the pixels or behind them."""
    at = len(data) - 12 if late else 33
    return data[:at] + added + data[at:]


def raw_png(width: int, height: int, depth: int, kind: int, lines: bytes, *chunks: bytes) -> bytes:
    """A PNG of packed lines, each with its filter byte. kind: 0 is grey, 2 colours, 3 a palette."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    rest = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + rest


def saved(image: Image.Image, kind: str, **options) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
