"""`wanbatch tune` on a small model: what it measures, chooses, writes and refuses."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from wanbatch.errors import UserError
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.config.hardware import ExecutionConfig
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.tuning import tune as tuning
from wanbatch.jobs.tuning.candidates import Candidate
from wanbatch.jobs.tuning.goals import parse_goal
from wanbatch.jobs.tuning.sample import possible_candidates
from wanbatch.jobs.tuning.trials import CandidateRunner
from wanbatch.pipeline.evaluation.metrics import HIGHEST_PSNR
from wanbatch.pipeline.evaluation.quality import Meter

CPU = ExecutionConfig("cpu", "fp32", False)


def quick(sample_size: int, sheet: Path | None = None) -> tuning.TuningOptions:
    return tuning.TuningOptions(sample_size, reference_steps=16, timing_rounds=1, sheet=sheet)


def silent(text: str) -> None:
    pass


def test_what_is_chosen_holds_when_it_is_made_again(rows, settings, model, wan, tmp_path):
    """Score and frontier, and the sheet beside them."""
    goal = parse_goal(["psnr>=20"], None)
    sheet = tmp_path / "sheet.png"
    tuned = tuning.tune(rows, settings(threads=1), goal, CPU, quick(16, sheet), silent)
    sample = tuned.sample
    assert {request.id for request in sample.requests} == {"heart", "star", "again"}
    assert (sample.images, sample.unaffected, sample.unreadable) == (6, 2, 1)

    chosen = tuned.chosen
    assert goal.is_met(chosen, tuned.default)
    assert chosen.seconds == min(one.seconds for one in tuned.frontier if goal.is_met(one, tuned.default))
    runner = CandidateRunner(wan, sample.requests)
    references = runner.make(Candidate("unipc", 16)).pictures
    again = Meter(["ssim"]).score(runner.make(chosen.candidate).pictures, references)
    assert again == chosen.score
    assert tuned.default.candidate == Candidate("unipc", model.steps)

    plan, _ = prepare(rows, settings(steps=None))
    default = tuned.default.candidate
    possible = [possible_candidates(plan)(replace(default, steps=steps)) for steps in range(1, model.steps)]
    assert tuned.fewest_steps == 1 + possible.index(True) > 1
    assert any(f"fewer than {tuned.fewest_steps} steps" in line for line in tuned.summary())

    picture = Image.open(sheet)
    assert picture.width > 3 * 192
    assert picture.height > (192 + 96 + 192)


def test_other_settings_play_their_part_and_the_tuned_ones_none(rows, settings, monkeypatch):
    """The guidance of the settings reaches the pictures; their steps, sampler, cache and levels do not."""
    seen = []

    class Stop(Exception):
        pass

    def make(self, candidate):
        seen.extend(self.requests)
        raise Stop

    monkeypatch.setattr(CandidateRunner, "make", make)
    given = settings(guidance=2.5, sampler="euler", step_cache="taylor", sigmas=(0.9, 0.5), steps=None)
    with pytest.raises(Stop):
        tuning.tune(rows, given, parse_goal([], 2.0), CPU, quick(16), silent)
    assert {request.guidance for request in seen} == {2.5}
    assert {(request.steps, request.sampler, request.sigmas) for request in seen} == {(6, "unipc", None)}


def test_a_goal_that_nothing_meets_says_the_best(rows, settings):
    goal = parse_goal([f"psnr>={HIGHEST_PSNR:g}"], None)
    with pytest.raises(UserError, match=r"nothing reaches psnr>=100: the best is .*, 6 steps with psnr \d"):
        tuning.tune(rows, settings(steps=None), goal, CPU, quick(2), silent)


def test_the_judge_is_for_the_small_model(rows, settings):
    with pytest.raises(UserError, match=r"`tiny` alone, not of .*: use another budget"):
        tuning.tune(rows, settings(), parse_goal(["judge"], None), CPU, quick(2), silent)
    parse_goal(["psnr>=30"], None)


def invoke(*arguments: object):
    return CliRunner().invoke(main, ["tune", *map(str, arguments)])


def test_the_settings_file_is_not_replaced_by_accident(rows, tmp_path, monkeypatch):
    """Refused before anything is read or loaded."""
    (tmp_path / "wanbatch.toml").write_text("steps = 4\n")
    monkeypatch.setattr(tuning, "tune", lambda *rest: pytest.fail("it went on"))
    result = invoke("nowhere.jsonl", "--budget", "psnr>=30")
    assert (result.exit_code, (tmp_path / "wanbatch.toml").read_text()) == (2, "steps = 4\n")
    assert "is there already: --force updates it" in result.stderr


def test_bad_goals_are_told_first(tmp_path):
    result = invoke("nowhere.jsonl", "--budget", "sharpness>=3")
    assert (result.exit_code, "lpips<=0.05" in result.stderr) == (2, True)
    assert invoke("nowhere.jsonl").exit_code == 2


def test_the_command(rows, model_folder, tmp_path, monkeypatch):
    """As a user types it: a file that the next command takes up, numbers as JSON, a sheet, progress beside."""
    # what takes long is what other tests ask for in their own way
    monkeypatch.setattr(tuning, "TuningOptions", partial(tuning.TuningOptions, reference_steps=16, timing_rounds=1))
    toml = tmp_path / "wanbatch.toml"
    toml.write_text(f"model = {json.dumps(str(model_folder))}\nsteps = 5\nwidth = 32\nheight = 32\n")
    options = ["--budget", "psnr>=15", "--sample", 2, "--threads", 1, "--json", "--force"]
    ended = invoke("shop.jsonl", *options)
    assert ended.exit_code == 0, ended.stderr
    found = json.loads(ended.stdout)
    chosen = found["chosen"]
    assert chosen["score"]["psnr"] >= 15
    assert chosen in found["frontier"]
    assert found["default"]["steps"] == 6  # the model's, not the file's
    assert found["sample"] == {
        "pictures": 2,
        "images": 6,
        "unaffected": 2,
        "unmeasured": 0,
        "passed_over": found["sample"]["passed_over"],
    }
    assert "references" in ended.stderr

    text = toml.read_text()
    written = tomllib.loads(text)
    assert written == {
        "model": str(model_folder), "width": 32, "height": 32, "threads": 1, "report": "off",
        **{name: chosen[name] for name in ("steps", "sampler", "schedule", "step_cache")},
    }  # fmt: skip
    assert found["manifest_digest"][:16] in text
    assert "torch " in text
    assert str(Candidate(**{name: chosen[name] for name in ("sampler", "steps", "step_cache", "schedule")})) in text
    assert Image.open(tmp_path / "wanbatch-tune.png").width > 600

    planned = CliRunner().invoke(main, ["plan", "shop.jsonl", "--json"])
    assert planned.exit_code == 0, planned.stderr
