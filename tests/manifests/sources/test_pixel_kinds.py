"""What comes of each kind of pixels and each format, value by value, by the rules in `decoding.py`."""

from __future__ import annotations

import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image
from png_making import chunk, raw_png, saved

from wanbatch.manifests.sources.decoding import decode, read_header, upright_size
from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.notes import CLIPPED, FIRST_FRAME

GREYS = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16) + np.uint16(100)


def decoded(data: bytes, max_pixels: int = 1 << 20) -> tuple[np.ndarray, set[str]]:
    opened = read_header(io.BytesIO(data), max_pixels)
    pixels = decode(opened)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert upright_size(read_header(io.BytesIO(data), max_pixels, with_pixels=False)) == pixels.shape[1::-1]
    return pixels, opened.notes


def refused(data: bytes, max_pixels: int = 1 << 20) -> SourceError:
    with pytest.raises(SourceError) as caught:
        decode(read_header(io.BytesIO(data), max_pixels))
    return caught.value


def tiff(values: np.ndarray, photometric: int, bits: int, kind: int = 1, order: str = "<") -> bytes:
    """A plain TIFF of one strip of grey values; kind: 1 without sign, 2 with it, 3 floats."""
    height, width = values.shape
    body = values.tobytes()
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 4, height), (279, 4, len(body)), (339, 3, kind)]
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, size, 1) + struct.pack(f"{order}{'HxxI'[:3] if size == 3 else 'I'}", value)
        for tag, size, value in tags
    )
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(body))
    return head + body + struct.pack(f"{order}H", len(tags)) + entries + b"\0\0\0\0"


class TestGrey:
    def test_sixteen_bits(self):
        wanted = np.rint(GREYS / 257).astype(np.uint8)
        files = [saved(Image.fromarray(GREYS), kind) for kind in ("PNG", "TIFF")]
        for data in (*files, tiff(GREYS.astype(">u2"), 1, 16, order=">")):
            pixels, notes = decoded(data)
            assert np.array_equal(pixels, np.repeat(wanted[..., None], 3, axis=2))
            assert notes == set()

    def test_white_is_zero(self):
        pixels, _ = decoded(tiff(GREYS, 0, 16))
        assert np.array_equal(pixels[..., 1], np.rint((65535 - GREYS) / 257).astype(np.uint8))

    def test_twelve_bits(self):
        values = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
        pairs = values.reshape(-1, 2).astype(int)
        packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
        pixels, _ = decoded(_with_width(tiff(packed.astype(np.uint8).reshape(16, 24), 1, 12), 16))
        assert np.array_equal(pixels[..., 0], np.rint(values * (255 / 4095)).astype(np.uint8))

    def test_floats(self):
        values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
        pixels, notes = decoded(saved(Image.fromarray(values), "TIFF"))
        assert np.array_equal(pixels[..., 2].ravel(), np.arange(256))
        assert notes == set()
        values[0, :4] = [-1, 2, np.nan, np.inf]
        pixels, notes = decoded(saved(Image.fromarray(values), "TIFF"))
        assert pixels[0, :5, 0].tolist() == [0, 255, 0, 255, 4]
        assert notes == {CLIPPED}

    @pytest.mark.parametrize("values", [GREYS.astype(np.int32), GREYS.astype(np.int16)])
    def test_integers_without_a_known_white_are_refused(self, values):
        error = refused(tiff(values, 1, values.itemsize * 8, kind=2))
        assert error.kind == "bad_image"
        assert "convert it to 16 bits" in error.message

    @pytest.mark.parametrize("depth", [1, 2, 4, 8])
    @pytest.mark.parametrize("transparent", [False, True])
    def test_few_bits_with_and_without_a_transparent_value(self, depth, transparent):
        most = 2**depth - 1
        line = bytes(range(256)) if depth == 8 else bytes([0b00011011] * 4)
        key = most // 2 if depth > 1 else 0
        tags = [chunk(b"tRNS", struct.pack(">H", key))] if transparent else []
        width = len(line) * 8 // depth
        pixels, _ = decoded(raw_png(width, 1, depth, 0, b"\0" + line, *tags))
        bits = np.unpackbits(np.frombuffer(line, np.uint8)).reshape(-1, depth)
        values = (bits * (2 ** np.arange(depth)[::-1])).sum(axis=1)
        wanted = values * (255 // most)
        wanted[(values == key) & transparent] = 255
        assert pixels[0, :, 0].tolist() == wanted.tolist()

    def test_sixteen_bits_with_a_transparent_value(self):
        lines = b"\0" + np.array([0, 30000, 65535], ">u2").tobytes()
        pixels, _ = decoded(raw_png(3, 1, 16, 0, lines, chunk(b"tRNS", struct.pack(">H", 30000))))
        assert pixels[0, :, 0].tolist() == [0, 255, 255]

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_grey_with_opacity(self, kind):
        image = Image.merge("LA", [Image.new("L", (2, 1), 100), Image.new("L", (2, 1), 255)])
        image.putpixel((1, 0), (100, 0))
        assert decoded(saved(image, kind))[0][0, :, 0].tolist() == [100, 255]

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
    def test_one_bit(self, kind):
        image = Image.new("1", (9, 2))
        image.putpixel((3, 1), 1)
        pixels, _ = decoded(saved(image, kind))
        assert np.array_equal(pixels[..., 0], np.asarray(image) * np.uint8(255))


class TestColours:
    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
    def test_eight_bits(self, kind, gradient):
        assert np.array_equal(decoded(saved(Image.fromarray(gradient), kind))[0], gradient)

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "group4"])
    def test_compressed_tiff(self, compression, gradient):
        image = Image.fromarray(gradient).convert("1" if compression == "group4" else "RGB")
        pixels, _ = decoded(saved(image, "TIFF", compression=compression))
        assert np.array_equal(pixels, np.asarray(image.convert("RGB")))

    def test_sixteen_bits_give_the_upper_eight(self):
        values = np.arange(0, 65536, 342, dtype=np.uint16)[:192].reshape(8, 8, 3)
        lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
        pixels, _ = decoded(raw_png(8, 8, 16, 2, lines))
        assert np.array_equal(pixels, (values >> 8).astype(np.uint8))

    def test_a_transparent_colour_of_sixteen_bits(self):
        lines = b"\0" + np.array([[1000, 2000, 3000], [40000, 50000, 60000]], ">u2").tobytes()
        key = chunk(b"tRNS", struct.pack(">3H", 1000, 2000, 3000))
        pixels, _ = decoded(raw_png(2, 1, 16, 2, lines, key))
        assert pixels[0].tolist() == [[255, 255, 255], [156, 195, 234]]

    def test_gif_and_its_transparency(self):
        image = Image.new("P", (4, 4), 1)
        image.putpalette([0, 0, 0, 10, 20, 30] + [0] * 762)
        image.putpixel((0, 0), 0)
        pixels, notes = decoded(saved(image, "GIF", transparency=0))
        assert (pixels[0, 0].tolist(), pixels[1, 1].tolist()) == ([255, 255, 255], [10, 20, 30])
        assert notes == set()

    def test_premultiplied_opacity(self):
        image = Image.new("RGBa", (3, 1), (100, 50, 0, 128))
        pixels, _ = decoded(saved(image.convert("RGBA"), "TIFF"))
        assert pixels[0, 0].tolist() == [227, 177, 127]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "AVIF", "HEIF"])
