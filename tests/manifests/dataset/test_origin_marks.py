"""Marks of origin in picture files: that other programs read them, and that they change no pixel."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from wanbatch.manifests.dataset.image_formats import PNG_XMP, ImageFormat
from wanbatch.manifests.dataset.mark_reading import read_marks, xmp_values
from wanbatch.manifests.dataset.origin_marks import MAX_TEXT, NAMESPACES, OriginMark
from wanbatch.manifests.digital_source import COMPOSITE, GENERATED, VOCABULARY

Y, X = np.mgrid[:48, :80]
PIXELS = np.stack([X * 3, Y * 5, (X + Y) * 2], axis=-1).astype(np.uint8)
SHA256 = hashlib.sha256(PIXELS.tobytes()).hexdigest()
SETTINGS = {
    "prompt": 'a "café" <b>&amp; 猫 😀\x01',
    "negative_prompt": "blur",
    "creativity": 0.6000000001,
    "seed": 2**62,
    "width": 80,
    "height": 48,
    "steps": 20,
    "guidance": 5.0,
    "sampler": "unipc",
    "sigmas": None,
    "model": "tiny",
    "revision": None,
}
FORMATS = ["png", "webp", "jpeg"]
PLAIN, FULL = OriginMark(GENERATED, "wanbatch 0.1.0"), OriginMark(COMPOSITE, "wanbatch 0.1.0", SETTINGS)


def marked(name: str, mark: OriginMark = PLAIN) -> bytes:
    return ImageFormat(name).encode(PIXELS, mark.metadata(SHA256))


def written(folder: Path, name: str, mark: OriginMark = PLAIN) -> Path:
    path = folder / f"marked.{name}"
    path.write_bytes(marked(name, mark))
    return path


def xmp_by_pillow(data: bytes) -> str:
    image = Image.open(io.BytesIO(data))
    found = image.info["xmp"] if image.format != "PNG" else image.info[PNG_XMP]
    return found if isinstance(found, str) else found.decode()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("mark", [PLAIN, FULL])
def test_a_mark_changes_no_pixel(name, mark):
    plain, with_mark = (Image.open(io.BytesIO(d)) for d in (ImageFormat(name).encode(PIXELS), marked(name, mark)))
    assert (plain.mode, plain.size) == (with_mark.mode, with_mark.size)
    assert np.array_equal(np.asarray(plain), np.asarray(with_mark))
    if name != "jpeg":
        assert hashlib.sha256(np.asarray(with_mark).tobytes()).hexdigest() == SHA256
    assert marked(name, mark) == marked(name, mark)


@pytest.mark.parametrize("name", FORMATS)
def test_pillow_reads_the_mark_where_the_formats_have_it(name):
    xmp = xmp_by_pillow(marked(name))
    assert f"<Iptc4xmpExt:DigitalSourceType>{VOCABULARY}{GENERATED}</Iptc4xmpExt:DigitalSourceType>" in xmp
    assert 'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"' in xmp
    assert xmp_values(xmp.encode()) == {
        "Iptc4xmpExt:DigitalSourceType": VOCABULARY + GENERATED,
        "xmp:CreatorTool": "wanbatch 0.1.0",
        "wanbatch:PixelsSHA256": SHA256,
    }


@pytest.mark.parametrize("name", FORMATS)
def test_no_setting_is_in_a_file_unless_asked_for(name):
    data = marked(name)
    assert b"parameters" not in data
    assert b"UserComment" not in data
    assert not Image.open(io.BytesIO(data)).getexif()


@pytest.mark.parametrize("name", FORMATS)
def test_embedded_settings_are_read_back(tmp_path, name):
    marks = read_marks(written(tmp_path, name, FULL))
    assert marks.term == COMPOSITE
    assert marks.prompt == 'a "café" <b>&amp; 猫 😀\ufffd'  # XML has no such control character
    assert marks.negative_prompt == "blur"
    assert marks.settings["creativity"] == 0.6
    assert marks.settings["seed"] == 2**62
    assert marks.parameters.splitlines() == [
        SETTINGS["prompt"],
        "Negative prompt: blur",
        "Steps: 20, Sampler: unipc, CFG scale: 5.0, Seed: 4611686018427387904, Denoising strength: 0.6, Model: tiny, "
        "Size: 80x48, Version: wanbatch 0.1.0",
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_adapters_are_told_as_other_programs_write_them(tmp_path, name):
    flat = {"name": "flat", "weight": 0.1 + 0.1 + 0.1, "sha256": "0123456789abcdef" * 4, "merged": False}
    few = {"name": "few: 4", "weight": 1.0, "sha256": "f" * 64, "merged": True}
    asked = {"style": None, "loras": [{"name": "flat", "weight": 0.3}], "adapters": [few, flat]}
    marks = read_marks(written(tmp_path, name, replace(FULL, settings={**SETTINGS, **asked})))
    prompt, _, line = marks.parameters.splitlines()
    assert prompt == SETTINGS["prompt"] + " <lora:few_ 4:1> <lora:flat:0.3>"
    assert line.endswith(
        ', Version: wanbatch 0.1.0, Hashes: {"lora:few_ 4": "ffffffffff", "lora:flat": "0123456789"}'
    )
    assert "loras" not in line
    assert marks.settings["adapters"] == [few, {**flat, "weight": 0.3}]
    assert marks.settings["loras"] == asked["loras"]


def test_the_longest_settings_fit_into_every_format(tmp_path):
    hostile = {
        "prompt": "&😀" * 16384,
        "negative_prompt": "<\n" * 16384,
        "sigmas": [1 - i / 1001 for i in range(1000)],
    }
    for name in FORMATS:
        marks = read_marks(written(tmp_path, name, OriginMark(GENERATED, "wanbatch 0.1.0", SETTINGS | hostile)))
        assert len(marks.prompt) == MAX_TEXT
        assert marks.prompt.endswith("…")
        assert len(marks.settings["sigmas"]) == 1000


def test_a_jpeg_that_pillow_saves_again_keeps_its_mark(tmp_path):
    image = Image.open(written(tmp_path, "jpeg", FULL))
    image.save(tmp_path / "again.jpg", quality=70, exif=image.getexif(), xmp=image.info["xmp"])
    marks = read_marks(tmp_path / "again.jpg")
    assert (marks.term, marks.made_sha256, marks.negative_prompt) == (COMPOSITE, SHA256, "blur")
    assert marks.parameters.startswith(SETTINGS["prompt"])
    assert Image.open(tmp_path / "again.jpg").getexif().get_ifd(ExifTags.IFD.Exif)


@pytest.mark.parametrize("name", FORMATS)
def test_exiftool_reads_the_marks(tmp_path, name):
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed (apt-get install libimage-exiftool-perl)")
    path = written(tmp_path, name, FULL)
    ran = subprocess.run(["exiftool", "-j", "-G1", str(path)], capture_output=True, check=True)
    (said,) = json.loads(ran.stdout)
    assert said["XMP-iptcExt:DigitalSourceType"] == VOCABULARY + COMPOSITE
    assert said["XMP-xmp:CreatorTool"] == "wanbatch 0.1.0"
    assert said["XMP-iptcExt:AIPromptInformation"].startswith('a "café" <b>&amp; 猫')
    text = said["PNG:Parameters" if name == "png" else "ExifIFD:UserComment"]
    assert "Steps: 20, Sampler: unipc" in text
    assert "猫 😀" in text
    assert "ExifTool:Warning" not in said


@pytest.mark.parametrize("name", FORMATS)
def test_imagemagick_reads_the_mark(tmp_path, name):
    program = shutil.which("magick") or shutil.which("convert")
    if program is None or b"ImageMagick" not in subprocess.run([program, "-version"], capture_output=True).stdout:
        pytest.skip("ImageMagick is not installed (apt-get install imagemagick)")
    ran = subprocess.run([program, str(written(tmp_path, name)), "xmp:-"], capture_output=True)
    if ran.returncode:
        pytest.skip(f"this ImageMagick does not read {name}: {ran.stderr.decode()[:100]}")
    assert xmp_values(ran.stdout)["Iptc4xmpExt:DigitalSourceType"] == VOCABULARY + GENERATED


def test_packets_of_others_are_read_and_hostile_ones_are_not():
    attributes = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:i="{NAMESPACES["Iptc4xmpExt"]}" i:DigitalSourceType="x"/></rdf:RDF></x:xmpmeta>'
    )
    assert xmp_values(attributes.encode()) == {"Iptc4xmpExt:DigitalSourceType": "x"}
    for bad in (b"", b"<x", b"\xff\xfe", b'<!DOCTYPE x [<!ENTITY a "b">]>' + attributes.encode()):
        assert xmp_values(bad) == {}
