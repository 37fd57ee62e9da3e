"""Source images: right pixels from odd files, clean errors from bad ones, nothing read outside the root."""

import hashlib
import io
import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from manifest_making import encoded
from PIL import Image

from wanbatch.errors import RowError
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader


@pytest.fixture
def loader(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    with SourceLoader(root) as loader:
        yield loader


@pytest.fixture
def root(loader, tmp_path):
    return tmp_path / "root"


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is this large and holds next to nothing."""
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return start + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def png16(values: np.ndarray) -> bytes:
    """A PNG with 16 bits a channel; values: uint16 [height, width, 3]."""
    height, width, _ = values.shape
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def refused(loader: SourceLoader, path: str) -> RowError:
    with pytest.raises(RowError) as caught:
        loader.load(Source(path))
    assert caught.value.stage == "source"
    with pytest.raises(RowError):
        loader.load(Source(path))  # again: nothing is left in a bad state
    return caught.value


class TestPixels:
    def load(self, loader, root, data: bytes) -> np.ndarray:
        (root / "a.img").write_bytes(data)
        loaded = loader.load(Source("a.img"))
        assert loaded.sha256 == hashlib.sha256(data).hexdigest()
        assert loaded.pixels.dtype == np.uint8
        assert loaded.pixels.flags.c_contiguous
        height, width, channels = loaded.pixels.shape
        assert channels == 3
        assert loader.size(Source("a.img")) == (width, height)
        return loaded.pixels

    def test_png_and_webp_are_exact(self, loader, root, gradient):
        image = Image.fromarray(gradient)
        assert np.array_equal(self.load(loader, root, saved(image, "PNG")), gradient)
        assert np.array_equal(self.load(loader, root, saved(image, "WEBP", lossless=True)), gradient)

    def test_jpeg(self, loader, root, gradient):
        pixels = self.load(loader, root, saved(Image.fromarray(gradient), "JPEG", quality=95))
        assert np.abs(pixels.astype(int) - gradient).mean() < 4

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_exif_orientation(self, loader, root, gradient, orientation, kind):
        seen = {
            1: gradient,
            2: gradient[:, ::-1],
            3: gradient[::-1, ::-1],
            4: gradient[::-1],
            5: gradient.transpose(1, 0, 2),
            6: np.rot90(gradient, -1),
            7: gradient[::-1, ::-1].transpose(1, 0, 2),
            8: np.rot90(gradient, 1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = saved(Image.fromarray(gradient), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
        assert np.array_equal(self.load(loader, root, data), seen)

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
    def test_damaged_exif_is_ignored(self, loader, root, gradient):
        for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0"):
            data = saved(Image.fromarray(gradient), "JPEG", exif=exif)
            assert self.load(loader, root, data).shape == (24, 40, 3)

    def test_cmyk(self, loader, root):
        data = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
        assert np.abs(self.load(loader, root, data).astype(int) - (255, 0, 0)).max() <= 3

    def test_sixteen_bit_grey_is_scaled(self, loader, root):
        values = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
        pixels = self.load(loader, root, saved(Image.fromarray(values), "PNG"))
        assert np.array_equal(pixels[..., 0], np.rint(values / 257).astype(np.uint8))
        assert np.array_equal(pixels[..., 0], pixels[..., 2])

    def test_sixteen_bit_colour_is_scaled(self, loader, root):
        values = np.arange(0, 65536, 342, dtype=np.uint16)[:192].reshape(8, 8, 3)
        pixels = self.load(loader, root, png16(values))
        assert np.abs(pixels.astype(float) - values / 257).max() <= 1

    def test_transparency_is_laid_over_white(self, loader, root):
        rgba = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
        rgba.putpixel((1, 0), (255, 0, 0, 255))
        rgba.putpixel((2, 0), (0, 0, 0, 128))
        pixels = self.load(loader, root, saved(rgba, "PNG"))
        assert pixels[0, :3].tolist() == [[255, 255, 255], [255, 0, 0], [127, 127, 127]]

    def test_palette_with_transparency(self, loader, root):
        image = Image.new("P", (4, 4), 1)
        image.putpalette([0, 0, 0, 10, 20, 30] + [0] * 762)
        image.putpixel((0, 0), 0)
        pixels = self.load(loader, root, saved(image, "PNG", transparency=0))
        assert pixels[0, 0].tolist() == [255, 255, 255]
        assert pixels[1, 1].tolist() == [10, 20, 30]

    @pytest.mark.parametrize(("mode", "colour", "seen"), [("L", 77, 77), ("1", 1, 255), ("LA", (9, 255), 9)])
    def test_grey_modes(self, loader, root, mode, colour, seen):
        pixels = self.load(loader, root, saved(Image.new(mode, (5, 3), colour), "PNG"))
        assert pixels.shape == (3, 5, 3)
        assert (pixels == seen).all()

    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_the_first_frame_of_an_animation(self, loader, root, kind):
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        options = {"lossless": True} if kind == "WEBP" else {}
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert (self.load(loader, root, data) == (255, 0, 0)).all()

    def test_the_first_frame_of_a_phone_picture(self, loader, root):
        frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
        pixels = self.load(loader, root, saved(frames[0], "MPO", save_all=True, append_images=frames[1:]))
        assert np.abs(pixels.astype(int) - (255, 0, 0)).max() < 5


class TestBadFiles:
    @pytest.mark.parametrize(
        ("data", "kind", "said"),
        [
            (b"", "bad_image", "is empty"),
            (b"<!doctype html><html><body>404</body></html>", "bad_image", "is an HTML page, not an image"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "bad_image", "is a PostScript file, which is not"),
            (b"nothing", "bad_image", "is not a PNG, JPEG, WEBP, GIF, BMP, TIFF or AVIF image"),
            (b"GIF89a" + b"\0" * 50, "bad_image", "is a GIF image that is damaged"),
            (b"II*\0" + b"\0" * 50, "bad_image", "is a TIFF image that is damaged"),
            (
                png_header(32, 32),
                "bad_image",
                "): it is damaged or was cut off; save or fetch it again",
            ),
            (png_header(10_000, 10_000), "too_large", "is 10000x10000; at most 64000000 pixels"),
            (png_header(14_500, 14_000), "too_large", "too many pixels"),
            (png_header(2**31 - 1, 2**31 - 1), "too_large", "too many pixels"),
        ],
        ids=["empty", "html", "eps", "text", "gif", "tiff", "short", "100MP", "200MP", "huge"],
    )
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_what_is_no_image_we_take(self, loader, root, data, kind, said):
        (root / "a.png").write_bytes(data)
        error = refused(loader, "a.png")
        assert error.kind == kind
        assert said in error.message
        assert error.message.startswith("a.png ")

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    def test_truncated(self, loader, root, kind):
        noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        data = saved(Image.fromarray(noise), kind)
        for length in (len(data) // 2, len(data) - 40, 10):
            (root / "a.png").write_bytes(data[:length])
            assert refused(loader, "a.png").kind == "bad_image"

    def test_too_many_bytes(self, root, loader):
        (root / "a.png").write_bytes(encoded())
        small = SourceLoader(root, max_bytes=50)
        assert refused(small, "a.png").kind == "too_large"
        with open(root / "sparse.png", "wb") as file:
            file.truncate(1 << 40)
        assert "has 1099511627776 bytes" in refused(loader, "sparse.png").message

    def test_the_pixel_cap_is_checked_before_decoding(self, root, loader):
        """A real 256-megapixel PNG of 250 kB is refused in a process that could not hold its pixels."""
        Image.MAX_IMAGE_PIXELS, kept = None, Image.MAX_IMAGE_PIXELS
        try:
            Image.new("1", (16_000, 16_000)).save(root / "bomb.png")
        finally:
            Image.MAX_IMAGE_PIXELS = kept
        code = (
            "import resource, sys\n"
            "from wanbatch.errors import RowError\n"
            "from wanbatch.manifests.records import Source\n"
            "from wanbatch.manifests.sources.loader import SourceLoader\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "try:\n    SourceLoader(sys.argv[1]).load(Source('bomb.png'))\n"
            "except RowError as error:\n    print(error.kind)\n"
            "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True)
        kind, grown = done.stdout.split()
        assert kind == "too_large"
        assert int(grown) < 60

    def test_missing_and_unreadable(self, loader, root):
        assert refused(loader, "none.png").kind == "missing_image"
        assert refused(loader, "none/none.png").kind == "missing_image"
        assert refused(loader, "x" * 5000).kind == "missing_image"
        (root / "folder.png").mkdir()
        assert refused(loader, "folder.png").kind == "bad_image"

    def test_a_pipe_does_not_hang(self, loader, root):
        os.mkfifo(root / "pipe.png")
        assert "is not a regular file" in refused(loader, "pipe.png").message

    def test_random_damage_gives_an_image_or_a_row_error(self, loader, root):
        random = np.random.default_rng(7)
        for kind in ("PNG", "JPEG", "WEBP"):
            noise = random.integers(0, 255, (48, 32, 3), dtype=np.uint8)
            data = np.frombuffer(saved(Image.fromarray(noise), kind), np.uint8)
            for _ in range(60):
                damaged = data.copy()
                places = random.integers(0, len(data), 4)
                damaged[places] = random.integers(0, 255, 4)
                (root / "a.png").write_bytes(damaged.tobytes())
                try:
                    pixels = loader.load(Source("a.png")).pixels
                except RowError as error:
                    kind_of_error = error.kind
                else:
                    kind_of_error = None
                    assert pixels.shape[2] == 3
                assert kind_of_error in (None, "bad_image", "too_large")


class TestConfinement:
    @pytest.fixture(autouse=True)
    def secret(self, root):
        (root.parent / "secret.png").write_bytes(encoded())
        (root / "inside.png").write_bytes(encoded())
        (root / "deep").mkdir()

    @pytest.mark.parametrize(
        "path",
        [
            "../secret.png",
            "deep/../../secret.png",
            "/etc/passwd",
            "file:///etc/passwd",
            "http://127.0.0.1/a.png",
            "a\0.png",
            "",
        ],
    )
    def test_paths_that_leave_by_their_text(self, loader, path):
        assert refused(loader, path).kind == "forbidden_source"

    @pytest.mark.parametrize("target", ["../secret.png", "/etc/hostname", "../none.png"])
    def test_links_that_leave(self, loader, root, target):
        (root / "link.png").symlink_to(target)
        assert refused(loader, "link.png").kind == "forbidden_source"

    def test_folders_that_are_links(self, loader, root):
        (root / "away").symlink_to("..")
        assert refused(loader, "away/secret.png").kind == "forbidden_source"
        (root.parent / "root-beside").mkdir()
        (root.parent / "root-beside" / "a.png").write_bytes(encoded())
        (root / "beside").symlink_to("../root-beside")
        assert refused(loader, "beside/a.png").kind == "forbidden_source"

    def test_a_link_in_a_circle(self, loader, root):
        (root / "loop.png").symlink_to("loop.png")
        assert refused(loader, "loop.png").kind in ("missing_image", "unreadable_image")

    def test_links_that_stay_and_absolute_paths_inside_are_fine(self, loader, root):
        (root / "deep" / "link.png").symlink_to("../inside.png")
        assert loader.size(Source("deep/link.png")) == (32, 32)
        assert loader.size(Source(str(root / "inside.png"))) == (32, 32)

    def test_a_root_that_is_a_link_itself(self, root):
        (root.parent / "alias").symlink_to(root)
        loader = SourceLoader(root.parent / "alias")
        assert loader.size(Source("inside.png")) == (32, 32)
        assert loader.size(Source(str(root.parent / "alias" / "inside.png"))) == (32, 32)
        assert loader.size(Source(str(root / "inside.png"))) == (32, 32)


def test_an_embedded_reference_that_went_stale(tmp_path, loader):
    for file in (tmp_path / "none.parquet", tmp_path / "damaged.parquet"):
        if file.stem == "damaged":
            file.write_bytes(b"PAR1 not really PAR1")
        with pytest.raises(RowError) as caught:
            loader.load(Source(None, 1.0, str(file), 0, "image", 0))
        assert caught.value.kind == "unreadable_image"


def test_loading_many_large_files_keeps_memory_flat(root, loader):
    pixels = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), dtype=np.uint8)
    (root / "a.png").write_bytes(saved(Image.fromarray(pixels), "PNG", compress_level=1))
    loader.load(Source("a.png"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(20):
        loader.load(Source("a.png"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 * 1024


def test_a_size_is_read_from_the_header_alone(tmp_path):
    """A plan asks every source for its size; it must not read gigabytes for that."""
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    for name in ("large.png", "large.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
    assert (tmp_path / "large.png").stat().st_size > 8 << 20
    loader = SourceLoader(tmp_path)
    loader.size(Source("large.png"))  # whatever is loaded once

    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = bytes_read()
    sizes = {loader.size(Source(name)) for name in ("large.png", "large.jpg")}
    assert sizes == {(2000, 1500)}
    assert bytes_read() - before < 500_000
