"""`wanbatch train few-step`: what it leaves, how it goes on, and what it says of bad input."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from two_experts import two_experts

from wanbatch.jobs.cli.main import main
from wanbatch.pipeline.training.low_rank import read_state

ROOT = Path(__file__).parents[3]
LOADER = "wanbatch.pipeline.training.lora.model.load_reference"
PAGE = (
    (ROOT / "docs" / "training.md")
    .read_text(encoding="utf-8")
    .split("## Few steps of your model")[1]
    .split("\n## ")[0]
)
SETTINGS = {
    "teacher_latents": 4, "teacher_steps": 2, "fake_rank": 2, "consistency_share": 0.3, "fake_warm_up": 1,
    "step_counts": [1, 2], "consistency_rate": 1e-2, "student_rate": 1e-2, "average": 0,
}  # fmt: skip
QUICK = ["--rank", "2", "--batch", "2", "--width", "32", "--height", "32", "--device", "cpu", "--json"]
QUICK += ["--base-precision", "fp8"]
QUICK += [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={json.dumps(value)}")]


def page_command() -> list[str]:
    (line,) = re.findall(r"^wanbatch (train few-step .*)$", PAGE, re.MULTILINE)
    return shlex.split(line)


def write_prompts(folder: Path, *prompts: str) -> None:
    rows = [json.dumps({"prompt": prompt}) for prompt in prompts or ("a dog", "a red car", "a dog")]
    (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")


def invoke(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def begun(monkeypatch) -> None:
    """Fail if a model is loaded."""
    monkeypatch.setattr(
        "wanbatch.pipeline.training.lora.model.load_reference", lambda *given: pytest.fail("a model is loaded")
    )


def test_the_command_of_the_page_leaves_an_adapter_that_a_run_takes_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_prompts(tmp_path)
    done = invoke(*page_command(), *QUICK, "--steps", "4", "--license", "mit")
    assert done.exit_code == 0, done.output
    folder, found = tmp_path / "adapters" / "four-steps", json.loads(done.stdout.splitlines()[-1])
    assert found["file"] == "adapters/four-steps/four-steps.safetensors"
    assert (found["prompts"], found["pictures"], found["steps"]) == (2, 8, 4)
    assert found["coverage"] == "64 of 80 layers, rank 2, scale 1.0"
    assert found["distance_with"] != found["distance_without"]
    assert 0.001 < found["base_difference"] < 0.1
    assert "The frozen layers were FP8 in training" in (folder / "README.md").read_text()
    for name in re.findall(r"`([a-z.-]+\.(?:json|jsonl|pt|png|md))`", PAGE):
        assert (folder / name).exists(), name
    assert json.loads((folder / "measures.json").read_text())["phase"] == "matching"

    use = re.search(r"A run uses it by `(.*?)`", PAGE)
    planned = invoke("plan", "prompts.jsonl", *shlex.split(use[1]), "--json")
    assert planned.exit_code == 0, planned.output
    row = json.loads(planned.stdout)
    assert row["warnings"] == []
    assert (row["first_rows"][0]["steps"], row["first_rows"][0]["guidance"]) == (4, 1.0)

    again = invoke(*page_command(), *QUICK, "--steps", "5", "--license", "mit")
    assert again.exit_code == 0, again.output
    assert "going on at step 4" in again.stderr
    assert read_state(folder / "four-steps.safetensors")[1]["ss_steps"] == "5"
    assert read_state(folder / "four-steps.safetensors")[1]["modelspec.license"] == "mit"
    other = invoke(*page_command(), *QUICK, "--rank", "3")
    assert other.exit_code == 2
    assert "has a training with rank 2, not 3: give what it was begun with, or another --out" in other.stderr


def test_a_model_of_two_transformers_gets_an_adapter_for_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_prompts(tmp_path)
    info = two_experts(tmp_path / "model")
    (tmp_path / "model" / "wanbatch.json").write_text(json.dumps({"guidance": 4.0, "guidance_2": 3.0, "shift": 3.0}))
    command = ["train", "few-step", "prompts.jsonl", "--name", "four", "--model", "model", *QUICK]
    done = invoke(*command, "--steps", "6")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    folder, names = tmp_path / "adapters" / "four", ("four_high_noise.safetensors", "four_low_noise.safetensors")
    assert found["file"] == f"adapters/four/{names[0]}"
    assert 0.001 < found["base_difference"] < 0.1
    (high, said), (low, said_of_low) = (read_state(folder / name) for name in names)
    assert all(any(value.abs().max() > 0 for key, value in each.items() if "lora_B" in key) for each in (high, low))
    assert any(not torch.equal(high[key], low[key]) for key in high if "lora_B" in key)
    assert (said["wanbatch.teacher_guidance"], said["wanbatch.teacher_guidance_2"]) == ("4.0", "3.0")
    assert said_of_low["ss_output_name"] == "four_low_noise"
    assert f"`{names[1]}` beside it is for the low noise levels" in (folder / "README.md").read_text()
    assert info.two_experts

    use = ["--model", "model", "--lora", f"four={found['file']}", "--merge", "four", "--preset", "fast"]
    planned = invoke("plan", "prompts.jsonl", *use, "--json")
    assert planned.exit_code == 0, planned.output
    row = json.loads(planned.stdout)
    assert row["warnings"] == []
    assert (row["first_rows"][0]["steps"], row["first_rows"][0]["guidance"]) == (4, 1.0)

    again = invoke(*command, "--steps", "7")
    assert again.exit_code == 0, again.output
    assert "going on at step 6" in again.stderr
    assert read_state(folder / names[1])[1]["ss_steps"] == "7"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--name", "two words"], "an adapter's name has letters, digits, . _ - and no spaces"),
        (["--width", "100"], "--width 100: must be a multiple of 16 for tiny: 96 or 112"),
        (["--set", "rnak=1"], "unknown setting 'rnak'; there are average, base_precision"),
        (["--set", "student_rate=0"], "setting student_rate is 0: must be a number above 0"),
        (["--set", "step_counts=4"], "setting step_counts is 4: must be a list of numbers of steps, like [1, 2, 3"),
        (["--set", "fake_rank=1.5"], "setting fake_rank is 1.5: must be a whole number above 0"),
        (["--set", "fake_rank=two"], "'fake_rank=two' must be NAME=VALUE with a number"),
    ],
)
def test_bad_input_is_one_clear_line_before_a_model_is_loaded(tmp_path, monkeypatch, more, said):
    monkeypatch.chdir(tmp_path)
    begun(monkeypatch)
    write_prompts(tmp_path)
    done = invoke("train", "few-step", "prompts.jsonl", *more)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.output


def test_one_prompt_is_too_few_and_more_than_are_used_are_told_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun(monkeypatch)
    write_prompts(tmp_path, "a dog", "a dog")
    done = invoke("train", "few-step", "prompts.jsonl")
    assert "prompts.jsonl: has 1 different prompts: give at least 2" in done.stderr
    write_prompts(tmp_path, "a dog", "an owl", "a cat")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = invoke("train", "few-step", "prompts.jsonl", "--set", "prompts=2", "--device", "cuda")
    assert "warning: prompts.jsonl: 2 of 3 prompts are used: --set prompts=3 takes all" in done.stderr
    assert "--device cuda: PyTorch finds no GPU here" in done.stderr


def test_a_training_that_is_killed_before_it_kept_a_state_draws_the_same_numbers_again(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    drawn = []

    def until_killed(*given):
        drawn.append(torch.rand(4))
        raise Killed

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wanbatch.pipeline.training.few_step.run.Distillation", until_killed)
    write_prompts(tmp_path)
    for _ in range(2):  # the first one makes the teacher's latents, the second one finds them
        assert isinstance(invoke(*page_command(), *QUICK, "--steps", "2").exception, Killed)
    assert (tmp_path / "adapters/four-steps/teacher-latents.pt").exists()
    assert torch.equal(*drawn)
