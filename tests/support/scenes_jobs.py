"""Remedies for settings, plans and tuning, and for models: whatever needs no run to be followed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
from output_folders import publish
from remedy_scenes import At, raised, scene

from wanbatch.jobs.config.hardware import Hardware, resolve_execution
from wanbatch.jobs.config.settings import Settings, recorded_settings
from wanbatch.jobs.planning import checks
from wanbatch.jobs.planning.long_prompts import notes_on_long_prompts
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.reporting.contact_sheet import contact_sheet
from wanbatch.jobs.tuning.comparison_sheet import Column, write_sheet
from wanbatch.jobs.tuning.goals import parse_goal
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.pipeline.loading.registry import TINY, find
from wanbatch.pipeline.text.embedding_cache import TextCache

GOOD = {"prompt": "x"}


@scene
def settings_that_contradict_each_other(at: At) -> Iterator[str]:
    at.rows(GOOD)
    wrong = {
        ("--sigmas", "1,0.5", "--creativity-steps", "respace"): [
            ("--sigmas", "1,0.5"),
            ("--creativity-steps", "respace"),
        ],
        ("--guidance-2", "2"): [()],
        ("--width", "40", "--height", "64"): [
            ("--width", "32", "--height", "64"),
            ("--width", "48", "--height", "64"),
        ],
        ("--step-cache", "deepcache:first=4,blocks=9,interval=2"): [
            ("--step-cache", "deepcache:first=4,blocks=2,interval=2")
        ],
    }
    for flags, ways in wrong.items():
        yield at.refused("plan", "m.jsonl", *flags)
        for way in ways:
            at.works("plan", "m.jsonl", *way)


@scene
def a_size_of_another_model(at: At) -> Iterator[str]:
    model = replace(find(TINY, None), multiple=32)
    at.monkeypatch.setattr("wanbatch.jobs.planning.model_copies.find", lambda *given, **more: model)
    at.rows({**GOOD, "width": 48, "height": 64})
    said = at.refused("plan", "m.jsonl")
    yield said
    for side in re.search(r"use (\d+) or (\d+)", said).groups():  # type: ignore[union-attr]
        at.rows({**GOOD, "width": int(side), "height": 64})
        at.works("plan", "m.jsonl")


@scene
def rows_that_contradict_the_run(at: At) -> Iterator[str]:
    row = {"image": "a.png", "creativity": 0.5, "creativity_steps": "respace"}
    at.rows(row)
    yield at.refused("plan", "m.jsonl", "--sigmas", "1,0.5")
    at.works("plan", "m.jsonl")
    at.rows({**row, "creativity_steps": "keep"})
    at.works("plan", "m.jsonl", "--sigmas", "1,0.5")
    at.rows({**row, "creativity": 0.001, "steps": 900})
    yield at.refused("plan", "m.jsonl")
    for more in ({"creativity": 0.5}, {"steps": 1}):
        at.rows({**row, "creativity": 0.001, "steps": 900, **more})
        at.works("plan", "m.jsonl")


@scene
def files_and_pairs_of_settings(at: At) -> Iterator[str]:
    at.rows({**GOOD, "a": "x"})
    at.write("wanbatch.toml", b'prompt = "gr\xfc\xdfe"\n')
    yield at.refused("plan", "m.jsonl")
    at.write("wanbatch.toml", 'prompt = "grüße"\n')
    at.works("plan", "m.jsonl")
    yield at.refused("plan", "m.jsonl", "--map", "a=image", "--map", "a=negative_prompt")
    at.works("plan", "m.jsonl", "--map", "a=negative_prompt")
    yield raised(lambda: recorded_settings({"steps": "many"}, "run.json"))
    recorded_settings({"steps": 4}, "run.json")


@scene
def hardware_that_is_not_there(at: At) -> Iterator[str]:
    """With what the hardware would say, since there may be none here."""
    none = Hardware()
    yield raised(lambda: resolve_execution(Settings(device="cuda"), none))
    for device in ("cpu", "auto"):
        assert resolve_execution(Settings(device=device), none).device == "cpu"
    old = Hardware(1, (8, 0), "NVIDIA A100")
    yield raised(lambda: resolve_execution(Settings(precision="fp8"), old))
    assert resolve_execution(Settings(precision="bf16"), old).precision == "bf16"
    older = Hardware(1, (7, 0), "Tesla V100")
    yield raised(lambda: resolve_execution(Settings(precision="int8"), older))
    assert resolve_execution(Settings(precision="bf16"), older).precision == "bf16"


@scene
def prompts_that_are_too_long(at: At) -> Iterator[str]:
    at.rows({"prompt": "star " * 600})
    said = at.works("plan", "m.jsonl")
    yield said
    assert "longer than the" in said
    plan = prepare("m.jsonl", Settings())[0]
    yield "\n".join(notes_on_long_prompts(plan))
    assert re.search(r"see `(\w+)`", notes_on_long_prompts(plan)[0])[1] in plan.images.column_names  # type: ignore[index]
    at.rows({"prompt": "star " * 50})
    assert "longer than the" not in at.works("plan", "m.jsonl")


@scene
def more_text_than_a_plan_takes(at: At) -> Iterator[str]:
    at.monkeypatch.setattr(checks, "MOST_TEXT", 2500)
    rows = [{"id": f"{number}", "prompt": "star " * 200, "num_images": 1 + number} for number in range(2)]
    at.rows(*rows)
    said = at.refused("plan", "m.jsonl")
    assert "prompt: the texts of all 3 images have" in said
    yield said
    for number, row in enumerate(rows):
        at.rows(row)
        at.works("plan", "m.jsonl", "--out", f"part-{number}")


@scene
def columns_without_room_in_a_folder(at: At) -> Iterator[str]:
    plan = prepare(at.rows({**GOOD, "note": "x"}), Settings())[0]
    whole = pa.schema([("note", pa.int64())])
    yield raised(lambda: plan.with_columns(whole))
    other = prepare(at.rows({**GOOD, "remark": "x"}), Settings())[0]
    other.with_columns(pa.schema([("note", pa.int64()), ("remark", pa.string())]))
    with OutputFolder.open(at.folder / "other", {}):
        plan.with_columns(plan.manifest.passthrough.schema)


@scene
def sheets_that_cannot_be_written(at: At) -> Iterator[str]:
    with OutputFolder.open(at.folder / "out", {}) as folder:
        publish(folder, 0, ["a"])
    yield raised(
        lambda: contact_sheet(at.folder / "out", at.folder / "a.png/sheet.png", columns=1, limit=1, keyword="")
    )
    contact_sheet(at.folder / "out", at.folder / "sheet.png", columns=1, limit=1, keyword="")
    columns = [Column("one", {"a": np.zeros((8, 8, 3), np.uint8)})]
    yield raised(lambda: write_sheet(columns, {"a": "a"}, at.folder / "a.png/sheet.png"))
    write_sheet(columns, {"a": "a"}, at.folder / "sheet.png")


@scene
def goals_of_tuning(at: At) -> Iterator[str]:
    at.rows(GOOD)
    wrong = {
        ((), None): ((), 2.0),
        (("psnr>=30",), 2.0): (("psnr>=30",), None),
        (("psnr>=30", "psnr>=20"), None): (("psnr>=30",), None),
        (("ssim>=30",), None): (("ssim>=0.9",), None),
        (("pnsr>=30",), None): (("psnr>=30",), None),
        ((), 0.5): ((), 1.5),
    }
    for mistake, good in wrong.items():
        yield raised(lambda mistake=mistake: parse_goal(*mistake))
        parse_goal(*good)
    at.write("wanbatch.toml", "steps = 4\n")
    yield at.refused("tune", "m.jsonl", "--budget", "psnr>=30")


@scene
def models_that_are_not_there(at: At) -> Iterator[str]:
    at.rows(GOOD)
    yield at.refused("plan", "m.jsonl", "--model", "none/at/all")
    at.works("plan", "m.jsonl", "--model", "tiny")
    at.works("plan", "m.jsonl", "--model", find(TINY, None).folder)


@scene
def a_folder_for_texts(at: At) -> Iterator[str]:
    yield raised(lambda: TextCache(at.folder / "a.png/texts", "key"))
    TextCache(at.folder / "texts", "key")


@scene
def settings_that_there_are_none_of(at: At) -> Iterator[str]:
    at.rows(GOOD)
    for name, meant in (("stepz", "did you mean steps"), ("wallpaper", "none is like it"), ("out", "--out")):
        at.write("wanbatch.toml", f"{name} = 3")
        refused = at.refused("plan", "m.jsonl")
        assert meant in refused
        yield refused
    at.write("wanbatch.toml", "steps = 3")
    at.works("plan", "m.jsonl", "--out", "x")
    listed = at.works("run", "--help")
    assert "--steps" in listed
