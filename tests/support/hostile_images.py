"""Run by test_hostile_images.py: hostile images, in a process of its own whose memory is watched.

    python hostile_images.py FOLDER

Writes each image of `CASES` to the folder, measures and loads it, and prints as a line of JSON its name, what became
of it and by how many megabytes the process grew.
"""

from __future__ import annotations

import json
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import pillow_heif
import pillow_jxl  # noqa: F401  teaches Pillow the format
from PIL import Image
from png_making import chunk, raw_png, saved, with_chunk

from wanbatch.errors import RowError
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader

MEGABYTE = 1 << 20


def tiff(entries: list[tuple[int, int, int, int]], body: bytes = b"", following: int = 0) -> bytes:
    """A TIFF whose body comes before its one directory. entries: (tag, type, count, value or offset)."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + struct.pack("<I", following)


def grey_tiff(width: int, height: int, body: bytes, compression: int = 1, **more) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(body))]
    return tiff(tags, body, **more)


def tiff_of_overlapping_tags() -> bytes:
    """30,000 tags that all claim the same megabyte: 30 GB if each is kept."""
    body = b"\1" * MEGABYTE
    real = [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    real += [(277, 3, 1, 1), (278, 4, 1, 16), (279, 4, 1, 256)]
    return tiff([*real, *((tag, 7, MEGABYTE, 8) for tag in range(20_000, 50_000))], body)


def exif_of_overlapping_tags() -> bytes:
    """EXIF of a PNG, the same way."""
    body = b"\1" * 900_000
    return tiff([(tag, 7, len(body), 8) for tag in range(1, 4000)], body)


def gif(width: int, height: int, frame: tuple[int, int, int, int] | None = None, frames: int = 1) -> bytes:
    """A GIF of a canvas and frames (left, top, width, height) without any data."""
    left, top, wide, high = frame or (0, 0, width, height)
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    image = b"," + struct.pack("<HHHHB", left, top, wide, high, 0) + b"\2\3\x84\x51\x05\0"
    return head + image * frames + b";"


def many_pages(count: int) -> bytes:
    """A TIFF whose directories follow each other, in a circle."""
    page = grey_tiff(16, 16, b"\1" * 256)
    at = struct.unpack("<I", page[4:8])[0]
    return b"".join([page[:-4], struct.pack("<I", at)]) + b"\0" * count


def with_size(data: bytes, width: int, height: int) -> bytes:
    """A HEIF container of a picture of 64 x 64 that says another size."""
    box = b"ispe\0\0\0\0"
    return data.replace(box + struct.pack(">II", 64, 64), box + struct.pack(">II", width, height))


def in_avif(width: int, height: int) -> bytes:
    """A small AVIF that says that it is large."""
    data = saved(Image.new("RGB", (64, 64), "red"), "AVIF")
    return data.replace(
        b"ispe\0\0\0\0" + struct.pack(">II", 64, 64), b"ispe\0\0\0\0" + struct.pack(">II", width, height)
    )


def in_heic(width: int, height: int) -> bytes:
    pillow_heif.register_heif_opener()
    data = saved(Image.new("RGB", (64, 64), "red"), "HEIF")
    return data.replace(
        b"ispe\0\0\0\0" + struct.pack(">II", 64, 64), b"ispe\0\0\0\0" + struct.pack(">II", width, height)
    )


def packed_zeros(megabytes: int) -> bytes:
    """What zlib makes of zeros, put together from what it makes of one megabyte: a gigabyte takes it seconds."""
    packer, parts = zlib.compressobj(9), []
    for _ in range(2):  # the first one has the header
        parts.append(packer.compress(b"\0" * MEGABYTE) + packer.flush(zlib.Z_FULL_FLUSH))
    checksum = (megabytes * MEGABYTE % 65_521) << 16 | 1  # Adler-32 (RFC 1950) of zeros
    return parts[0] + parts[1] * (megabytes - 1) + b"\3\0" + struct.pack(">I", checksum)


def large_jxl() -> bytes:
    """100 million pixels of one colour."""
    return saved(Image.new("L", (10_000, 10_000)), "JXL", effort=1)


CASES: dict[str, Callable[[], bytes]] = {
    "TIFF with overlapping tags": tiff_of_overlapping_tags,
    "TIFF with 4 billion values in a tag": lambda: tiff([(256, 4, 2**32 - 1, 8), (257, 4, 1, 16)], b"\1" * 64),
    "TIFF that is its own next page": lambda: many_pages(10),
    "TIFF of 100 million pixels": lambda: grey_tiff(10_000, 10_000, b"\0"),
    "TIFF of 4 billion pixels": lambda: grey_tiff(65_535, 65_535, b"\0"),
    "TIFF of no width": lambda: grey_tiff(0, 10_000, b"\0"),
    "TIFF that unpacks to 1 GB": lambda: grey_tiff(64, 64, packed_zeros(1 << 10), compression=8),
    "PNG with EXIF of overlapping tags": lambda: with_chunk(
        saved(Image.new("RGB", (16, 16)), "PNG"), chunk(b"eXIf", exif_of_overlapping_tags())
    ),
    "PNG of 300,000 empty chunks": lambda: with_chunk(
        saved(Image.new("RGB", (16, 16)), "PNG"), chunk(b"tEXt", b"") * 300_000
    ),
    "PNG that unpacks to 1 GB": lambda: raw_png(16, 16, 8, 2, b"\0" * (1 << 28)),
    "PNG with a chunk of 4 GB": lambda: with_chunk(
        saved(Image.new("RGB", (16, 16)), "PNG"), b"\xff\xff\xff\xffeXIf" + b"\0" * 100
    ),
    "GIF of 4 billion pixels": lambda: gif(65_535, 65_535),
    "GIF with a frame of 4 billion pixels": lambda: gif(8, 8, (0, 0, 65_535, 65_535)),
    "GIF of 500,000 frames": lambda: gif(8, 8, frames=500_000),
    "AVIF of 4 billion pixels": lambda: in_avif(65_535, 65_535),
    "AVIF of another size than it says": lambda: in_avif(4000, 4000),
    "HEIC of 4 billion pixels": lambda: in_heic(65_535, 65_535),
    "HEIC of another size than it says": lambda: in_heic(4000, 4000),
    "JPEG XL of 100 million pixels": large_jxl,
    "BMP of 4 billion pixels": lambda: (
        saved(Image.new("RGB", (4, 4)), "BMP")[:18]
        + struct.pack("<ii", 65_535, 65_535)
        + saved(Image.new("RGB", (4, 4)), "BMP")[26:]
    ),
}


def peak() -> int:
    """The most memory that this process had since `forget_peak`, in megabytes."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024


def forget_peak() -> None:
    """Begin anew to look for the most memory."""
    Path("/proc/self/clear_refs").write_text("5")


def main(folder: Path) -> None:
    """Print what becomes of each image."""
    path = folder / "a.img"
    for name, make in CASES.items():
        path.write_bytes(data := make())
        forget_peak()
        before, outcomes = peak(), []
        with SourceLoader(folder) as loader:
            for action in (loader.size, loader.load):
                try:
                    action(Source(path.name))
                    outcomes.append("read")
                except RowError as error:
                    outcomes.append(error.kind)
        told = {"name": name, "bytes": len(data), "outcomes": outcomes, "grown_megabytes": peak() - before}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
