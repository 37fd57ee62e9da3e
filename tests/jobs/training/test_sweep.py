"""`wanbatch train lora --sweep`: which trials there are, which is the best, and how a sweep goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import invoke
from PIL import Image

from wanbatch.errors import UserError
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.driver.tasks import CallFailed
from wanbatch.jobs.training import lora as lora_training
from wanbatch.jobs.training import sweep_run
from wanbatch.jobs.training.lora import LoraRequest
from wanbatch.jobs.training.sweep import Trial, best_of, named_lists, rule, table, trials_of
from wanbatch.jobs.training.sweep_run import sweep
from wanbatch.pipeline.training.lora.settings import LoraSettings
from wanbatch.pipeline.training.lora.training import LossNotFinite

GAINS = {2: 0.01, 4: 0.03, 8: 0.02}
DAMAGES = {2: 0.0, 4: 0.5, 8: -0.1}


def measured(rank: int) -> dict[str, Any]:
    return {"gain": GAINS[rank], "damage": DAMAGES[rank], "unrelated_psnr": 30.0}


def test_settings_and_their_values_are_read_as_they_are_written():
    found = named_lists(["rank=8,16 learning_rate=1e-4,3e-4", "warm-up=5"])
    assert found == {"rank": ["8", "16"], "rate": ["1e-4", "3e-4"], "warm_up": ["5"]}
    trials = trials_of({"rank": [8, 16, 8], "rate": [1e-4, 3e-4]})
    assert [trial.words for trial in trials] == [
        "rank=8 rate=0.0001", "rank=8 rate=0.0003", "rank=16 rate=0.0001", "rank=16 rate=0.0003",
    ]  # fmt: skip
    assert trials[0].name == "rank-8_rate-0.0001"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rank", "--sweep 'rank': must be NAME=VALUE,VALUE, like rank=8,16,32"),
        ("rank=8,,16", "must be NAME=VALUE,VALUE"),
        ("rnak=8", "--sweep rnak: there is no such setting to sweep; there are rank, alpha, rate,"),
        ("seed=1,2", "--sweep seed: decides which pictures are held out, so trials could not be compared: drop it"),
        ("rank=8 rank=16", "--sweep: has rank twice: give all its values in one list"),
    ],
)
def test_what_cannot_be_swept_is_one_line(text, said):
    with pytest.raises(UserError, match=said.replace("'", ".")):
        named_lists([text])


def test_the_best_trial_has_the_highest_gain_and_with_a_trigger_little_damage():
    trials = [Trial({"rank": rank}, measured(rank)) for rank in GAINS]
    broken = [Trial({"rank": 16}, failed="the loss is nan at step 3"), Trial({"rank": 32})]
    best = {by: best_of([*broken, *trials], by) for by in (rule(None), rule("wug"))}
    assert {by: trial and trial.words for by, trial in best.items()} == {
        "the highest gain": "rank=4", "the highest gain less damage": "rank=8",
    }  # fmt: skip
    assert best_of(broken, rule(None)) is None
    assert best_of([Trial({"rank": 1}, {"gain": math.nan, "damage": 0.0})], rule(None)) is None
    lines = table([*broken, *trials], rule("wug"))
    assert lines[1].endswith("rank=16  the loss is nan at step 3")
    assert lines[2].endswith("rank=32  has not ended")
    (star,) = [line for line in lines if line.startswith("*")]
    assert star.split() == ["*", "rank=8", "+2.0%", "-10.0%", "30.0", "dB", "0.0"]
    nothing = {"gain": -0.00001, "damage": -0.0, "unrelated_psnr": 30.0}
    assert table([Trial({"rank": 1}, nothing)], rule(None))[1].split()[2:4] == ["+0.0%", "+0.0%"]


def test_a_loss_that_an_adapter_does_not_change_is_no_minus_zero(monkeypatch):
    found = {"gain": 0.00001, "damage": -0.0, "loss_without": 0.1, "loss_with": 0.1, "held_out_pictures": 2}
    told = found | {"file": "a.safetensors", "coverage": "2 of 2 layers"}
    monkeypatch.setattr(lora_training, "train", lambda request, say: told)
    done = invoke("train", "lora", "--images", "set", "--name", "a", "--device", "cpu")
    assert "with it (+0.0%)" in done.output
    assert "unrelated prompts +0.0%" in done.output


@pytest.fixture
def request_of(tmp_path, monkeypatch) -> LoraRequest:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "set")
    settings = LoraSettings(steps=2, rank=2, sample_steps=1, warm_up=1)
    return LoraRequest("set", "ink", Path("out"), "tiny", None, settings=settings, device="cpu")


def write_pictures(folder: Path) -> None:
    folder.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a cat number {number}")


def one_by_one(calls: Sequence[Callable], at_once: int, gpu: bool, ended: Callable) -> None:
    """What `run_tasks` does, in this process."""
    for index, call in enumerate(calls):
        ended(index, call())


def no_training(monkeypatch, begun: list[int]) -> None:
    """Trainings take no time; one of rank 8 has a loss that is no number."""

    def train(request: LoraRequest, say: Callable[[str], None]) -> dict[str, Any]:
        begun.append(request.settings.rank)
        if request.settings.rank == 8:
            raise LossNotFinite("the loss is nan at step 2: the state after 0 steps is kept in X. Lower the rate")
        (request.out / "samples").mkdir()
        for name in ("ink.safetensors", "README.md", "measures.json", "loss.svg", "samples/end.png"):
            (request.out / name).write_text(f"{name} of rank {request.settings.rank}\n")
        return measured(request.settings.rank)

    monkeypatch.setattr(sweep_run, "train", train)


def test_a_trial_that_fails_is_a_line_and_the_best_is_copied(request_of, monkeypatch):
    begun: list[int] = []
    no_training(monkeypatch, begun)
    said: list[str] = []
    found = sweep(request_of, {"rank": [2, 4, 8]}, one_by_one, said.append)
    assert begun == [2, 4, 8]
    assert found["best"] == "rank-4"
    assert [each.get("failed") for each in found["trials"]] == [None, None, "the loss is nan at step 2"]
    assert json.loads(Path("out/sweep.json").read_text()) | {"file": "out/ink.safetensors"} == found
    assert Path("out/ink.safetensors").read_text() == "ink.safetensors of rank 4\n"
    assert Path("out/samples/end.png").exists()
    card = Path("out/README.md").read_text()
    assert "The one of 3 trials with the highest gain:" in card
    assert "* rank=4" in card
    assert said[-1] == "3 of 3: rank=8  the loss is nan at step 2"
    # The same command has nothing left to train; more values are more trials, and another sweep is refused.
    begun.clear()
    sweep(request_of, {"rank": [2, 4, 8]}, one_by_one, said.append)
    assert begun == []
    assert "3 trials, 0 to train, 1 at once" in said
    GAINS[16], DAMAGES[16] = 0.5, 0.0
    assert sweep(request_of, {"rank": [4, 16]}, one_by_one, said.append)["best"] == "rank-16"
    assert begun == [16]
    with pytest.raises(UserError, match="has a training with steps 2, not 3: give what it was begun with"):
        sweep(replace(request_of, settings=replace(request_of.settings, steps=3)), {"rank": [2]}, one_by_one, print)
    Path("set/0.txt").write_text("another caption")
    with pytest.raises(UserError, match="has a training with other pictures or captions"):
        sweep(request_of, {"rank": [2]}, one_by_one, print)


def test_a_sweep_that_is_interrupted_or_loses_a_process_goes_on(request_of, monkeypatch):
    begun: list[int] = []
    no_training(monkeypatch, begun)

    def interrupted(calls: Sequence[Callable], at_once: int, gpu: bool, ended: Callable) -> None:
        ended(0, calls[0]())
        raise KeyboardInterrupt

    def lost(calls: Sequence[Callable], at_once: int, gpu: bool, ended: Callable) -> None:
        for index in range(len(calls)):
            ended(index, CallFailed("its process was lost 3 times: out of memory"))

    with pytest.raises(KeyboardInterrupt):
        sweep(request_of, {"rank": [2, 4]}, interrupted, print)
    found = sweep(request_of, {"rank": [2, 4]}, lost, print)
    assert (found["best"], found["trials"][1]["failed"]) == ("rank-2", "its process was lost 3 times: out of memory")
    assert sweep(request_of, {"rank": [2, 4]}, one_by_one, print)["best"] == "rank-4"
    assert begun == [2, 4]


def test_a_sweep_without_any_result_names_a_trial(request_of, monkeypatch):
    no_training(monkeypatch, [])
    with pytest.raises(UserError, match="no trial of the sweep came to its end: rank=8: the loss is nan at step 2"):
        sweep(request_of, {"rank": [8]}, one_by_one, print)
    Path("out/trials/rank-8/result.json").write_text("{")
    with pytest.raises(UserError, match=r"result\.json: is damaged .* remove it, and its trial is measured again"):
        sweep(request_of, {"rank": [8]}, one_by_one, print)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_command_trains_trials_in_processes_of_ray(request_of):
    given = ["train", "lora", "--images", "set", "--name", "ink", "--out", "out", "--steps", "2", "--device", "cpu"]
    given += ["--resolution", "32", "--sample-steps", "1", "--unrelated", "a dog"]
    done = CliRunner().invoke(main, [*given, "--sweep", "rank=2,x"])
    assert (done.exit_code, "Invalid value for '--rank': 'x' is not a valid integer" in done.stderr) == (2, True)
    done = CliRunner().invoke(main, [*given, "--sweep", "rank=2,4 learning_rate=1e-3", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {each["name"] for each in found["trials"]} == {"rank-2_rate-0.001", "rank-4_rate-0.001"}
    best = Path("out/trials") / found["best"]
    assert Path("out/ink.safetensors").read_bytes() == (best / "ink.safetensors").read_bytes()
    assert (best / "state.pt").exists()
    pictures = [path for path in Path("out/cache").glob("*.safetensors") if not path.name.startswith("text-")]
    assert len(pictures) == 4  # one cache for all trials
    assert not list(Path("out/cache").glob("*.new"))
    again = CliRunner().invoke(main, [*given, "--sweep", "rank=2,4 learning_rate=1e-3"])
    assert again.exit_code == 0, again.output
    assert "2 trials, 0 to train" in again.stderr
    assert f"the trial with the highest gain, {found['best']}." in again.stdout


def test_the_command_names_the_file_that_there_is(monkeypatch, tmp_path):
    tried = {"settings": {"rank": 2}, "measures": {"gain": 0.1, "damage": 0.0, "unrelated_psnr": 30.0}, "seconds": 1}
    file = "out/ink_high_noise.safetensors"  # of A14B
    found = {"rule": rule(None), "best": "rank-2", "trials": [tried], "file": file}
    monkeypatch.setattr(sweep_run, "sweep", lambda *given: found)
    given = ["train", "lora", "--images", str(tmp_path), "--name", "ink", "--out", "out", "--sweep", "rank=2"]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 0, done.output
    assert f"{file}: the trial with" in done.stdout
    assert f"--lora ink={file}" in done.stdout
