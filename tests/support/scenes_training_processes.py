"""Remedies for trainings in several processes. None is started."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from remedy_scenes import At, raised, scene
from scenes_training import Begun

from wanbatch.jobs.training import few_step, lora, several_gpus
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
