"""Remedies for trainings in several processes. None is started."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from remedy_scenes import At, raised, scene
from scenes_training import Begun

from wanbatch.errors import UserError
from wanbatch.jobs.training import few_step, lora, several_gpus, sound
from wanbatch.jobs.training.asked import ensure_alone
from wanbatch.pipeline.training.lora.settings import LoraSettings


@scene
def trainings_on_several_gpus(at: At) -> Iterator[str]:
    def begin(*given: Any, **more: Any) -> None:
        raise Begun

    def train(gpus: int, batch: int = 1) -> None:
        asked = lora.LoraRequest("set", "cup", Path("out"), "tiny", None, settings=LoraSettings(batch=batch))
        several_gpus.train_on_gpus(asked, gpus, lambda text: None)

    at.monkeypatch.setenv("WORLD_SIZE", "2")
    yield raised(lambda: ensure_alone("a sweep"))
    at.monkeypatch.delenv("WORLD_SIZE")
    ensure_alone("a sweep")
    at.monkeypatch.setattr(several_gpus, "started", begin)
    at.monkeypatch.setattr(lora, "checked", lambda *given: None)
    at.monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    yield raised(lambda: train(4, 4))
    told = raised(lambda: train(2, 3))
    yield told
    with pytest.raises(Begun):
        train(2, int(re.search(r"--batch (\d+)$", told)[1]))  # type: ignore[index]

    def distil(**more: Any) -> None:
        rows = at.rows({"prompt": "a cup"}, {"prompt": "a cat"})
        asked = few_step.FewStepRequest(rows, "four", Path("out"), "tiny", device="cpu", **more)
        several_gpus.train_on_gpus(asked, 2, lambda text: None)

    yield raised(lambda: distil(minutes=5.0))
    with pytest.raises(Begun):
        distil()


@scene
def processes_that_are_lost(at: At) -> Iterator[str]:
    def lost(*given: Any, **more: Any) -> None:
        raise torch.multiprocessing.ProcessExitedException("killed", error_index=1, error_pid=2, exit_code=-9)

    def works(call: Any, given: tuple, **more: Any) -> None:
        given[3].put({"file": "cup.safetensors"})

    asked = lora.LoraRequest("set", "cup", Path("out"), "tiny", None, settings=LoraSettings())
    at.monkeypatch.setattr(torch.multiprocessing, "start_processes", lost)
    yield raised(lambda: several_gpus.started(asked, 2))
    at.monkeypatch.setattr(torch.multiprocessing, "start_processes", works)
    assert several_gpus.started(asked, 2)["file"]


@scene
def processes_that_fail(at: At) -> Iterator[str]:
    """The first one, as it is in its process; the end of that is stood in for."""

    def one_of_them(call: Any, given: tuple, **more: Any) -> None:
        call(0, *given)

    def ended(code: int) -> None:
        raise torch.multiprocessing.ProcessExitedException("", error_index=0, error_pid=2, exit_code=code)

    def train(settings: LoraSettings, out: Path) -> dict[str, Any]:
        asked = lora.LoraRequest("set", "cup", out, "tiny", None, settings=settings, device="cpu")
        return several_gpus.started(asked, 2)

    def work(asked: lora.LoraRequest, say: Any) -> dict[str, Any]:
        if asked.out.is_file():
            raise NotADirectoryError(20, "Not a directory", str(asked.out))
        if not (asked.settings.checkpointing or asked.settings.batch < 4) or asked.out.exists():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nA second line")
        return {"file": "cup.safetensors"}

    at.monkeypatch.setattr(os, "environ", dict(os.environ))
    at.monkeypatch.setattr(os, "_exit", ended)
    at.monkeypatch.setattr(torch.multiprocessing, "start_processes", one_of_them)
    at.monkeypatch.setattr(lora, "train", work)
    (begun := at.folder / "begun").mkdir()
    told = raised(lambda: train(LoraSettings(batch=4), begun))
    assert "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.)" in told
    yield told
    for better in (LoraSettings(batch=4, checkpointing=True), LoraSettings(batch=2)):
        assert train(better, at.folder / "other")["file"]
    (file := at.folder / "file").touch()
    yield raised(lambda: train(LoraSettings(), file))
    file.unlink()
    assert train(LoraSettings(), file)["file"]


@scene
def trainings_without_memory(at: At) -> Iterator[str]:
    """In one process. What is asked of a GPU is stood in for."""

    def told(*given: str) -> str:
        message = at.refused("train", *given)
        assert "(OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.)" in message
        return message

    def asked(*given: str) -> list[str]:
        return [*given, "--batch", "4", "--out", "begun"]

    def enough(checkpointing: bool, precision: str | None, batch: int, out: Path) -> None:
        if out.exists() or not (checkpointing or precision == "fp8" or batch < 4):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nA second line")
        raise UserError("enough memory")

    def train_lora(asked: lora.LoraRequest, say: Any) -> None:
        of = asked.settings
        enough(of.checkpointing, of.base_precision, of.batch, asked.out)

    def distil(asked: few_step.FewStepRequest, say: Any) -> None:
        of = asked.changed
        enough(of["checkpointing"], of.get("base_precision"), of["batch"], asked.out)

    def train_sound(asked: sound.SoundRequest, say: Any) -> None:
        enough(False, None, asked.batch, at.folder / "no such")

    at.monkeypatch.setattr(lora, "train", train_lora)
    at.monkeypatch.setattr(few_step, "train", distil)
    at.monkeypatch.setattr(sound, "train", train_sound)
    (at.folder / "begun").mkdir()
    for kind in (("lora", "--images", "set", "--name", "cup"), ("few-step", "m.jsonl")):
        yield told(*asked(*kind))
        for better in ("--checkpointing", "--base-precision=fp8", "--batch=2"):
            assert "enough memory" in at.refused("train", *asked(*kind), better, "--out", "another")
    heard = ("sound", "m.jsonl", "--out", "a.safetensors", "--batch")
    yield told(*heard, "4")
    assert "enough memory" in at.refused("train", *heard, "2")
