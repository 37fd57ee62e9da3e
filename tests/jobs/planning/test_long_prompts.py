"""Prompts with more tokens than the model reads: a warning names the rows, and a column says by how much."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from job_making import write_jsonl

from wanbatch.jobs.cli.main import main
from wanbatch.jobs.planning.long_prompts import notes_on_long_prompts
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.manifests.columns import RARE
from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.loading.registry import find
from wanbatch.pipeline.loading.token_counter import TokenCounter
from wanbatch.pipeline.sound.adapter_file import read_header
from wanbatch.pipeline.sound.config import OWN_ADAPTER

LONG = ", ".join(f"detail number {number} of a busy street scene" for number in range(60))


@pytest.fixture
def planned(settings, tmp_path, monkeypatch):
    """Plans rows of m.jsonl in the current folder."""
    monkeypatch.chdir(tmp_path)

    def plan(*rows: dict, **changes):
        write_jsonl(tmp_path / "m.jsonl", rows)
        return prepare("m.jsonl", settings(**{"model": "tiny", **changes}), weights=False)[0]

    return plan


def cut(plan, column: str = "prompt") -> dict[str, int]:
    rows = plan.images.select(["id", f"{column}_tokens_cut"]).to_pylist()
    return {row["id"]: value for row in rows if (value := row[f"{column}_tokens_cut"]) is not None}


def test_long_prompts_are_named_and_counted(planned):
    plan = planned(
        {"id": "a", "prompt": "a red heart"},
        {"id": "b", "prompt": LONG, "num_images": 2},
        {"id": "c", "prompt": LONG + " and a heart"},
    )
    found = cut(plan)
    assert set(found) == {"b-0", "b-1", "c"}
    assert found["c"] > found["b-0"] == found["b-1"] > 0
    assert plan.later == ("prompt_tokens_cut",)
    (warning,) = plan.warnings
    assert warning == (
        "2 prompts are longer than the 512 tokens that model tiny reads, and the rest has no effect: "
        f"m.jsonl:2 ({found['b-0'] + 512} tokens), m.jsonl:3 ({found['c'] + 512} tokens). "
        "Shorten what you can; the dataset's column prompt_tokens_cut says by how much"
    )
    (note,) = notes_on_long_prompts(plan)
    assert note.startswith("Of the prompt of 3 images the model read only the first 512 tokens")


def test_without_long_prompts_nothing_shows_that_there_is_such_a_column(planned):
    plan = planned({"id": "a", "prompt": "a red heart"})
    assert (plan.warnings, plan.later, notes_on_long_prompts(plan)) == ((), (), ())


def test_negative_prompts_count_where_guidance_uses_them(planned):
    rows = [{"id": "a", "prompt": "x", "guidance": 3}, {"id": "b", "prompt": "x", "guidance": 1}]
    plan = planned(*rows, negative_prompt=LONG)
    assert set(cut(plan, "negative_prompt")) == {"a"}
    assert plan.warnings[0].startswith("1 negative prompt is longer than the 512 tokens")
    assert plan.later == ("negative_prompt_tokens_cut",)


def test_many_rows_are_not_all_listed(planned):
    (warning,) = planned(*({"prompt": f"{number} {LONG}"} for number in range(9))).warnings
    assert "m.jsonl:5 (" in warning
    assert "m.jsonl:6" not in warning
    assert " tokens) and 4 more. " in warning


def test_a_sound_takes_places_of_its_prompt(planned, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16000)
    words, read = LONG.split(), TEXT_TOKENS - read_header(Path(find().folder) / OWN_ADAPTER).tokens
    counter = TokenCounter(find().folder)
    fits = next(n for n in range(len(words), 0, -1) if not counter.longer_than_read([" ".join(words[:n])], read))
    longest, longer = " ".join(words[:fits]), " ".join(words[: fits + 1])
    plan = planned(
        {"id": "fits", "prompt": longest, "audio": "a.wav"},
        {"id": "cut", "prompt": longer, "audio": "a.wav"},
        {"id": "alone", "prompt": longer},
        {"id": "unheard", "prompt": longer, "audio": "a.wav", "audio_weight": 0},
    )
    found = cut(plan)
    assert found == {"cut": counter.longer_than_read([longer], read)[longer]}
    (warning,) = plan.warnings
    assert warning.startswith(
        f"1 prompt is longer than the 512 tokens that model tiny reads ({read} beside a sound), and the rest has no "
        f"effect: m.jsonl:2 ({read + found['cut']} tokens). "
    )


def test_a_model_whose_tokenizer_cannot_be_read(planned, tmp_path):
    shutil.copytree(find().folder, tmp_path / "model")
    (tmp_path / "model/tokenizer/tokenizer.json").unlink()
    plan = planned({"prompt": "short"}, {"prompt": LONG}, model=str(tmp_path / "model"))
    assert plan.later == ()
    (warning,) = plan.warnings
    assert warning.startswith("1 prompt is perhaps longer than the 512 tokens that model ")
    assert "reads: m.jsonl:2. The rest would have no effect; they were not counted" in warning


def test_folders_that_were_begun_without_the_column(planned):
    """What is made stays as it is; a row that is still to be made brings the column."""
    plan = planned({"id": "a", "prompt": LONG}, {"id": "b", "prompt": "x"})
    assert plan.for_folder((), {"a"}).later == ()
    assert plan.for_folder((), {"b"}).later == ("prompt_tokens_cut",)
    assert plan.for_folder((), {"a", "b"}, again={"a"}).later == ("prompt_tokens_cut",)
    assert plan.for_folder(RARE, {"a", "b"}).later == RARE


def test_plan_tells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "m.jsonl", [{"prompt": LONG}])
    shown = CliRunner().invoke(main, ["plan", "m.jsonl"]).output
    assert "\n  warning   1 prompt is longer than the 512 tokens that model tiny reads" in shown
    (warning,) = json.loads(CliRunner().invoke(main, ["plan", "m.jsonl", "--json"]).output)["warnings"]
    assert warning.startswith("1 prompt is longer")