def test_the_first_of_several_frames_with_a_note(kind):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "lime")]
    pixels, notes = decoded(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 4
    assert notes == {FIRST_FRAME}
    assert FIRST_FRAME not in decoded(saved(frames[0], kind))[1]


def test_a_photograph_with_previews_has_no_note():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    assert decoded(saved(frames[0], "MPO", save_all=True, append_images=frames[1:]))[1] == set()


class TestExtras:
    def test_heic(self, gradient):
        pytest.importorskip("pillow_heif").register_heif_opener()
        data = saved(Image.fromarray(gradient), "HEIF", quality=-1, chroma=444)
        pixels, _ = decoded(data)
        assert np.abs(pixels.astype(int) - gradient).max() <= 4
        assert refused(data, max_pixels=900).kind == "too_large"

    def test_jpeg_xl(self, gradient):
        pytest.importorskip("pillow_jxl")
        for container in (False, True):
            data = saved(Image.fromarray(gradient), "JXL", lossless=True, use_container=container)
            assert np.array_equal(decoded(data)[0], gradient)
            assert "is 40x24" in refused(data, max_pixels=900).message

    @pytest.mark.parametrize("size", [(8, 8), (40, 24), (256, 256), (257, 100), (1000, 500), (3, 1000), (2000, 1125)])
    def test_the_size_of_jpeg_xl_by_its_header(self, size):
        pytest.importorskip("pillow_jxl")
        data = saved(Image.new("L", size), "JXL", effort=1)
        assert f"is {size[0]}x{size[1]};" in refused(data, max_pixels=1).message

    @pytest.mark.parametrize(
        ("package", "start", "extra", "suffix"),
        [
            ("pillow_heif", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heic", "heic"),
            ("pillow_jxl", b"\xff\x0a\x00\x00", "jxl", "jxl"),
        ],
    )
    def test_without_the_package_it_is_named_with_its_remedy(self, monkeypatch, package, start, extra, suffix):
        monkeypatch.setitem(sys.modules, package, None)
        message = refused(start + b"\0" * 100).message
        assert f"pip install 'wanbatch[{extra}]'" in message
        assert f"`magick in.{suffix} out.png`" in message


class TestOtherFiles:
    @pytest.mark.parametrize(
        ("start", "said"),
        [
            (b"8BPS\0\1", "is a Photoshop file, which is not read: convert it with `magick in.psd out.png`"),
            (b"\0\0\0\x0cjP  \r\n\x87\n", "is a JPEG 2000 file, which is not read"),
            (b"%PDF-1.7", "is a PDF file"),
            (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg xmlns='x'>", "is a SVG file"),
            (b"\n<!DOCTYPE HTML>", "is an HTML page, not an image"),
            (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
            (b"hello", "is not a PNG, JPEG, WEBP, GIF, BMP, TIFF or AVIF image"),
        ],
    )
    def test_are_named(self, start, said):
        error = refused(start + b"\0" * 600)
        assert error.kind == "bad_image"
        assert said in error.message

    def test_camera_raw_is_not_taken_for_its_preview(self):
        data = saved(Image.new("RGB", (16, 16)), "TIFF", tiffinfo={50706: b"\1\4\0\0"})
        assert "is a camera raw file" in refused(data).message
        data = saved(Image.new("RGB", (16, 16)), "TIFF", tiffinfo={254: 1})
        assert "begins with a reduced image" in refused(data).message


def _with_width(data: bytes, width: int) -> bytes:
    """A TIFF that says another width."""
    at = data.index(struct.pack("<HHI", 256, 4, 1)) + 8
    return data[:at] + struct.pack("<I", width) + data[at + 4 :]
