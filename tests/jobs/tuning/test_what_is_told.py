"""What tuning says before it begins: the same of columns and sources as a plan does. No model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import invoke
from job_making import picture, write_jsonl
from PIL import Image

from wanbatch.jobs.config.hardware import ExecutionConfig
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.tuning import tune as tuning
from wanbatch.jobs.tuning.goals import parse_goal


class Begun(Exception):
    """Everything was told."""


def test_tuning_tells_what_a_plan_tells(tmp_path, monkeypatch):
    picture(tmp_path / "a.png", 32, 32)
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    rows = [{"image": name, "sede": 1} for name in ("a.png", "moving.gif", "gone.png")]
    write_jsonl(Path("m.jsonl"), rows)

    def begin(*given: object) -> None:
        raise Begun

    monkeypatch.setattr(tuning, "draw_sample", begin)
    told: list[str] = []
    execution = ExecutionConfig(device="cpu", precision="fp32", compile=False)
    with pytest.raises(Begun):
        tuning.tune("m.jsonl", Settings(), parse_goal((), 2.0), execution, tuning.TuningOptions(), told.append)
    text = "\n".join(told)
    planned = json.loads(invoke("plan", "m.jsonl", "--json").stdout)
    assert planned["source_notes"].keys() == {"first_frame"}
    assert "note: 1 source with several frames or pages, of which the first is used; moving.gif for one" in text
    for message in planned["unreadable_sources"].values():
        assert f"warning: {message}" in text
    assert "gone.png" in text
    assert "'sede'" in text
    assert [column["column"] for column in planned["unused_columns"]] == ["sede"]
