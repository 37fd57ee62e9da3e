"""Every example of the page about augmentation: its recipes are read, its commands run, in the order of the page."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from augment_making import RECIPE, folder_by_class, rows_of
from command_line import invoke

from wanbatch.jobs.augment.recipe import shipped
from wanbatch.jobs.augment.recipe_file import read_recipe

PAGE = (Path(__file__).parents[3] / "docs" / "augmentation.md").read_text(encoding="utf-8")
CLASSES = [f"digit {digit}" for digit in range(10)]
BLOCK = re.compile(r"(?:^`([\w./-]+)`:\n\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[tuple[str, str]]:
    """The name of the file that a block is, and its text, of the blocks of a language."""
    return [(name, text) for name, kind, text in BLOCK.findall(PAGE) if kind == language]


def commands() -> list[list[str]]:
    lines = [line for _, text in blocks("sh") for line in text.splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The files of the page, the dataset of its first recipe, and what its Python makes."""
    place = tmp_path_factory.mktemp("page")
    for name, text in blocks("toml"):
        if name:
            (place / name).write_text(text, encoding="utf-8")
    folder_by_class(place / "set", {"train/disc": 5, "train/box": 3, "test/disc": 2, "test/box": 2})
    for _, text in blocks("python"):
        subprocess.run([sys.executable, "-c", text], cwd=place, check=True, env={**os.environ, "HF_HOME": str(place)})
    return place


def test_the_first_recipe_is_the_smallest_one_and_each_piece_of_a_recipe_is_valid(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert (folder / "recipe.toml").read_text() == RECIPE
    pieces = [text for name, text in blocks("toml") if not name]
    assert len(pieces) >= 4
    for text in pieces:
        own = 'template = "a {label}"\n' if "template" not in text else ""
        Path("piece.toml").write_text(f'dataset = "set"\nsplit = "train"\ncreativity = 0.3\n{own}{text}')
        read_recipe(Path("piece.toml"))
    assert all(f"| `{name}` |" in PAGE for name in shipped())
    objects = read_recipe(Path("objects.toml")).objects
    assert objects is not None
    assert objects.keep == "boxes"


def test_commands_that_write_manifests_and_plans_work(folder, monkeypatch):
    monkeypatch.chdir(folder)
    light = [words for words in commands() if words[1] == "plan" or (words[1] == "augment" and "--out" in words)]
    light = [words for words in light if "--run" not in words]
    assert len(light) == 3
    for words in light:
        done = invoke(*words[1:])
        assert done.exit_code == 0, f"{words}: {done.output}"
        assert "warning" not in done.stdout, done.stdout
    rows = rows_of(Path("digits.jsonl"))
    assert Counter(row["label"] for row in rows) == dict.fromkeys(CLASSES, 5)
    assert any("images" in row for row in rows)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_page_works(folder, local_ray, monkeypatch):
    monkeypatch.chdir(folder)
    for words in commands():
        done = invoke(*words[1:])
        assert done.exit_code == 0, f"{words}: {done.output}"
    made = pq.read_table("out/digits/data").to_pylist()
    assert Counter(row["label"] for row in made if not row["regeneration"]) == dict.fromkeys(CLASSES, 5)
    assert len(made) == len({row["id"] for row in made})
    assert (folder / "digits.preview.png").stat().st_size > 1000
    told = json.loads((folder / "digits.measured.json").read_text())
    assert told["arms"]["ours"]["pictures"] == 50 + len(made)
    assert Path("out/digits/report.html").stat().st_size > 10_000
