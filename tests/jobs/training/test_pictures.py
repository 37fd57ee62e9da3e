"""Where a training's pictures and captions come from, and what is said of those that cannot be used."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from manifest_making import failure, record, timing
from PIL import Image

from wanbatch.errors import UserError
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.training.pictures import find_pictures
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.records import data_table


def png_bytes(grey: int) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(np.full((16, 16, 3), grey, np.uint8)).save(file, "PNG")
        return file.getvalue()


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


def test_an_output_folder_of_wanbatch(tmp_path):
    """Its prompts are the captions, and rows that could not be made are no pictures."""
    with OutputFolder.open(tmp_path / "out", {"model": "tiny"}, {}) as folder:
        records = [replace(record(name, number, png_bytes(number)), prompt=f"a {name}")
                   for number, name in enumerate(("cat", "dog"))]  # fmt: skip
        parts = data_table(records), [timing(each.id, 0) for each in records], [failure("owl", 0)]
        folder.publish(write_attempt(tmp_path / "out", 0, "try", *parts))
    found = find_pictures(tmp_path / "out", "{caption}", None, None)
    assert [(each.caption, picture.pixels[0, 0, 0]) for each, picture in zip(found.found, found.load(), strict=True)
            ] == [("a cat", 0), ("a dog", 1)]  # fmt: skip


class Begun(Exception):
    """Everything was checked."""


@pytest.mark.parametrize("kind", ["lora", "few-step", "sound"])
def test_columns_are_read_as_others_by_the_flags_that_messages_name(kind, tmp_path, monkeypatch):
    def begin(*given, **more):
        raise Begun

    monkeypatch.setattr("wanbatch.pipeline.training.lora.model.TrainingModel.load", begin)
    monkeypatch.setattr("wanbatch.jobs.training.sound.find", begin)
    png(tmp_path / "one.png")
    image = {"bytes": (tmp_path / "one.png").read_bytes(), "path": "one.png"}
    table = pa.table({"image": [image] * 2, "captions": ["a cat", "a dog"], "sha256": ["x", "y"], "variant": [1, 2]})
    pq.write_table(table, tmp_path / "rows.parquet")
    rows = str(tmp_path / "rows.parquet")
    given = ["--images", rows, "--name", "ink"] if kind == "lora" else [rows]
    out = ["--out", str(tmp_path / "a.safetensors")]
    said = CliRunner().invoke(main, ["train", kind, *given, *out])
    assert said.exit_code == 2
    flags = re.findall(r"--map (\S+=source_\S+)$", said.stderr, re.MULTILINE)
    assert sorted(flags) == ["sha256=source_sha256", "variant=source_variant"]
    mapped = [part for one in (*flags, "captions=prompt") for part in ("--map", one)]
    with pytest.raises(Begun):
        CliRunner().invoke(main, ["train", kind, *given, *out, *mapped], catch_exceptions=False)
    refused = CliRunner().invoke(main, ["train", kind, *given, *out, "--map", "captions"])
    assert "'captions' must be COLUMN=COLUMN, like caption=prompt" in refused.stderr


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
