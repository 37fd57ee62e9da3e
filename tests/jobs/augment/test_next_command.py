"""The command that `wanbatch augment` prints as the next one: what it is given, and that it works."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from augment_making import RECIPE, folder_by_class
from command_line import invoke


@pytest.fixture
def pictures(tmp_path) -> Path:
    Path("recipe.toml").write_text(RECIPE, encoding="utf-8")
    return folder_by_class(tmp_path / "set", {"train/disc": 3, "train/box": 2, "test/disc": 2, "test/box": 2})


def test_sources_outside_the_manifests_folder_are_named_in_the_next_command(pictures, tmp_path):
    Path("my plans").mkdir()
    made = invoke("augment", "recipe.toml", "--out", "my plans/the manifest.jsonl")
    last = shlex.split(made.stdout.splitlines()[-1])
    assert last[1:4] == ["wanbatch", "run", "my plans/the manifest.jsonl"]
    assert last[-2:] == ["--out", "out/the manifest"]
    planned = invoke("plan", *last[3:6], "--json")
    assert json.loads(planned.stdout)["unreadable_sources"] == {}, planned.output


def test_the_next_command_has_the_flags_that_the_pictures_are_made_with(pictures, monkeypatch):
    """Not those that say how the dataset is read; and variables are there for the next command, too."""
    monkeypatch.setenv("WANBATCH_GUIDANCE", "2")
    flags = ["--steps", "13", "--sampler", "euler", "--embed-settings", "--negative-prompt", "blur; dust"]
    made = invoke("augment", "recipe.toml", "--out", "manifest.jsonl", *flags, "--source-root", pictures)
    words = shlex.split(made.stdout.splitlines()[-1])
    assert words[1:4] == ["wanbatch", "run", "manifest.jsonl"], made.output
    assert words[-2:] == ["--out", "out/manifest"]
    given = words[4:-2]
    assert sorted(given) == sorted(flags)
    planned = invoke("plan", "manifest.jsonl", *given, "--json")
    assert json.loads(planned.stdout)["images"], planned.output


def test_a_dataset_behind_a_link_is_named_in_the_next_command(pictures, tmp_path):
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans/set").symlink_to(pictures)
    shutil.move("recipe.toml", "plans/recipe.toml")
    made = invoke("augment", "plans/recipe.toml", "--out", "plans/manifest.jsonl")
    last = made.stdout.splitlines()[-1].split()
    planned = invoke("plan", *last[3:6], "--json")
    assert json.loads(planned.stdout)["unreadable_sources"] == {}, planned.output
    again = invoke("augment", "plans/recipe.toml", "--out", "plans/manifest.jsonl")  # all rows are there
    assert again.stdout.splitlines()[-1].split() == last
