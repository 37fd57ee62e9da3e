"""Where a training's pictures and captions come from, and what is said of those that cannot be used."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wanbatch.errors import UserError
from wanbatch.jobs.training.pictures import find_pictures


def png(path, grey: int = 100) -> None:
    Image.fromarray(np.full((16, 16, 3), grey, np.uint8)).save(path)


def test_captions_beside_pictures(tmp_path):
    for name in ("one", "two", "three"):
        png(tmp_path / f"{name}.png")
    (tmp_path / "one.txt").write_text("a cat\n")
    (tmp_path / "two.txt").write_text("a dog")
    found = find_pictures(tmp_path, "{trigger} {caption}", "wug", None)
    assert [each.caption for each in found.found] == ["wug a cat", "wug a dog"]
    assert found.warnings == (f"{tmp_path}: 1 row is left out that has no caption, {tmp_path}/three.png for one",)
    assert [picture.pixels.shape for picture in found.load()] == [(16, 16, 3)] * 2
    filled = find_pictures(tmp_path, "{caption}", None, "a thing")
    assert sorted(each.caption for each in filled.found) == ["a cat", "a dog", "a thing"]


def test_an_imagefolder_with_texts(tmp_path):
    png(tmp_path / "one.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "one.png", "text": "a cat"}) + "\n")
    assert [each.caption for each in find_pictures(tmp_path, "{caption}", None, None).found] == ["a cat"]


def test_a_parquet_file_with_pictures_in_it(tmp_path):
    png(tmp_path / "one.png")
    image = {"bytes": (tmp_path / "one.png").read_bytes(), "path": "one.png"}
    table = pa.table({"id": ["a"], "image": [image], "caption": ["a cat"]})
    pq.write_table(table, tmp_path / "rows.parquet")
    found = find_pictures(tmp_path / "rows.parquet", "{caption}", None, None)
    assert [
        (each.caption, picture.pixels[0, 0, 0]) for each, picture in zip(found.found, found.load(), strict=True)
    ] == [("a cat", 100)]


def test_pictures_without_any_caption_are_one_clear_line(tmp_path):
    png(tmp_path / "one.png")
    png(tmp_path / "two.png")
    with pytest.raises(UserError, match=r"none of its 2 pictures has a caption: put NAME.txt beside .* --caption"):
        find_pictures(tmp_path, "{caption}", None, None)


def test_rows_without_images_are_no_training(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a cat"}\n')
    with pytest.raises(UserError, match=r"no row of it has an image: give a folder of pictures"):
        find_pictures(tmp_path / "rows.jsonl", "{caption}", None, None)


def test_a_damaged_picture_is_named(tmp_path):
    (tmp_path / "one.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "one.txt").write_text("a cat")
    found = find_pictures(tmp_path, "{caption}", None, None)
    with pytest.raises(UserError, match=r"one\.png.*mend the picture or take it out"):
        list(found.load())
