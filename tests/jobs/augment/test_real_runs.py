"""Recipes on real runs: a preview, objects that stay, rejected pictures made again, and a scheduled tick."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from augment_making import folder_by_class, rows_of
from command_line import invoke
from job_making import picture
from PIL import Image

from wanbatch.jobs.schedule.commands import THIS_WANBATCH, tick_commands
from wanbatch.jobs.schedule.definition import read_schedules

pytestmark = pytest.mark.slow  # each part has a fast test with a run that is none

POLYGON = "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n"


@pytest.fixture
def flags(local_ray, settings) -> list[object]:
    return ["--model", settings().model, "--steps", 2, "--creativity-steps", "respace"]


@pytest.fixture
def boxes(tmp_path) -> Path:
    """Two pictures of YOLO's form with a square object in the middle, and a recipe that keeps it."""
    for number in range(2):
        picture(tmp_path / f"set/images/train/{number}.png", 32, 32, seed=number)
        labels = tmp_path / f"set/labels/train/{number}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text(POLYGON)
    Path("set/data.yaml").write_text("path: .\ntrain: images/train\nnames: [disc]\n")
    Path("recipe.toml").write_text(
        'dataset = "set"\nsplit = "train"\ntemplate = "a {label}"\n[objects]\nkeep = "masks"\naround = 1.0\n'
        "[settings]\nwidth = 32\nheight = 32\n"
    )
    return tmp_path


def made(out: str) -> dict[str, dict]:
    return {row["id"]: row for row in pq.read_table(f"{out}/data").to_pylist()}


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_objects_stay_to_the_last_bit_and_a_preview_keeps_nothing(boxes, flags):
    before = {path.name for path in boxes.iterdir()}
    shown = invoke("augment", "recipe.toml", "--preview", 2, *flags)
    assert shown.exit_code == 0, shown.output
    assert {path.name for path in boxes.iterdir()} - before == {"recipe.preview.png"}
    done = invoke("augment", "recipe.toml", "--run", "--out", "out/kept", *flags)
    assert done.exit_code == 0, done.output
    rows = made("out/kept")
    assert len(rows) == 2
    for row in rows.values():
        ours = pixels_of(row["image"]["bytes"])
        theirs = pixels_of(Path("set", f"{row['source_id']}.png").read_bytes())
        assert np.array_equal(ours[8:24, 8:24], theirs[8:24, 8:24])
        assert np.abs(ours[:3] - theirs[:3]).mean() > 5
        assert row["keep_pixels"] is True
        assert row["annotations"] == "copied"


def test_rejected_pictures_are_made_again_from_another_seed(boxes, flags):
    assert invoke("augment", "recipe.toml", "--run", "--out", "out/again", *flags).exit_code == 0
    Path("recipe.toml").write_text(Path("recipe.toml").read_text() + "[checks]\nflat = 255\n")  # rejects them all
    done = invoke("check", "out/again", "--recipe", "recipe.toml", "--regenerate", 1, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["pictures"], told["rejected"]) == (4, 4)
    rows = made("out/again")
    assert sorted(row["regeneration"] for row in rows.values()) == [0, 0, 1, 1]
    assert len({row["sha256"] for row in rows.values()}) == 4
    assert rows.keys() == {row["id"] for row in rows_of(Path("out/again.jsonl"))}


def test_a_tick_of_a_recipe_makes_pictures_and_the_next_one_only_what_is_new(tmp_path, local_ray, settings):
    folder_by_class(tmp_path / "set", {"train/disc": 2, "train/box": 1}, size=32)
    Path("recipe.toml").write_text(
        'dataset = "set"\nsplit = "train"\ntemplate = "a {label}"\ncreativity = 0.5\nvariants = 1\n'
        "[settings]\nwidth = 32\nheight = 32\n"
    )
    Path("wanbatch.toml").write_text(
        f'model = "{settings().model}"\nsteps = 2\ncreativity_steps = "respace"\n'
        '[schedule.nightly]\ncron = "0 2 * * *"\ntimezone = "UTC"\nrecipe = "recipe.toml"\noutput = "out/nightly"\n'
    )
    (schedule,) = read_schedules(Path("wanbatch.toml"))

    def tick() -> int:
        for words in tick_commands(schedule):
            done = invoke(*words[len(THIS_WANBATCH) :])
            assert done.exit_code == 0, done.output
        return len(made("out/nightly"))

    assert tick() == 3
    assert tick() == 3
    picture(tmp_path / "set/train/box/new.png", 32, 32, seed=77)
    assert tick() == 4
