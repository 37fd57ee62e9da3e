"""Recipes whose rows would start below the last noise level of their own steps: told of before anything is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from augment_making import RECIPE, folder_by_class
from command_line import invoke, refused

COUNTS = {"train/disc": 3, "train/box": 2, "test/disc": 2, "test/box": 2}


@pytest.fixture(autouse=True)
def pictures(tmp_path) -> None:
    folder_by_class(tmp_path / "set", COUNTS)


def test_rows_that_start_below_the_last_level_of_their_steps_are_told_of_once():
    low = RECIPE.replace("creativity = [0.3, 0.6]", "creativity = 0.05")
    assert low != RECIPE
    Path("recipe.toml").write_text(low, encoding="utf-8")
    made = invoke("augment", "recipe.toml", "--out", "manifest.jsonl")
    assert made.exit_code == 0
    assert "  next  " not in made.stdout
    assert made.stdout.count("is below the last noise level of 30 steps") == 1
    assert "19 of 19 rows cannot be made: creativity 0.05" in made.stdout
    told = json.loads(invoke("augment", "recipe.toml", "--out", "manifest.jsonl", "--json").stdout)
    assert "19 of 19 rows" in told["warnings"][-1]
    [message] = refused(invoke("augment", "recipe.toml", "--run", "--out", "out/low"))
    assert "19 of 19 rows" in message
    assert not Path("out/low").exists()
    ways = ("creativity = 0.05", "creativity = 0.2"), ("[settings]", '[settings]\ncreativity_steps = "respace"')
    for old, new in ways:
        text = low.replace(old, new) if old in low else f"{low}\n{new}\n"
        Path("recipe.toml").write_text(text, encoding="utf-8")
        mended = invoke("augment", "recipe.toml", "--out", "manifest.jsonl")
        assert "  next  " in mended.stdout, mended.output
        planned = invoke("plan", "manifest.jsonl")
        assert planned.exit_code == 0, planned.output
