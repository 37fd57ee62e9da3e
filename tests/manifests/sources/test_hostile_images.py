"""Images that are made to harm: each costs its row at most, in bounded memory, and nothing hangs."""

from __future__ import annotations

import json
import subprocess
import sys

import hostile_images
import pytest

READ, BAD, LARGE = "read", "bad_image", "too_large"

REFUSED_FOR_SIZE = [name for name in hostile_images.CASES if "million pixels" in name or "billion pixels" in name]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict]:
    """What became of each image, by its name."""
    command = [sys.executable, hostile_images.__file__, tmp_path_factory.mktemp("hostile")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return {case["name"]: case for case in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", hostile_images.CASES)
def test_it_costs_its_row_at_most(found, name):
    assert set(found[name]["outcomes"]) <= {READ, BAD, LARGE}
    assert found[name]["grown_megabytes"] < 400  # of the 64 million pixels that are allowed, 192 are one copy


@pytest.mark.parametrize("name", REFUSED_FOR_SIZE)
def test_the_cap_holds_before_anything_is_decoded(found, name):
    size, load = found[name]["outcomes"]
    assert size == load
    assert load == LARGE or name.startswith("AVIF"), "libavif has a cap of its own"
    assert found[name]["grown_megabytes"] < 40


@pytest.mark.parametrize(
    "name", ["TIFF with overlapping tags", "TIFF that unpacks to 1 GB", "PNG with EXIF of overlapping tags"]
)
def test_what_lies_about_its_metadata_is_read_without_it(found, name):
    assert found[name]["outcomes"] == [READ, READ]
    assert found[name]["grown_megabytes"] < 60


def test_a_bomb_is_small(found):
    """Else the tests above would say nothing."""
    for name in ("TIFF that unpacks to 1 GB", "JPEG XL of 100 million pixels", "TIFF with overlapping tags"):
        assert found[name]["bytes"] < 3 * hostile_images.MEGABYTE
