"""`wanbatch train sound`: a few steps to an adapter that a plan then takes, and what it says of bad input."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from job_making import write_jsonl
from picture_folders import fill
from sound_making import encoded, tone

from wanbatch.jobs.cli.main import main
from wanbatch.jobs.planning.preparation import prepare


@pytest.fixture
def manifest(tmp_path):
    (tmp_path / "low.wav").write_bytes(encoded(tone(1.0, hertz=200)))
    (tmp_path / "high.wav").write_bytes(encoded(tone(3.0, hertz=900)))
    rows = [{"prompt": "a cow", "audio": "low.wav"}, {"prompt": "a bird", "audio": "high.wav"}, {"prompt": "x"}]
    return write_jsonl(tmp_path / "sounds.jsonl", [*rows, {"prompt": "a ghost", "audio": "gone.wav"}])


def test_an_adapter_is_trained_in_both_stages_and_taken_by_a_run(manifest, model_folder, tmp_path, settings):
    out = tmp_path / "made" / "a.safetensors"
    given = ["--model", str(model_folder), "--device", "cpu", "--steps", "3", "--batch", "2", "--json"]
    ended = CliRunner().invoke(main, ["train", "sound", str(manifest), "--out", str(out), *given])
    assert ended.exit_code == 0, ended.output
    assert "warning: left out: gone.wav does not exist" in ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert (found["sounds"], found["captions"], found["steps"]) == (2, 2, 3)
    plan, _ = prepare(manifest, settings(sound=str(out)))
    assert plan.hearing.tokens == 8


@pytest.mark.parametrize(
    ("rows", "out", "message"),
    [
        ([{"prompt": "a cow"}], "a.safetensors", "no row has a sound that can be read and a prompt"),
        ([{"prompt": "a cow"}], "a.bin", "must end in .safetensors"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(tmp_path, rows, out, message):
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    ended = CliRunner().invoke(main, ["train", "sound", str(manifest), "--out", str(tmp_path / out)])
    assert ended.exit_code == 2
    assert message in ended.output


def test_what_is_beside_an_adapter_of_another_training_is_not_gone_on_with(manifest, model_folder, tmp_path):
    def train(source, *more: str):
        given = ["--model", str(model_folder), "--device", "cpu", "--steps", "1", "--batch", "2", "--json"]
        out = ["--out", str(tmp_path / "made.safetensors")]
        return CliRunner().invoke(main, ["train", "sound", str(source), *out, *given, *more])

    assert train(manifest).exit_code == 0
    before = (tmp_path / "made.safetensors").read_bytes()
    other = write_jsonl(tmp_path / "other.jsonl", [{"prompt": "a dog", "audio": "low.wav"}])
    for ended, told in (
        (train(other), "has a training with other sounds or captions"),
        (train(manifest, "--tokens", "4"), "has a training with tokens 8, not 4"),
    ):
        assert ended.exit_code == 2, ended.output
        assert f"made.safetensors: {told}: give what it was begun with, or another --out" in ended.output
    assert (tmp_path / "made.safetensors").read_bytes() == before
    assert json.loads(train(manifest, "--steps", "2").stdout.splitlines()[-1])["steps"] == 2


def test_of_an_output_folder_the_pictures_rows_are_read_and_nothing_else(tmp_path):
    fill(tmp_path / "out", ["a", "b"])
    ended = CliRunner().invoke(
        main, ["train", "sound", str(tmp_path / "out"), "--out", str(tmp_path / "a.safetensors")]
    )
    assert ended.exit_code == 2
    assert "no row has a sound that can be read and a prompt" in ended.output
