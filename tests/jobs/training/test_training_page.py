"""`wanbatch train lora`, as the page on training shows it, and what it says of bad input."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from wanbatch.errors import UserError
from wanbatch.jobs.cli.main import main
from wanbatch.pipeline.loading.registry import find

ROOT = Path(__file__).parents[3]
LOADER = "wanbatch.pipeline.training.lora.model.load_reference"
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
QUICK = ["--steps", "2", "--rank", "2", "--resolution", "32", "--sample-steps", "1", "--unrelated", "a dog", "--json"]


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def write_drawings(folder: Path, captions: bool = True) -> None:
    folder.mkdir(parents=True)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        if captions:
            (folder / f"{number}.txt").write_text(f"a cat number {number}")


def invoke(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def test_the_command_of_the_page_makes_an_adapter_with_its_card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (command,) = [each for each in commands() if "crayon" in each]
    write_drawings(tmp_path / "drawings")
    done = invoke(*command[1:], *QUICK, "--rights", "drawn by a test")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "adapters" / "crayon"
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["file"] == "adapters/crayon/crayon.safetensors"
    assert (found["pictures"], found["held_out_pictures"]) == (4, 1)
    for name in re.findall(r"^\| `([a-z.-]+)`", PAGE.split("## Few steps of your model")[0], re.MULTILINE):
        assert (folder / name).exists(), name
    assert "crayon style, a cat number" in " ".join(json.loads((folder / "training.json").read_text())["captions"])
    assert "drawn by a test" in (folder / "README.md").read_text()
    again = invoke(*command[1:], *QUICK, "--rate", "0.1")
    assert again.exit_code == 2
    assert "has a training with rate 0.0001, not 0.1" in again.stderr
    (further,) = [each for each in commands() if "more-drawings" in each]
    write_drawings(tmp_path / "more-drawings")
    monkeypatch.setattr(
        "wanbatch.jobs.training.lora.TrainingModel.load", lambda *given: pytest.fail("all was checked")
    )
    assert "has rank 2, and the training 16: give --rank 2" in invoke(*further[1:]).stderr
    with pytest.raises(pytest.fail.Exception, match="all was checked"):
        CliRunner().invoke(main, [*further[1:], *QUICK], catch_exceptions=False)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--name", "two words"], "an adapter's name has letters, digits, . _ - and no spaces"),
        (["--name", "ink", "--trigger", "ink"], "the trigger 'ink' is not in the template '{caption}'"),
        (["--name", "ink"], "none of its 4 pictures has a caption: put NAME.txt beside NAME.png"),
        (["--name", "ink", "--caption", "ink", "--resolution", "8"], "--resolution 8: must be at least 16 for tiny"),
    ],
)
def test_bad_input_is_one_clear_line_before_a_model_is_loaded(tmp_path, monkeypatch, more, said):
    write_drawings(tmp_path / "drawings", captions=False)
    monkeypatch.setattr(
        "wanbatch.pipeline.training.lora.model.load_reference", lambda *given: pytest.fail("a model is loaded")
    )
    done = invoke("train", "lora", "--images", str(tmp_path / "drawings"), *more)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.output


def test_the_command_with_masks_finds_them(tmp_path, monkeypatch):
    class Checked(Exception):
        pass

    def load(*given):
        raise Checked

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wanbatch.jobs.training.lora.TrainingModel.load", load)
    (command,) = [each for each in commands() if "--masks" in each]
    write_drawings(tmp_path / "drawings")
    (tmp_path / "masks").mkdir()
    for number in range(4):
        has = "has" if number == 3 else "have"
        assert f"{4 - number} of 4 pictures {has} no mask" in invoke(*command[1:]).stderr
        Image.new("L", (32, 32), 255).save(tmp_path / "masks" / f"{number}.png")
    assert isinstance(invoke(*command[1:]).exception, Checked)


def test_the_command_for_a14b_is_for_both_of_its_transformers(tmp_path, monkeypatch):
    loaded: list[tuple] = []

    def load(*given):
        loaded.append(given)
        raise UserError("loaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wanbatch.jobs.training.lora.TrainingModel.load", load)
    monkeypatch.setattr("wanbatch.jobs.training.lora.find", lambda *given: replace(find(), two_experts=True))
    (command,) = [each for each in commands() if "--expert" in each]
    write_drawings(tmp_path / "drawings")
    assert "wanbatch: loaded" in invoke(*command[1:]).stderr
    assert loaded[0][3:] == ("fp8",)
    without = [word for word in command[1:] if word not in ("--expert", "both")]
    assert "has two transformers (A14B): say which is trained, --expert high, low" in invoke(*without).stderr


def test_the_command_of_a_sweep_has_six_trials(tmp_path, monkeypatch):
    def run_tasks(calls, at_once, gpu, ended):
        assert [call.args[1].name for call in calls] == [
            f"rank-{rank}_rate-{rate}" for rank in (8, 16, 32) for rate in (0.0001, 0.0003)
        ]
        for index in range(len(calls)):
            ended(index, Exception("it is not trained in a test"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wanbatch.jobs.driver.tasks.run_tasks", run_tasks)
    (command,) = [each for each in commands() if "--sweep" in each]
    write_drawings(tmp_path / "drawings")
    done = invoke(*command[1:])
    assert "adapters/ink: no trial of the sweep came to its end: rank=8 rate=0.0001: it is not" in done.stderr


def test_few_steps_as_the_page_shows_them_are_planned_without_a_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows, of_styles = re.findall(r"^```jsonl\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "rows.jsonl").write_text(rows)
    (command,) = [each for each in commands() if each[:2] == ["wanbatch", "run"] and "few-step" in each]
    done = invoke("plan", *command[2:], "--json")
    assert done.exit_code == 0, done.output
    planned = json.loads(done.stdout)
    assert [adapter["coverage"] for adapter in planned["adapters"]] == ["64 of 80 layers, rank 32, scale 1.0"]
    assert planned["warnings"] == []
    (tmp_path / "styles.jsonl").write_text(of_styles)
    done = invoke("plan", "styles.jsonl", "--json")
    assert done.exit_code == 0, done.output
    planned = json.loads(done.stdout)
    assert {adapter["name"] for adapter in planned["adapters"]} == {"flat", "night"}
    assert planned["warnings"] == []


def test_the_commands_that_made_the_styles_are_those_of_their_results():
    """What their results file has of each training, but the folders."""
    results = json.loads((ROOT / "benchmarks/results/styles-training-tiny-h200.json").read_text())["styles"]
    made = [command for command in commands() if command[2:3] == ["wanbatch.pipeline.training.toy.styles"]]
    without = [" ".join(command).replace(f"--out {command[4]}", "--out DIR") for command in made]
    names = ("night", "flat, as it shipped before", "flat")
    begins_with = "--start-from first/flat/flat.safetensors", "--start-from FLAT_AS_IT_SHIPPED_BEFORE"
    assert [text.replace(*begins_with) for text in without] == [results[name]["command"] for name in names]


def test_the_other_commands_of_the_page_are_there():
    modules = [command[2] for command in commands() if command[:2] == ["python", "-m"]]
    assert modules == ["wanbatch.pipeline.training.toy.few_step", *["wanbatch.pipeline.training.toy.styles"] * 3]
    for command in commands():
        if command[0] == "wanbatch":
            assert invoke(*command[1:3], "--help").exit_code == 0
