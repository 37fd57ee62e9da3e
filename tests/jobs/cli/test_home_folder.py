"""`~` where shells leave it as it is: behind `=`, in quotes, in settings files and recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import invoke
from job_making import picture, write_jsonl
from picture_folders import fill


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder with pictures, a manifest and an output folder; the current folder is another one."""
    home = tmp_path / "home"
    for name in ("pictures/1.png", "set/train/disc/1.png"):
        (home / name).parent.mkdir(parents=True)
        picture(home / name, 32, 32)
    write_jsonl(home / "m.jsonl", [{"image": "1.png", "prompt": "a star", "creativity": 0.9}])
    fill(home / "out", ["a", "b"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(home))
    return home


def test_manifests_folders_of_sources_and_output_folders(home):
    planned = invoke("plan", "~/m.jsonl", "--source-root=~/pictures", "--json")
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["unreadable_sources"] == {}
    Path("wanbatch.toml").write_text('source_root = "~/pictures"\n')
    assert json.loads(invoke("plan", "~/m.jsonl", "--json").stdout)["unreadable_sources"] == {}
    assert json.loads(invoke("status", "~/out", "--json").stdout)["done"] == 2
    exported = invoke("export", "~/out", "--to=~/copy", "--format", "imagefolder")
    assert exported.exit_code == 0, exported.output
    assert len(list((home / "copy" / "train").glob("*.png"))) == 2
    assert not Path("~").exists()


def test_a_dataset_of_a_recipe(home):
    Path("recipe.toml").write_text(
        'dataset = "~/set"\nsplit = "train"\ntemplate = "a {label}"\ncreativity = 0.9\nvariants = 2\n'
    )
    made = invoke("augment", "recipe.toml", "--out", "grown.jsonl", "--json")
    assert made.exit_code == 0, made.output
    assert len(Path("grown.jsonl").read_text().splitlines()) == 2


def test_a_folder_that_has_this_name(home):
    Path("~").mkdir()
    write_jsonl(Path("~/n.jsonl"), [{"prompt": "a star"}])
    assert json.loads(invoke("plan", "./~/n.jsonl", "--json").stdout)["rows"] == 1
