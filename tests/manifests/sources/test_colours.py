"""Colours by the embedded profile: the same visible colour whatever numbers a file has for it."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from icc_profiles import ADOBE, P3, cmyk_profile, grey_profile, in_profile, rgb_profile
from PIL import Image, ImageCms
from png_making import chunk, raw_png, saved, with_chunk

from wanbatch.manifests.sources.decoding import decode, read_header
from wanbatch.manifests.sources.notes import CONVERTED, METADATA_SKIPPED, PROFILE_UNUSED

COLOURS = [(230, 60, 40), (20, 40, 120), (250, 250, 250), (0, 0, 0), (128, 128, 128), (60, 200, 90)]


def swatches() -> Image.Image:
    """Six colours that sRGB, P3 and Adobe RGB all have, 16 pixels wide each."""
    return Image.fromarray(np.repeat(np.array([COLOURS], np.uint8), 16, axis=1).repeat(16, axis=0))


def decoded(data: bytes) -> tuple[np.ndarray, set[str]]:
    opened = read_header(io.BytesIO(data), 1 << 20)
    return decode(opened), opened.notes


def off(found: np.ndarray, wanted: Image.Image) -> int:
    return int(np.abs(found.astype(int) - np.asarray(wanted.convert("RGB"))).max())


@pytest.mark.parametrize("primaries", [P3, ADOBE], ids=["P3", "Adobe"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "AVIF", "JPEG"])
def test_the_same_colour_within_one_level(kind, primaries):
    profile = rgb_profile(primaries)
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}, "JPEG": {"quality": 100}}
    stored = in_profile(swatches(), profile)
    assert off(np.asarray(stored), swatches()) > 10, "the numbers in the file are other ones"
    pixels, notes = decoded(saved(stored, kind, icc_profile=profile, **options.get(kind, {})))
    centres = np.s_[8::16, 8::16]
    assert off(pixels[centres], Image.fromarray(np.asarray(swatches())[centres])) <= {"JPEG": 3, "AVIF": 8}.get(
        kind, 1
    )
    assert notes == {CONVERTED}


def test_an_srgb_profile_leaves_every_bit():
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for data in (saved(noise, "PNG", icc_profile=profile), saved(noise, "TIFF", icc_profile=profile)):
        pixels, notes = decoded(data)
        assert np.array_equal(pixels, np.asarray(noise))
        assert notes == set()


def test_transparency_is_laid_over_white_after_the_conversion():
    profile = rgb_profile()
    stored = in_profile(swatches(), profile)
    stored.putalpha(128)
    pixels, _ = decoded(saved(stored, "PNG", icc_profile=profile))
    wanted = np.asarray(swatches()).astype(float) * (128 / 255) + 255 * (127 / 255)
    assert np.abs(pixels[8, 8::16] - wanted[8, 8::16]).max() <= 2


def test_a_palette_is_converted():
    profile = rgb_profile()
    stored = in_profile(swatches(), profile).quantize(8)
    pixels, notes = decoded(saved(stored, "PNG", icc_profile=profile))
    assert off(pixels, swatches()) <= 1
    assert notes == {CONVERTED}


@pytest.mark.parametrize("gamma", [1.0, 1.8])
def test_grey_by_its_gamma(gamma):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    linear = (grey / 255) ** gamma
    wanted = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    for image in (Image.fromarray(grey), Image.merge("LA", (Image.fromarray(grey), Image.new("L", (16, 16), 255)))):
        pixels, notes = decoded(saved(image, "PNG", icc_profile=grey_profile(gamma)))
        assert np.abs(pixels[..., 0] - wanted).max() <= 1
        assert (pixels == pixels[..., :1]).all()
        assert notes == {CONVERTED}
    sixteen = saved(Image.fromarray(grey.astype(np.uint16) * 257), "PNG", icc_profile=grey_profile(gamma))
    assert np.abs(decoded(sixteen)[0][..., 0] - wanted).max() <= 1


def test_grey_with_a_profile_of_colours():
    """It is usual in JPEG; the grey is that of the profile's tone curve."""
    image = Image.new("L", (16, 16), 100)
    pixels, notes = decoded(saved(image, "JPEG", quality=100, icc_profile=rgb_profile(gamma=1.0)))
    assert notes == {CONVERTED}
    assert abs(int(pixels[5, 5, 0]) - 168) <= 1
    assert np.ptp(pixels[5, 5]) <= 1


