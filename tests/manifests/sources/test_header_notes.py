"""What headers tell of sources, before anything is decoded, is what decoding notes."""

from __future__ import annotations

import io
import itertools
import json

import pytest
from command_line import invoke
from icc_profiles import cmyk_profile, grey_profile, rgb_profile
from job_making import picture, write_jsonl
from PIL import Image, ImageCms
from png_making import chunk, with_chunk

from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.sources.notes import CLIPPED, CONVERTED, FIRST_FRAME, METADATA_SKIPPED, PROFILE_UNUSED

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PROFILES = {
    "none": None,
    "sRGB": SRGB,
    "P3": rgb_profile(),
    "grey": grey_profile(1.8),
    "CMYK": cmyk_profile(),
    "damaged": b"x" * 300,
}
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "RGB", "CMYK", "F", "I;16", "LAB"),
    "AVIF": ("RGB",),
    "GIF": ("P",),
}


def notes(folder, name: str) -> tuple[frozenset, frozenset]:
    """By the header alone, and by decoding."""
    with SourceLoader(folder) as loader:
        return loader.measure(Source(name)).notes, loader.load(Source(name)).notes


@pytest.mark.parametrize("form", MODES)
def test_profiles_of_every_kind_of_pixels(tmp_path, form):
    told = set()
    for mode, (name, profile) in itertools.product(MODES[form], PROFILES.items()):
        image = Image.new(mode, (8, 8))
        image.save(tmp_path / "a.img", form, **({"icc_profile": profile} if profile and form != "GIF" else {}))
        by_header, by_pixels = notes(tmp_path, "a.img")
        assert by_header == by_pixels, (mode, name)
        told |= by_header
    assert told == (set() if form == "GIF" else {CONVERTED, PROFILE_UNUSED})


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "AVIF", "GIF"])
def test_frames(tmp_path, form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "still", form)
    frames[0].save(tmp_path / "moving", form, save_all=True, append_images=frames[1:])
    assert notes(tmp_path, "still") == (frozenset(), frozenset())
    assert notes(tmp_path, "moving") == ({FIRST_FRAME}, {FIRST_FRAME})


def test_metadata_and_values(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    plain = buffer.getvalue()
    for late in (False, True):
        (tmp_path / "a.png").write_bytes(with_chunk(plain, chunk(b"eXIf", b"x" * (2 << 20)), late))
        assert notes(tmp_path, "a.png") == ({METADATA_SKIPPED}, {METADATA_SKIPPED})
    (tmp_path / "a.png").write_bytes(with_chunk(plain, chunk(b"gAMA", (100000).to_bytes(4, "big"))))
    assert notes(tmp_path, "a.png") == ({PROFILE_UNUSED}, {PROFILE_UNUSED})
    Image.new("F", (8, 8), 2.0).save(tmp_path / "a.tiff")
    assert notes(tmp_path, "a.tiff") == (frozenset(), {CLIPPED})  # which pixels alone tell


def test_plan_tells_each_note_once_with_the_first_source(tmp_path):
    picture(tmp_path / "plain.png", 32, 32)
    for name in ("p3", "other"):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{name}.png", icc_profile=rgb_profile())
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    rows = [["plain.png"], ["p3.png", "moving.gif"], ["p3.png"], ["plain.png", "other.png"]]
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"images": images} for images in rows])
    said = invoke("plan", manifest).stdout
    assert (
        "  note      1 source with several frames or pages, of which the first is used; moving.gif for one\n" in said
    )
    assert "  note      2 sources with a colour profile, by which its colours are converted to sRGB; p3.png" in said
    assert json.loads(invoke("plan", manifest, "--json").stdout)["source_notes"] == {
        FIRST_FRAME: {"sources": 1, "example": "moving.gif"},
        CONVERTED: {"sources": 2, "example": "p3.png"},
    }
    assert "  note " not in invoke("plan", write_jsonl(tmp_path / "m.jsonl", [{"image": "plain.png"}])).stdout


@pytest.mark.parametrize(("form", "options"), [("AVIF", {}), ("HEIF", {"matrix_coefficients": 1})])
def test_wide_colours_that_are_given_by_numbers_are_told_of(tmp_path, form, options):
    """A file of Pillow says BT.709 and sRGB's transfer; one that says otherwise in those numbers is not converted."""
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
        options = {"save_nclx_profile": True, "primaries": 1, "transfer_characteristic": 13, **options}
    held = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(held, form, **options)
    data, at = held.getvalue(), held.getvalue().index(b"colrnclx") + 8
    assert data[at : at + 4] == bytes([0, 1, 0, 13])
    for number, (primaries, transfer) in enumerate(((1, 13), (9, 13), (12, 13), (1, 16))):
        (tmp_path / "a.img").write_bytes(data[:at] + bytes([0, primaries, 0, transfer]) + data[at + 4 :])
        expected = frozenset() if number == 0 else {PROFILE_UNUSED}
        assert notes(tmp_path, "a.img") == (expected, expected)
    profile = {"icc_profile": rgb_profile()}
    Image.new("RGB", (64, 64), "red").save(tmp_path / "p.img", form, **options, **profile)
    assert notes(tmp_path, "p.img") == ({CONVERTED}, {CONVERTED})
