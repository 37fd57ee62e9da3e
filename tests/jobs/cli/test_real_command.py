"""The command as a process of its own: exit code, one line of message, and what is good is not refused."""

from __future__ import annotations

import json

from command_line import GOOD, invoke
from job_making import command, picture


def test_the_real_command_says_it_in_one_line(manifest, model_folder, tmp_path):
    path = manifest(*[GOOD] * 6, "{oops}", name="goods.jsonl")
    ended = command("run", path, "--out", "out", "--model", model_folder, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"wanbatch: {path}:7: is not JSON")
    assert len(ended.err.splitlines()) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["goods.jsonl"]


def test_the_real_command_with_a_bad_model_folder(manifest, model_folder, tmp_path):
    """Weights of another format are not loaded."""
    folder = tmp_path / "model"
    for part in ("vae", "transformer", "scheduler", "text_encoder", "tokenizer"):
        (folder / part).mkdir(parents=True)
        for config in (model_folder / part).glob("*.json"):
            (folder / part / config.name).write_bytes(config.read_bytes())
    (folder / "model_index.json").write_bytes((model_folder / "model_index.json").read_bytes())
    ended = command("run", manifest(GOOD), "--out", "out", "--model", folder, cwd=tmp_path)
    assert ended.code == 2
    assert "no .safetensors file: the weights are in another format, or were not downloaded" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_nothing_is_refused_that_is_good(manifest, model_folder, tmp_path):
    """The tests above would also pass if everything were refused."""
    picture(tmp_path / "a.png", 64, 64)
    rows = [GOOD, {"image": "a.png", "creativity": 0.7, "sampler": "euler", "width": 64, "height": 32, "any": [1]}]
    rows += [
        {**GOOD, "schedule": "beta", "sampler": "heun"},
        {"image": "a.png", "creativity": 0.2, "sigmas": [1, 0.2]},
    ]
    result = invoke("plan", manifest(*rows), "--model", model_folder, "--json", "--steps", 3)
    assert result.exit_code == 0, result.output
    described = json.loads(result.stdout)
    assert (described["images"], described["model_evaluations"]) == (4, 3 + 1 + 5 + 1)
