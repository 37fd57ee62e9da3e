"""`wanbatch tune` on a small model: what it measures, chooses, writes and refuses."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace

import pytest
from click.testing import CliRunner
from job_making import command
from PIL import Image

from wanbatch.errors import UserError
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.config.hardware import ExecutionConfig
from wanbatch.jobs.config.settings import Settings, read_settings
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.tuning import settings_file
from wanbatch.jobs.tuning import tune as tuning
from wanbatch.jobs.tuning.search import Candidate, parse_goal
from wanbatch.jobs.tuning.trials import Maker, load_requests
from wanbatch.pipeline.evaluation.quality import HIGHEST_PSNR, Meter, psnr_of
from wanbatch.pipeline.generate import Wan

ROWS = [
    {"id": "heart", "prompt": "a red heart", "seed": 1},
    {"id": "star", "prompt": "a big star on the left", "seed": 2, "width": 64, "height": 32},
    {"id": "own", "prompt": "a circle", "steps": 9, "sampler": "euler"},
    {"id": "again", "prompt": "", "image": "square.png", "creativity": 0.8, "seed": 3},
    {"id": "source", "image": "square.png", "creativity": 0.0},
    {"id": "gone", "image": "nowhere.png", "prompt": "a star"},
]


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch):
    monkeypatch.setattr(tuning, "TIMING_ROUNDS", 1)
    monkeypatch.setattr(tuning, "REFERENCE_STEPS", 16)
    monkeypatch.setattr(tuning.lpips, "at_hand", lambda: False)  # wherever this runs


@pytest.fixture
def rows(sources, tmp_path):
    """The manifest and its pictures, in the current folder."""
    (tmp_path / "square.png").write_bytes((sources / "square.png").read_bytes())
    path = tmp_path / "shop.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def wan(model) -> Wan:
    return Wan.load(model, "cpu", "float32", 4)


CPU = ExecutionConfig("cpu", "fp32", False)


def silent(text: str) -> None:
    pass


def test_what_is_chosen_holds_when_it_is_made_again(rows, settings, model, wan, tmp_path):
    """Score and frontier, and the sheet beside them."""
    goal = parse_goal(["psnr>=20"], None)
    sheet = tmp_path / "sheet.png"
    tuned = tuning.tune(rows, settings(threads=1), goal, CPU, 16, sheet, silent)
    sample = tuned.sample
    assert {request.id for request in sample.requests} == {"heart", "star", "again"}
    assert (sample.images, sample.unaffected, sample.passed_over) == (6, 2, 1)

    chosen = tuned.chosen
    assert goal.met(chosen, tuned.default)
    assert chosen.seconds == min(one.seconds for one in tuned.shown if goal.met(one, tuned.default))
    maker = Maker(wan, sample.requests)
    references = maker.make(Candidate("unipc", 16)).pictures
    again = Meter(["ssim"]).score(maker.make(chosen.candidate).pictures, references)
    assert again == chosen.score
    assert tuned.default.candidate == Candidate("unipc", model.steps)

    plan, _ = prepare(rows, settings(steps=None))
    default = tuned.default.candidate
    possible = [tuning._possible(plan)(replace(default, steps=steps)) for steps in range(1, model.steps)]
    assert tuned.fewest_steps == 1 + possible.index(True) > 1
    assert any(f"fewer than {tuned.fewest_steps} steps" in line for line in settings_file.summary(tuned))

    picture = Image.open(sheet)
    assert picture.width > 3 * 192
    assert picture.height > (192 + 96 + 192)


def test_what_changes_most_stands_first_on_the_sheet(rows, settings, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(tuning, "side_by_side", lambda columns, captions, path: drawn.extend([columns, captions]))
    tuning.tune(rows, settings(threads=1), parse_goal(["psnr>=20"], None), CPU, 16, tmp_path / "sheet.png", silent)
    columns, captions = drawn
    reference, chosen = columns[0].pictures, columns[2].pictures
    assert columns[2].title.startswith("chosen")
    psnr = [psnr_of(chosen[name], reference[name]) for name in captions]
    assert psnr == sorted(psnr)
    assert psnr[0] < psnr[-1]
    assert captions["star"].endswith("star: a big star on the left")


def test_other_settings_play_their_part_and_the_tuned_ones_none(rows, settings, monkeypatch):
    """The guidance of the settings reaches the pictures; their steps, sampler, cache and levels do not."""
    seen = []

    class Stop(Exception):
        pass

    def make(self, candidate):
        seen.extend(self.requests)
        raise Stop

    monkeypatch.setattr(Maker, "make", make)
    given = settings(guidance=2.5, sampler="euler", step_cache="taylor", sigmas=(0.9, 0.5), steps=None)
    with pytest.raises(Stop):
        tuning.tune(rows, given, parse_goal([], 2.0), CPU, 16, None, silent)
    assert {request.guidance for request in seen} == {2.5}
    assert {(request.steps, request.sampler, request.sigmas) for request in seen} == {(6, "unipc", None)}


def test_a_candidate_changes_its_settings_alone(rows, settings, wan):
    """Maker: the same noise and prompt; what the candidate says instead of what the row says."""
    plan, _ = prepare(rows, settings())
    images = plan.task(0, 1, "", [0, 1]).images
    requests, unfit = load_requests(images, 5, rows.parent, False)
    assert not unfit
    made = Maker(wan, requests).make(Candidate("dpmpp_2m", 4, "taylor:interval=2", "karras"))
    assert made.seconds > 0
    assert made.blocks < 2 * 3 * 4  # of two branches, three blocks, four steps
    wan.use_step_cache("taylor:interval=2")
    expected = [replace(one, sampler="dpmpp_2m", steps=4, schedule="karras") for one in requests]
    for result in wan.generate(expected):
        assert (made.pictures[result.request.id] == result.pixels).all()


def test_a_picture_of_no_numbers_is_black_and_told(rows, settings, wan):
    plan, _ = prepare(rows, settings())
    requests, _ = load_requests(plan.task(0, 1, "", [0, 1]).images, 5, rows.parent, False)
    requests[1] = replace(requests[1], guidance=1e38)
    made = Maker(wan, requests).make(Candidate("unipc", 6))
    assert made.failed == ("star",)
    assert made.pictures["star"].max() == 0
    assert made.pictures["heart"].max() > 0


def test_few_steps_are_not_tried_where_a_row_could_not_start(rows, settings):
    """A run would refuse such a row, or, without a creativity of its own, change it."""

    def possible(*others: dict) -> list[int]:
        rows.write_text("".join(json.dumps(row) + "\n" for row in [ROWS[0], *others]))
        plan, _ = prepare(rows, settings(steps=30))
        check = tuning._possible(plan)
        return [steps for steps in range(1, 30) if not check(Candidate("unipc", steps))]

    low = {"image": "square.png", "creativity": 0.25}
    assert possible() == []
    assert possible(low) == list(range(1, 11))  # the last level is about 3 / (steps + 2) with shift 3
    assert possible({**low, "steps": 20}) == []
    assert possible({**low, "sigmas": [0.9, 0.2]}) == []
    assert possible({**low, "creativity": 0.0}) == []
    assert possible({"image": "square.png"}) == [1, 2, 3]  # the default creativity, 0.6


def test_a_goal_that_nothing_meets_says_the_best(rows, settings):
    goal = parse_goal([f"psnr>={HIGHEST_PSNR:g}"], None)
    with pytest.raises(UserError, match=r"nothing reaches psnr>=100: the best is .*, 6 steps with psnr \d"):
        tuning.tune(rows, settings(steps=None), goal, CPU, 2, None, silent)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            [{"prompt": "x", "steps": 3}, {"image": "square.png", "creativity": 0}],
            "all 2 images have steps or sampler",
        ),
        (
            [{"id": "a", "image": "no.png"}, {"id": "b", "image": "nor.png"}],
            r"no row can be made; .*'[ab]', .* nor?\.png does",
        ),
    ],
)
def test_a_manifest_without_rows_to_measure(rows, settings, changed, message):
    rows.write_text("".join(json.dumps(row) + "\n" for row in changed))
    plan, _ = prepare(rows, settings())
    with pytest.raises(UserError, match=message):
        tuning.take_sample(plan, 4, settings(seed=1))


def test_the_sample_is_drawn_by_the_seed(rows, settings):
    rows.write_text("".join(json.dumps({"prompt": str(number)}) + "\n" for number in range(200)))
    plan, _ = prepare(rows, settings())
    drawn = [[one.id for one in tuning.take_sample(plan, 8, settings(seed=seed)).requests] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 8
    assert max(map(int, drawn[0])) > 60  # not the first ones


def test_the_judge_is_for_the_small_model(rows, settings):
    with pytest.raises(UserError, match="`tiny` alone"):
        tuning.tune(rows, settings(), parse_goal(["judge"], None), CPU, 2, None, silent)


def invoke(*arguments: object):
    return CliRunner().invoke(main, ["tune", *map(str, arguments)])


def test_the_settings_file_is_not_replaced_by_accident(rows, tmp_path, monkeypatch):
    """Refused before anything is read or loaded."""
    (tmp_path / "wanbatch.toml").write_text("steps = 4\n")
    monkeypatch.setattr(tuning, "tune", lambda *rest: pytest.fail("it went on"))
    result = invoke("nowhere.jsonl", "--budget", "psnr>=30")
    assert (result.exit_code, (tmp_path / "wanbatch.toml").read_text()) == (2, "steps = 4\n")
    assert "--force" in result.stderr


def test_bad_goals_are_told_first(tmp_path):
    result = invoke("nowhere.jsonl", "--budget", "sharpness>=3")
    assert (result.exit_code, "lpips<=0.05" in result.stderr) == (2, True)
    assert invoke("nowhere.jsonl").exit_code == 2


def test_fields_that_were_given_are_kept(tmp_path, monkeypatch):
    """Strings of any kind come back; what is tuned or not given does not stand there."""
    odd = 'a "quoted" \\ 🦊 \x7f\n line'
    (tmp_path / "wanbatch.toml").write_text("steps = 4\nseed = 7\nallow_http = true\n")
    monkeypatch.setenv("WANBATCH_GUIDANCE", "2.5")
    kept = tuning.kept(read_settings(negative_prompt=odd, sampler="euler"))
    assert kept == {"seed": 7, "guidance": 2.5, "negative_prompt": odd, "allow_http": True}
    text = "\n".join(f"{name} = {settings_file._value(value)}" for name, value in kept.items())
    assert tomllib.loads(text) == kept
    assert Settings(**tomllib.loads(text)) == Settings(**kept)


def test_the_command(rows, model_folder, tmp_path):
    """Once as a user does it: a file that the next command takes up, numbers as JSON, a sheet, progress beside."""
    toml = tmp_path / "wanbatch.toml"
    toml.write_text(f"model = {json.dumps(str(model_folder))}\nsteps = 5\nwidth = 32\nheight = 32\n")
    options = ["--budget", "psnr>=15", "--sample", 2, "--threads", 1, "--json", "--force"]
    ended = command("tune", "shop.jsonl", *options, cwd=tmp_path)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    chosen = found["chosen"]
    assert chosen["score"]["psnr"] >= 15
    assert chosen in found["frontier"]
    assert found["default"]["steps"] == 6  # the model's, not the file's
    assert found["sample"] == {
        "pictures": 2,
        "images": 6,
        "unaffected": 2,
        "passed_over": found["sample"]["passed_over"],
    }
    assert "references" in ended.err

    text = toml.read_text()
    written = tomllib.loads(text)
    assert written == {
        "model": str(model_folder), "width": 32, "height": 32, "threads": 1,
        **{name: chosen[name] for name in ("steps", "sampler", "schedule", "step_cache")},
    }  # fmt: skip
    assert found["manifest_digest"][:16] in text
    assert "torch " in text
    assert str(Candidate(**{name: chosen[name] for name in ("sampler", "steps", "step_cache", "schedule")})) in text
    assert Image.open(tmp_path / "wanbatch-tune.png").width > 600

    planned = command("plan", "shop.jsonl", "--json", cwd=tmp_path)
    assert planned.code == 0, planned.err
