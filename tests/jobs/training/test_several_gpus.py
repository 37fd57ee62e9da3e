"""Several processes that train one adapter: each computes its part of what one alone would."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from click.testing import CliRunner
from expert_steps import learned, learned_as
from free_ports import free_port
from PIL import Image

from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.training.asked import check_batch
from wanbatch.jobs.training.few_step import FewStepRequest
from wanbatch.jobs.training.few_step import train as train_few_step
from wanbatch.jobs.training.lora import LoraRequest, train
from wanbatch.jobs.training.several_gpus import started
from wanbatch.jobs.training.sweep_run import sweep
from wanbatch.pipeline.loading.registry import find
from wanbatch.pipeline.training.lora.examples import Examples
from wanbatch.pipeline.training.lora.model import TrainingModel
from wanbatch.pipeline.training.lora.settings import LoraSettings
from wanbatch.pipeline.training.lora.training import LoraTraining
from wanbatch.pipeline.training.low_rank import LowRankAdapters, read_state
from wanbatch.pipeline.training.processes import ALONE, Processes, joined_processes

SETTINGS = LoraSettings(rank=4, rate=1e-3, steps=4, batch=4, save_every=2, sample_every=2, sample_steps=1, warm_up=1)


def test_the_parts_of_all_processes_are_what_one_alone_computes(tmp_path):
    drawn = torch.Generator().manual_seed(1)
    texts = {name: torch.randn(5, 128, generator=drawn) for name in ("a", "b", "")}
    examples = Examples(
        [torch.randn(6, 32, 2, 2, generator=drawn)], [["a", "b"] * 3], texts, [torch.rand(6, 2, 2, generator=drawn)]
    )
    model = TrainingModel.load(find(), torch.device("cpu"), torch.float32)
    training = LoraTraining(model, LowRankAdapters(model.dit), "a", examples, SETTINGS, tmp_path, print)
    with torch.no_grad():
        for matrix in training.learner.parameters:
            matrix.add_(0.01)

    def computed(processes: Processes) -> tuple[float, list[torch.Tensor]]:
        training.processes = processes
        torch.manual_seed(3)
        training.learner.optimizer.clear()
        with training.adapters.active("a"):
            loss = training._loss(examples)
        loss.backward()
        return float(loss.detach()), [matrix.grad for matrix in training.learner.parameters]

    whole, gradients = computed(ALONE)
    parts = [computed(Processes(number, 2)) for number in range(2)]
    assert parts[0][0] != pytest.approx(parts[1][0], rel=1e-3)
    assert sum(loss for loss, _ in parts) / 2 == pytest.approx(whole, rel=1e-5)
    for one, other, wanted in zip(parts[0][1], parts[1][1], gradients, strict=True):
        torch.testing.assert_close((one + other) / 2, wanted, rtol=1e-3, atol=1e-6)


def test_an_expert_without_rows_in_a_batch_is_left_alone_by_two_processes_as_by_one(tmp_path):
    torch.multiprocessing.start_processes(learned_as, (free_port(), tmp_path), nprocs=2, start_method="spawn")
    alone = learned(ALONE)
    for number in range(2):
        found = torch.load(tmp_path / f"{number}.pt")
        assert len(found) == len(alone)
        for one, wanted in zip(found, alone, strict=True):
            torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-6)


def test_a_process_alone_joins_no_others_and_batches_are_shared_evenly(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert joined_processes(cpu=True) is ALONE
    check_batch(4, 2)
    with pytest.raises(UserError, match=r"--batch 3: is that of all 2 processes together, .* a multiple, --batch 4"):
        check_batch(3, 2)


def test_what_is_for_one_process_refuses_several(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="a sweep was started in 2 processes"):
        sweep(LoraRequest("set", "ink", Path("out"), "tiny", None, settings=SETTINGS), {"rank": [2]}, None, print)


def test_more_gpus_than_there_are_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    given = ["train", "lora", "--images", str(tmp_path), "--name", "ink", "--gpus", "2"]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 2
    assert "--gpus 2: PyTorch finds 1 GPU here: give as many at most, or drop it" in done.stderr
    done = CliRunner().invoke(main, [*given, "--sweep", "rank=1,2"])
    assert "--gpus: a sweep has one trial on each GPU already: drop it" in done.stderr
    done = CliRunner().invoke(main, ["train", "few-step", "none.jsonl", "--gpus", "2"])
    assert done.exit_code == 2
    assert "--gpus 2: PyTorch finds 1 GPU here: give as many at most, or drop it" in done.stderr


def test_a_distillation_on_several_gpus_is_checked_before_it_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("wanbatch.jobs.training.several_gpus.started", lambda *given: pytest.fail("it is started"))
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a cat"}\n{"prompt": "a dog"}\n')
    asked = ["train", "few-step", str(tmp_path / "rows.jsonl"), "--device", "cpu", "--gpus"]
    done = CliRunner().invoke(main, [*asked, "3"])
    assert "--batch 8: is that of all 3 processes together" in done.stderr
    done = CliRunner().invoke(main, [*asked, "4", "--minutes", "5"])
    assert "--minutes: 4 processes that train together end by --steps alone: drop it" in done.stderr


def training_set(folder: Path) -> Path:
    folder.mkdir()
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a cat {number}")
    return folder


@pytest.mark.slow
def test_a_process_that_fails_ends_the_training_with_what_failed_first(tmp_path, capfd):
    """An adapter larger than any memory, and a folder inside a file."""
    asked = LoraRequest(
        str(training_set(tmp_path / "set")), "ink", tmp_path / "one", "tiny", None, settings=SETTINGS, resolution=32,
        device="cpu",
    )  # fmt: skip
    large = replace(asked, settings=replace(SETTINGS, rank=10**13))
    with pytest.raises(UserError, match=r"^process [01] of the training has no memory left .*: give --checkpointing"):
        started(large, 2)
    (tmp_path / "file").touch()
    with pytest.raises(MachineryError, match=r"^process [01] of the training failed \(NotADirectoryError: .*file"):
        started(replace(asked, out=tmp_path / "file/out"), 2)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_two_processes_train_nearly_the_adapter_of_one(tmp_path):
    asked = LoraRequest(
        str(training_set(tmp_path / "set")), "ink", tmp_path / "one", "tiny", None, settings=SETTINGS, resolution=32,
        unrelated=("a dog",), device="cpu",
    )  # fmt: skip
    train(asked, print)
    found = started(replace(asked, out=tmp_path / "two"), 2)
    assert found["file"] == str(tmp_path / "two/ink.safetensors")
    one, two = (read_state(tmp_path / each / "ink.safetensors")[0] for each in ("one", "two"))
    for name, value in one.items():
        assert (two[name].float() - value.float()).norm() <= 0.01 * value.float().norm(), name
    losses = [json.loads((tmp_path / each / "losses.json").read_text()) for each in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert sorted(each.name for each in (tmp_path / "two").iterdir()) == sorted(
        each.name for each in (tmp_path / "one").iterdir()
    )
    assert not list(Path(tmp_path / "two").rglob("*.new"))
    with pytest.raises(UserError, match="has a training with rank 4, not 8"):
        started(replace(asked, out=tmp_path / "two", settings=replace(SETTINGS, rank=8)), 2)


@pytest.mark.slow
def test_two_processes_distil_nearly_the_adapter_of_one(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": f"a cat {n}"}) + "\n" for n in range(5)))
    changed = {
        "rank": 2, "fake_rank": 2, "batch": 4, "teacher_latents": 5, "teacher_steps": 2, "consistency_share": 0.4,
        "fake_warm_up": 1, "step_counts": (1, 2), "average": 0.5, "main_steps": 1,
    }  # fmt: skip
    asked = FewStepRequest(
        tmp_path / "rows.jsonl", "four", tmp_path / "one", "tiny", steps=4, width=32, height=32, changed=changed,
        device="cpu",
    )  # fmt: skip
    for steps in (2, 4):  # they go on, too
        train_few_step(replace(asked, steps=steps), print)
        found = started(replace(asked, out=tmp_path / "two", steps=steps), 2)
    assert found["file"] == str(tmp_path / "two/four.safetensors")
    made = [torch.load(tmp_path / each / "teacher-latents.pt") for each in ("one", "two")]
    torch.testing.assert_close(made[1], made[0], rtol=1e-2, atol=1e-2)
    one, two = (read_state(tmp_path / each / "four.safetensors")[0] for each in ("one", "two"))
    for name, value in one.items():
        assert (two[name].float() - value.float()).norm() <= 0.02 * value.float().norm(), name
    assert sorted(each.name for each in (tmp_path / "two").iterdir()) == sorted(
        each.name for each in (tmp_path / "one").iterdir()
    )
    lines = [json.loads(line) for line in (tmp_path / "two/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    with pytest.raises(UserError, match="has a training with rank 2, not 3"):
        started(replace(asked, out=tmp_path / "two", changed=changed | {"rank": 3}), 2)
