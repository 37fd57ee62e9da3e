"""What a scheduled tick runs makes pictures: of a recipe, and of a manifest whose picture changed under its name."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from augment_making import folder_by_class
from command_line import invoke
from job_making import picture, write_jsonl

from wanbatch.jobs.schedule.commands import THIS_WANBATCH, tick_commands
from wanbatch.jobs.schedule.definition import read_schedules

pytestmark = pytest.mark.slow  # each part has a fast test with a run that is none


def made(out: str) -> dict[str, dict]:
    return {row["id"]: row for row in pq.read_table(f"{out}/data").to_pylist()}


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


def test_a_tick_of_a_manifest_notices_a_picture_that_changed_under_its_name(tmp_path, local_ray, settings):
    rows = [{"id": str(number), "image": f"{number}.png", "prompt": "x", "creativity": 0.0} for number in range(3)]
    for number in range(3):
        picture(tmp_path / f"{number}.png", 32, 32, seed=number)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    Path("wanbatch.toml").write_text(
        f'model = "{settings().model}"\nwidth = 32\nheight = 32\n'
        '[schedule.nightly]\ncron = "0 2 * * *"\ntimezone = "UTC"\nmanifest = "rows.jsonl"\noutput = "out"\n'
    )
    (schedule,) = read_schedules(Path("wanbatch.toml"))

    def tick() -> int:
        (words,) = tick_commands(schedule)
        done = invoke(*words[len(THIS_WANBATCH) :], "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["made_now"]

    assert (tick(), tick()) == (3, 0)
    before = {name: row["sha256"] for name, row in made("out").items()}
    picture(tmp_path / "1.png", 32, 32, seed=50)
    assert (tick(), tick()) == (1, 0)
    after = {name: row["sha256"] for name, row in made("out").items()}
    assert {name for name in before if before[name] != after[name]} == {"1"}
