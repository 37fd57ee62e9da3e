"""Previews: a few rows of every class, beside their sources, and nothing else is left."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from augment_making import RECIPE, folder_by_class, made_red, original, recipe_of
from command_line import invoke
from PIL import Image

from wanbatch.jobs.augment import preview as previewing
from wanbatch.jobs.augment.augment import plan_augmentation
from wanbatch.jobs.augment.drawing import draw
from wanbatch.jobs.config.settings import Settings


def test_rows_of_every_class_are_shown():
    pool = [original(number, label) for number, label in enumerate(["disc"] * 20 + ["box"] * 3 + ["ring"])]
    children = draw(pool, recipe_of(variants=1)).children
    shown = previewing.chosen(children, 9)
    assert Counter(child.first.label for child in shown) == {"box": 4, "disc": 3, "ring": 2}
    assert previewing.chosen(tuple(reversed(children)), 9) == shown


def test_the_sheet_has_source_and_picture_side_by_side_and_nothing_else_is_kept(tmp_path, monkeypatch):
    folder_by_class(tmp_path / "set", {"train/disc": 3, "train/box": 2})
    Path("recipe.toml").write_text(RECIPE)

    monkeypatch.setattr(previewing, "make_pictures", made_red)
    planned = plan_augmentation(Path("recipe.toml"), tmp_path / "recipe.jsonl", Settings())
    assert previewing.preview(planned, 5, tmp_path / "recipe.jsonl", tmp_path / "sheet.png", Settings()) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.toml", "set", "sheet.png"]
    sheet = np.asarray(Image.open("sheet.png"))
    red = (sheet == (255, 0, 0)).all(axis=2)
    assert red.sum() == 5 * 64 * 64
    assert not red[:, : previewing.CELL].any()  # the source is at the left


def test_rows_that_a_manifest_has_are_shown_and_warnings_are_told(tmp_path, monkeypatch):
    folder_by_class(tmp_path / "set", {"disc": 2})
    Path("recipe.toml").write_text('dataset = "set"\ntemplate = "a {label}"\ncreativity = 0.5\nfill = 3\n')
    assert invoke("augment", "recipe.toml").exit_code == 0
    monkeypatch.setattr(previewing, "make_pictures", made_red)
    shown = invoke("augment", "recipe.toml", "--preview", 12)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == "1 row of 1 on recipe.preview.png; nothing else was written\n"
    assert "  warning   set has no splits: keep test pictures apart" in shown.stderr
    deeper = invoke("augment", "recipe.toml", "--preview", 12, "--run", "--out", "out/deep/grown")
    assert deeper.stdout == "1 row of 1 on out/deep/grown.preview.png; nothing else was written\n"
    assert [path.name for path in Path("out/deep").iterdir()] == ["grown.preview.png"]
    Path("file").touch()
    failed = invoke("augment", "recipe.toml", "--preview", 12, "--out", "file/rows.jsonl")
    assert failed.exit_code == 2
    told = "wanbatch: file/rows.jsonl: cannot be written (File exists): choose another file"
    assert failed.stderr.splitlines()[-1] == told
    told = json.loads(invoke("augment", "recipe.toml", "--preview", 12, "--json").stdout)
    assert (told["preview"], told["shown"], len(told["warnings"])) == ("recipe.preview.png", 1, 1)


@pytest.mark.parametrize("objects", ["", "feather = 2\n"])
def test_what_is_kept_is_shown_between_source_and_picture(tmp_path, monkeypatch, objects):
    folder_by_class(tmp_path / "set", {"": 2})
    names = {0: "disc"}
    (tmp_path / "set/data.yaml").write_text(f"path: .\ntrain: .\nnames: {names}\n")
    for number in range(2):
        (tmp_path / f"set/{number}.txt").write_text("0 0.25 0.5 0.5 1\n" if number else "")  # the left half; nothing
    Path("recipe.toml").write_text(
        'dataset = "set"\nsplit = "train"\ntemplate = "x"\n'
        f'[objects]\nkeep = "boxes"\naround = 0.8\ninside = 0\n{objects}'
        "[settings]\nwidth = 64\nheight = 64\n"
    )
    monkeypatch.setattr(previewing, "make_pictures", made_red)
    planned = plan_augmentation(Path("recipe.toml"), tmp_path / "recipe.jsonl", Settings())
    assert previewing.preview(planned, 5, tmp_path / "recipe.jsonl", tmp_path / "sheet.png", Settings()) == 2
    sheet = np.asarray(Image.open("sheet.png"))
    cell, gap = previewing.CELL, previewing.GAP
    red = (sheet == (255, 0, 0)).all(axis=2)
    assert not red[:, : 2 * cell + 2 * gap].any()  # the picture is at the right
    width = 3 * cell + 4 * gap
    maps = [sheet[gap : gap + 64, left + gap + cell + gap :][:, :64, 0] for left in (0, width)]
    (kept,) = [one for one in maps if (one < 255).any()]  # the other row has no map
    assert (kept[:, :30] == 0).all()
    assert (kept[:, 36:] == 204).all()
