"""The row of a folder that a picture is of: by its pixels, by those of its file, or by what its mark says."""

from __future__ import annotations

import io

import pyarrow.parquet as pq
import pytest
from manifest_making import encoded
from picture_folders import fill
from PIL import Image
from png_making import raw_png

from wanbatch.errors import UserError
from wanbatch.manifests.dataset.mark_reading import find_row, read_marks

NAMES = [f"r{number}" for number in range(6)]


def stored(out, name: str) -> bytes:
    rows = [row for part in sorted(out.glob("data/*")) for row in pq.read_table(part).to_pylist()]
    return next(row["image"]["bytes"] for row in rows if row["id"] == name)


def found(out, path):
    return find_row(out, read_marks(path))


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_a_picture_of_the_folder_is_found(out, tmp_path, format):
    path = tmp_path / "picture"
    path.write_bytes(stored(fill(out, NAMES, format=format), "r5"))
    row = found(out, path)
    assert (row.part, row.row, row.values["id"]) == ("data/part-00001.parquet", 1, "r5")
    assert row.by == ("file" if format == "jpeg" else "pixels")
    assert "image" not in row.values


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_a_picture_without_its_metadata_is_found_by_its_pixels(out, tmp_path, format):
    data = stored(fill(out, NAMES, format=format), "r2")
    path = tmp_path / "stripped"
    if format == "png":
        Image.open(io.BytesIO(data)).save(path, "PNG")
    else:
        app1 = data.index(b"\xff\xe1")
        size = int.from_bytes(data[app1 + 2 : app1 + 4], "big")
        path.write_bytes(data[:app1] + data[app1 + 2 + size :])
    assert read_marks(path).term is None
    row = found(out, path)
    assert (row.values["id"], row.by) == ("r2", "file" if format == "jpeg" else "pixels")


def test_a_changed_picture_is_found_by_its_mark_alone(out, tmp_path):
    image = Image.open(io.BytesIO(stored(fill(out, NAMES), "r3")))
    image.convert("RGB").resize((16, 16)).save(tmp_path / "small.jpg", xmp=image.info["xmp"])
    row = found(out, tmp_path / "small.jpg")
    assert (row.values["id"], row.by) == ("r3", "mark")


def test_another_picture_is_not_found(out, tmp_path):
    fill(out, NAMES)
    (tmp_path / "other.png").write_bytes(encoded())
    assert found(out, tmp_path / "other.png") is None


def test_what_is_no_picture_or_no_folder_is_refused(out, tmp_path):
    (tmp_path / "text.png").write_text("no")
    with pytest.raises(UserError, match=r"text\.png: is no picture .* PNG, WEBP, JPEG"):
        read_marks(tmp_path / "text.png")
    with pytest.raises(UserError, match=r"none\.png: cannot be read \(No such file"):
        read_marks(tmp_path / "none.png")
    (tmp_path / "a.png").write_bytes(encoded())
    with pytest.raises(UserError, match="is no output folder of wanbatch: give --in"):
        found(tmp_path, tmp_path / "a.png")


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path):
    (tmp_path / "huge.png").write_bytes(raw_png(40_000, 40_000, 8, 2, b""))
    with pytest.raises(UserError, match="more than 64000000 pixels: give a smaller picture"):
        read_marks(tmp_path / "huge.png")