class TestInks:
    def test_cmyk_by_its_profile(self):
        image = Image.new("CMYK", (48, 16), (0, 0, 0, 0))
        image.paste((0, 255, 255, 0), (16, 0, 32, 16))
        image.paste((255, 255, 0, 0), (32, 0, 48, 16))
        for kind, options in (("TIFF", {}), ("JPEG", {"quality": 100, "subsampling": 0})):
            pixels, notes = decoded(saved(image, kind, icc_profile=cmyk_profile(), **options))
            assert notes == {CONVERTED}
            for at, colour in ((8, (255, 255, 255)), (24, (255, 0, 0)), (40, (0, 0, 255))):
                assert np.abs(pixels[8, at].astype(int) - colour).max() <= 12, (kind, at, pixels[8, at])

    def test_cmyk_without_one_is_as_it_was(self):
        image = Image.new("CMYK", (16, 16), (10, 200, 30, 40))
        pixels, notes = decoded(saved(image, "TIFF"))
        assert np.array_equal(pixels, np.asarray(image.convert("RGB")))
        assert notes == set()

    def test_lab(self):
        """CIE L*a*b* of sRGB's red under D50 is (54.3, 80.8, 69.9)."""
        image = Image.new("LAB", (16, 16), (138, 81 + 128, 70 + 128))
        pixels, _ = decoded(saved(image, "TIFF"))
        assert np.abs(pixels[5, 5].astype(int) - (255, 0, 0)).max() <= 12


class TestBadProfiles:
    """They are as none, with a note."""

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
    @pytest.mark.parametrize(
        "profile",
        [
            b"nothing of the kind",
            rgb_profile()[:150],
            rgb_profile()[:128] + b"\xff" * 500,
            grey_profile(1.0),
            cmyk_profile(),
        ],
        ids=["text", "cut", "absurd", "grey", "inks"],
    )
    def test_damaged_or_of_another_kind(self, kind, profile):
        options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(kind, {})
        plain, _ = decoded(saved(swatches(), kind, **options))
        pixels, notes = decoded(saved(swatches(), kind, icc_profile=profile, **options))
        assert np.array_equal(pixels, plain)
        assert notes == {PROFILE_UNUSED}

    def test_too_large(self):
        profile = rgb_profile()
        large = struct.pack(">I", 5 << 20) + profile[4:] + b"\0" * ((5 << 20) - len(profile))
        pixels, notes = decoded(saved(swatches(), "TIFF", icc_profile=large))
        assert off(pixels, swatches()) == 0
        assert notes == {PROFILE_UNUSED}

    @pytest.mark.parametrize("size", [1_500_000, 5 << 20])
    def test_a_large_one_in_a_png(self, size):
        """Pillow refuses such a file. One of up to 4 MiB is used, a larger one is left out."""
        profile = rgb_profile()
        large = struct.pack(">I", size) + profile[4:] + b"\0" * (size - len(profile))
        packed = chunk(b"iCCP", b"monitor\0\0" + zlib.compress(large))
        stored = in_profile(swatches(), profile)
        pixels, notes = decoded(with_chunk(saved(stored, "PNG"), packed))
        used = size <= 4 << 20
        assert notes == ({CONVERTED} if used else {METADATA_SKIPPED})
        assert off(pixels, swatches() if used else stored) <= (1 if used else 0)

    def test_a_bomb_in_a_png(self):
        packed = chunk(b"iCCP", b"monitor\0\0" + zlib.compress(b"\0" * (1 << 28), 9))
        pixels, notes = decoded(with_chunk(saved(swatches(), "PNG"), packed))
        assert off(pixels, swatches()) == 0
        assert notes == {METADATA_SKIPPED}


@pytest.mark.parametrize(
    ("tag", "noted"),
    [
        (chunk(b"gAMA", struct.pack(">I", 45455)), False),
        (chunk(b"gAMA", struct.pack(">I", 100_000)), True),
        (chunk(b"sRGB", b"\0") + chunk(b"gAMA", struct.pack(">I", 100_000)), False),
        (chunk(b"cICP", bytes([1, 13, 0, 1])), False),
        (chunk(b"cICP", bytes([12, 13, 0, 1])), True),
        (chunk(b"cICP", bytes([9, 16, 0, 1])) + chunk(b"sRGB", b"\0"), True),
    ],
)
def test_other_tags_of_colours_are_told(tag, noted):
    """They change no pixel."""
    pixels, notes = decoded(with_chunk(saved(swatches(), "PNG"), tag))
    assert off(pixels, swatches()) == 0
    assert notes == ({PROFILE_UNUSED} if noted else set())


def test_a_png_of_sixteen_bits_with_a_profile():
    stored = in_profile(swatches(), rgb_profile())
    lines = b"".join(b"\0" + (line.astype(">u2") * 257).tobytes() for line in np.asarray(stored))
    packed = chunk(b"iCCP", b"p3\0\0" + zlib.compress(rgb_profile()))
    pixels, notes = decoded(raw_png(96, 16, 16, 2, lines, packed))
    assert off(pixels, swatches()) <= 1
    assert notes == {CONVERTED}
