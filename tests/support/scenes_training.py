"""Remedies for trainings of adapters: their pictures and captions, and what is asked. No model is loaded."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from job_making import picture
from PIL import Image
from remedy_scenes import At, raised, scene
from safetensors.torch import save_file

from wanbatch.jobs.training import few_step, lora, sweep_run
from wanbatch.jobs.training.pictures import find_pictures
from wanbatch.jobs.training.sweep import Trial, named_lists
from wanbatch.pipeline.loading.registry import find
from wanbatch.pipeline.loading.registry import find as find_model
from wanbatch.pipeline.training.loop import Budget
from wanbatch.pipeline.training.lora.settings import LoraSettings
from wanbatch.pipeline.training.lora.start import check_start
from wanbatch.pipeline.training.low_rank import read_state
from wanbatch.pipeline.training.optimizers import check_optimizer
from wanbatch.pipeline.training.resumable import Learner, TrainingState
from wanbatch.pipeline.training.same_training import ensure_same_training


@scene
def pictures_to_train_on(at: At) -> Iterator[str]:
    def find(path: str, caption: str | None = None):
        return find_pictures(path, "{caption}", None, caption)

    for name in ("0", "1"):
        picture(at.write(f"set/{name}.png", b""), 32, 32)
    yield raised(lambda: find("set"))
    assert len(find("set", "a cup").found) == 2
    at.write("set/0.txt", "a cup")
    assert len(find("set").found) == 1
    (at.folder / "set/0.txt").unlink()
    at.rows(*[{"file_name": f"{name}.png", "prompt": "a cup"} for name in "01"], name="set/metadata.jsonl")
    assert len(find("set").found) == 2
    yield raised(lambda: find(str(at.rows({"prompt": "x"}))))
    at.write("set/1.png", "no picture")
    yield raised(lambda: list(find("set").load()))
    picture(at.folder / "set/1.png", 32, 32)
    assert len(list(find("set").load())) == 2
    at.write("set/1.png", "no picture")
    at.rows({"file_name": "0.png", "prompt": "a cup"}, name="set/metadata.jsonl")
    assert len(list(find("set").load())) == 1


@scene
def masks_of_pictures_to_train_on(at: At) -> Iterator[str]:
    def find(masks: str | None):
        return find_pictures("set", "{caption}", None, "a cup", masks)

    def white(name: str, size: tuple[int, int] = (32, 32)) -> None:
        Image.new("L", size, 255).save(at.write(name, b""))

    def check(masks: str = "masks", resolution: int = 32) -> None:
        found = find(masks)
        assert found.masks is not None
        found.masks.check(found.manifest, found.found, of_model, resolution**2)

    of_model = find_model()
    picture(at.write("set/0.png", b""), 32, 32)
    yield raised(lambda: find("masks"))
    white("set/0_mask.png")
    check("beside")
    (told,) = find(None).warnings
    yield told
    assert find(re.search(r"give --masks (\w+)", told)[1]).warnings == ()  # type: ignore[index]
    (at.folder / "set/0_mask.png").unlink()
    (at.folder / "masks").mkdir()
    yield raised(lambda: find("masks"))
    white("masks/0.png")
    check()
    white("masks/0.webp")
    yield raised(lambda: find("masks"))
    (at.folder / "masks/0.webp").unlink()
    white("masks/0.png", (16, 16))
    yield raised(check)
    Image.new("L", (32, 32), 0).save(at.folder / "masks/0.png")
    yield raised(check)
    at.write("masks/0.png", "no picture")
    yield raised(check)
    white("masks/0.png")
    check()
    picture(at.folder / "set/0.png", 1000, 16)
    corner = Image.new("L", (1000, 16))
    corner.paste(255, (0, 0, 1, 16))
    corner.save(at.folder / "masks/0.png")
    yield raised(check)
    for file, box in (("set/0.png", (0, 0, 32, 16)), ("masks/0.png", (0, 0, 32, 16))):
        with Image.open(at.folder / file) as whole:
            cropped = whole.crop(box)
        cropped.save(at.folder / file)
    check()
    at.write("set/0.png", "no picture")
    yield raised(check)
    picture(at.folder / "set/0.png", 32, 16)
    check()


class Begun(Exception):
    """Everything was checked."""


@scene
def trainings_that_are_asked_for(at: At) -> Iterator[str]:
    picture(at.write("set/0.png", b""), 32, 32)

    def begin(*given: object) -> None:
        raise Begun

    at.monkeypatch.setattr(lora.TrainingModel, "load", begin)

    def train(name: str = "cup", **more: Any) -> None:
        chosen = {"caption": "a cup", "device": "cpu", "settings": LoraSettings(), **more}
        asked = lora.LoraRequest("set", name, Path("out"), "tiny", None, **chosen)
        lora.train(asked, lambda text: None)

    at.monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    shutil.copytree("set", "others")
    for file in list(Path("others").glob("*.png")):
        file.with_suffix(".txt").write_text("another cup")
    for mistake in ({"name": "a cup"}, {"resolution": 1}, {"device": "cuda"}, {"prior_weight": 2.0},
                    {"unmasked_weight": 0.5}):  # fmt: skip
        yield raised(lambda mistake=mistake: train(**mistake))
    with_others = {"prior": "others", "prior_weight": 2.0}
    Image.new("L", (32, 32), 255).save(at.write("masks/0.png", b""))
    with_masks = {"masks": "masks", "unmasked_weight": 0.5}
    for good in ({"name": "a-cup_2.0"}, {"resolution": 64}, {"device": None}, with_others, {"prior_weight": None},
                 with_masks):  # fmt: skip
        with pytest.raises(Begun):
            train(**good)


@scene
def adapters_that_trainings_begin_with(at: At) -> Iterator[str]:
    shipped = Path(find_model().folder) / "adapters"
    half = {name: one for name, one in read_state(shipped / "flat.safetensors")[0].items() if "ffn" not in name}
    save_file(half, at.folder / "half.safetensors")

    def check(file: Path, rank: int) -> None:
        check_start(file, find_model(), LoraSettings(rank=rank))

    flat = shipped / "flat.safetensors"
    told = raised(lambda: check(flat, 3))
    yield told
    rank = int(re.search(r"--rank (\d+)$", told)[1])  # type: ignore[index]
    check(flat, rank)
    yield raised(lambda: check(at.folder / "half.safetensors", rank))
    picture(at.write("set/0.png", b""), 32, 32)
    asked = lora.LoraRequest(
        "set", "cup", Path("out"), "tiny", None, LoraSettings(rank=rank), caption="a cup", start_from=flat
    )

    def swept(**values: list[float]) -> None:
        sweep_run.sweep(asked, values, lambda *given: None, lambda text: None)

    def begin(*given: object) -> None:
        raise Begun

    yield raised(lambda: swept(rank=[rank]))
    at.monkeypatch.setattr(sweep_run, "_train_left", begin)
    with pytest.raises(Begun):
        swept(rate=[1e-3])


@scene
def optimizers_that_need_a_package(at: At) -> Iterator[str]:
    class Broken:
        def __init__(self, *parameters: Any, **more: Any):
            pass

        def step(self) -> None:
            raise RuntimeError("no kernels")

    def learner(optimizer: str) -> Learner:
        return Learner([torch.nn.Parameter(torch.zeros(2))], torch.device("cpu"), 0.5, optimizer=optimizer)

    at.monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    told = raised(lambda: check_optimizer("adamw8bit"))
    yield told
    (instead,) = re.findall(r"--optimizer (\w+)$", told)
    check_optimizer(instead)
    of_package = SimpleNamespace(optim=SimpleNamespace(AdamW8bit=Broken))
    at.monkeypatch.setitem(sys.modules, "bitsandbytes", of_package)
    check_optimizer("adamw8bit")
    yield raised(lambda: learner("adamw8bit"))
    learner(instead)


@scene
def experts_of_models_that_have_two_or_one(at: At) -> Iterator[str]:
    def check(expert: str | None, two: bool) -> None:
        lora.check_expert(expert, replace(find_model(), two_experts=two))

    told = raised(lambda: check(None, True))
    yield told
    for expert in re.search(r"--expert (\w+), (\w+) or (\w+)$", told).groups():  # type: ignore[union-attr]
        check(expert, True)
    yield raised(lambda: check("low", False))
    check(None, False)


@scene
def sweeps_that_are_asked_for(at: At) -> Iterator[str]:
    for mistake, better in (
        ("rank", "rank=8,16"),
        ("rnak=8", "rank=8"),
        ("rank=8 rank=16", "rank=8,16"),
        ("seed=1 rank=8", "rank=8"),
    ):
        yield raised(lambda mistake=mistake: named_lists([mistake]))
        named_lists([better])
    file = at.write("out/trials/rank-8/result.json", "{")
    trial = Trial({"rank": 8})
    yield raised(lambda: sweep_run.with_result(trial, Path("out")))
    file.unlink()
    assert sweep_run.with_result(trial, Path("out")) == trial


@scene
def adapters_that_were_made_for_few_steps(at: At) -> Iterator[str]:
    """With the one that comes with the small model."""
    at.rows({"prompt": "a heart", "style": "few-step"})
    told = at.works("plan", "m.jsonl", "--steps", "30", "--guidance", "5")
    yield told
    flags = re.search(r"was made for .*: give (--.*?), or the same in their rows", told)[1].split()  # type: ignore[index]
    assert "was made for" not in at.works("plan", "m.jsonl", *flags)
    named = {name.removeprefix("--"): value for name, value in zip(flags[::2], flags[1::2], strict=True)}
    steps, guidance = int(named["steps"]), float(named["guidance"])
    at.rows({"prompt": "a heart", "style": "few-step", **named, "steps": steps, "guidance": guidance})
    assert "was made for" not in at.works("plan", "m.jsonl")


@scene
def distillations_that_are_asked_for(at: At) -> Iterator[str]:
    def begin(*given: object) -> None:
        raise Begun

    at.monkeypatch.setattr(few_step.TrainingModel, "load", begin)

    def train(**more: Any) -> None:
        chosen = {"device": "cpu", **more}
        asked = few_step.FewStepRequest("m.jsonl", "four", Path("out"), "tiny", **chosen)
        few_step.train(asked, said.append)

    said: list[str] = []
    at.rows({"prompt": "a cup"})
    yield raised(train)
    at.rows({"prompt": "a cup"}, {"prompt": "an owl"}, {"prompt": "a cat"})
    for mistake in ({"width": 100}, {"changed": {"rnak": 2}}, {"changed": {"fake_rank": 0}},
                    {"changed": {"fake_rank": 1.5}}, {"changed": {"step_counts": 4}},
                    {"changed": {"checkpointing": 1}}):  # fmt: skip
        yield raised(lambda mistake=mistake: train(**mistake))
    for good in ({}, {"width": 96}, {"changed": {"rank": 2}}, {"changed": {"step_counts": [1, 2]}},
                 {"changed": {"checkpointing": True}}):  # fmt: skip
        with pytest.raises(Begun):
            train(**good)
    with pytest.raises(Begun):
        train(changed={"prompts": 2})
    (told,) = [line for line in said if line.startswith("warning")]
    yield told
    with pytest.raises(Begun):
        train(changed={"prompts": int(re.search(r"--set prompts=(\d+)", told)[1])})  # type: ignore[index]
    assert len([line for line in said if line.startswith("warning")]) == 1


@scene
def folders_of_another_training(at: At) -> Iterator[str]:
    ensure_same_training(at.folder, {"rank": 2}, {})
    ensure_same_training(at.folder, {"rank": 2}, {})
    yield raised(lambda: ensure_same_training(at.folder, {"rank": 3}, {}))
    at.write("training.json", "{")
    yield raised(lambda: ensure_same_training(at.folder, {"rank": 2}, {}))
    at.write("other/x", "")
    ensure_same_training(at.folder / "other", {"rank": 3}, {})


@scene
def states_of_trainings_that_are_damaged(at: At) -> Iterator[str]:
    file = at.folder / "state.pt"
    parameter = torch.nn.Parameter(torch.ones(3))
    state = TrainingState({"one": Learner([parameter], torch.device("cpu"), 0.5)}, Budget(1, 1), torch.device("cpu"))
    state.save(file, {"losses": [1.0]})
    assert state.load(file) == {"losses": [1.0]}
    whole = file.read_bytes()
    for damaged in (b"", b"no state", whole[:-40], whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        yield raised(lambda: state.load(file))
    file.unlink()
    state.save(file, {})
    assert state.load(file) == {}


@scene
def merged_adapters_for_few_steps(at: At) -> Iterator[str]:
    shipped = Path(find().folder) / "adapters" / "few-step.safetensors"
    tensors, header = read_state(shipped)
    save_file(tensors, at.folder / "two.safetensors", header | {"wanbatch.steps": "2"})
    save_file(tensors, at.folder / "cut.safetensors", header | {"wanbatch.steps": "several"})
    at.rows({"prompt": "a heart"})
    fast, two = ("--preset", "fast"), ("--lora", "two=two.safetensors")
    yield at.refused("plan", "m.jsonl", *fast, *two, "--merge", "two,few-step")
    at.works("plan", "m.jsonl", *fast, *two, "--merge", "two")
    yield at.refused("plan", "m.jsonl", *fast, "--lora", "cut=cut.safetensors", "--merge", "cut")
    at.works("plan", "m.jsonl", *fast, "--lora", f"cut={shipped}", "--merge", "cut")
    told = at.works("plan", "m.jsonl", "--merge", "few-step", "--steps", "30")
    yield told
    assert "was made for" not in at.works("plan", "m.jsonl", "--merge", "few-step", *fast)
    told = at.works("plan", "m.jsonl", "--merge", "few-step", *fast, "--shift", "5")
    yield told
    flags = re.search(r"give (--.*? --schedule linear --shift 3), or", told)[1].split()  # type: ignore[index]
    assert "was made for" not in at.works("plan", "m.jsonl", "--merge", "few-step", *flags)
