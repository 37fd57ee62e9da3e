"""Which way up a source is: as Pillow's `exif_transpose` says, for the size that is planned and for the pixels."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from png_making import chunk, saved, with_chunk

from wanbatch.manifests.sources.decoding import decode, read_header, upright_size
from wanbatch.manifests.sources.notes import METADATA_SKIPPED

LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}
LOSSY = {"JPEG": {"quality": 95}, "AVIF": {"quality": 95}, "HEIF": {"quality": 95}}


def exif(orientation: int) -> bytes:
    """EXIF that says nothing else, without a header of its own."""
    return b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1" + struct.pack(">H", orientation) + b"\0\0\0\0\0\0"


def xmp(orientation: int, as_element: bool = False) -> bytes:
    said = f"<tiff:Orientation>{orientation}</tiff:Orientation>" if as_element else ""
    attribute = "" if as_element else f' tiff:Orientation="{orientation}"'
    return f"<x:xmpmeta><rdf:Description{attribute}>{said}</rdf:Description></x:xmpmeta>".encode()


def raw_profile(orientation: int) -> bytes:
    """As ImageMagick 6 writes EXIF into the text of a PNG."""
    digits = (b"Exif\0\0" + exif(orientation)).hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    return f"\nexif\n{len(digits) // 2:8d}\n{lines}\n".encode()


def itxt(content: bytes, packed: bool) -> bytes:
    head = b"XML:com.adobe.xmp\0" + (b"\1\0" if packed else b"\0\0") + b"\0\0"
    return chunk(b"iTXt", head + (zlib.compress(content) if packed else content))


IN_PNG = {
    "eXIf": lambda value: chunk(b"eXIf", exif(value)),
    "ImageMagick's zTXt": lambda value: chunk(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(value))
    ),
    "ImageMagick's tEXt": lambda value: chunk(b"tEXt", b"Raw profile type exif\0" + raw_profile(value)),
    "XMP": lambda value: itxt(xmp(value), packed=False),
    "packed XMP": lambda value: itxt(xmp(value, as_element=True), packed=True),
}


def check(data: bytes, tolerance: int = 0) -> tuple[np.ndarray, set[str]]:
    """The pixels, which are as Pillow turns them and as large as was measured without them."""
    opened = read_header(io.BytesIO(data), 1 << 20)
    pixels = decode(opened)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert pixels.shape == wanted.shape
    assert np.abs(pixels.astype(int) - wanted).max() <= tolerance
    measured = upright_size(read_header(io.BytesIO(data), 1 << 20, with_pixels=False))
    assert measured == (pixels.shape[1], pixels.shape[0])
    return pixels, opened.notes


@pytest.mark.parametrize("late", [False, True], ids=["before the pixels", "behind them"])
@pytest.mark.parametrize("where", IN_PNG)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_png(gradient, where, late, orientation):
    plain = saved(Image.fromarray(gradient), "PNG")
    pixels, notes = check(with_chunk(plain, IN_PNG[where](orientation), late))
    turned = orientation >= 5
    assert pixels.shape == ((40, 24, 3) if turned else (24, 40, 3))
    assert np.array_equal(pixels, gradient) == (orientation == 1)
    assert notes == set()


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_other_formats(gradient, kind, orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    options = {**LOSSLESS, **LOSSY}[kind]
    if kind == "HEIF":  # which has a way of its own to turn images; EXIF is for information there
        pytest.importorskip("pillow_heif").register_heif_opener()
    pixels, _ = check(saved(Image.fromarray(gradient), kind, exif=tags, **options))
    assert pixels.shape == ((40, 24, 3) if orientation >= 5 and kind != "HEIF" else (24, 40, 3))


@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "WEBP"])
def test_by_xmp_alone(gradient, kind):
    options = {"tiffinfo": {700: xmp(6)}} if kind == "TIFF" else {"xmp": xmp(6)}
    pixels, _ = check(saved(Image.fromarray(gradient), kind, **options, **LOSSLESS.get(kind, {})))
    assert pixels.shape == (40, 24, 3)


def test_exif_wins_over_xmp(gradient):
    plain = saved(Image.fromarray(gradient), "PNG")
    pixels, _ = check(with_chunk(with_chunk(plain, IN_PNG["XMP"](6)), IN_PNG["eXIf"](3), late=True))
    assert np.array_equal(pixels, gradient[::-1, ::-1])


@pytest.mark.parametrize(
    "bad",
    [
        chunk(b"eXIf", b"nothing of the kind"),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 4\nxyz\n")),
        chunk(b"zTXt", b"Raw profile type exif\0\0not packed"),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b" " * (2 << 20))),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0" + b"\0" * (2 << 20)),
        chunk(b"eXIf", exif(6))[:-1] + b"\0",
        itxt(xmp(6) + b" " * (2 << 20), packed=True),
    ],
    ids=["no EXIF", "no digits", "not packed", "text bomb", "large EXIF", "checksum", "large XMP"],
)
def test_metadata_that_is_damaged_or_too_large_costs_no_picture(gradient, bad):
    plain = saved(Image.fromarray(gradient), "PNG")
    opened = read_header(io.BytesIO(with_chunk(plain, bad)), 1 << 20)
    assert np.array_equal(decode(opened), gradient)
    assert opened.notes == {METADATA_SKIPPED}


def test_large_texts_about_other_things_are_no_matter(gradient):
    """Pillow refuses more than a megabyte; programs that make pictures note whole workflows there."""
    plain = saved(Image.fromarray(gradient), "PNG")
    for text in (b"workflow\0" + b"x" * (2 << 20), b"workflow\0\0" + zlib.compress(b"x" * (8 << 20))):
        data = with_chunk(plain, chunk(b"tEXt" if text[9:10] == b"x" else b"zTXt", text))
        opened = read_header(io.BytesIO(data), 1 << 20)
        assert np.array_equal(decode(opened), gradient)
        assert opened.notes == set()


def test_a_png_is_measured_by_a_few_bytes_of_it():
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    data = with_chunk(saved(Image.fromarray(noise), "PNG"), IN_PNG["eXIf"](6), late=True)
    file = io.BytesIO(data)
    taken = []
    read = file.read

    class Counting(io.BytesIO):
        def read(self, size=-1):
            found = super().read(size)
            taken.append(len(found))
            return found

    assert len(read()) > 1_800_000
    assert upright_size(read_header(Counting(data), 1 << 20, with_pixels=False)) == (700, 900)
    assert sum(taken) < 20_000
