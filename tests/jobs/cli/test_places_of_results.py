"""Commands that work for minutes say before it that their result cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import invoke, refused
from job_making import picture, write_jsonl

from wanbatch.pipeline.generate import Wan

COMMANDS = {
    "bench": ("bench", "--out", "file/bench.json"),
    "qualify": ("qualify", "--out", "file/q"),
    "tune": ("tune", "m.jsonl", "--speedup", "2", "--sheet", "file/sheet.png"),
    "train lora": ("train", "lora", "--images", "pictures", "--name", "a", "--out", "file/a"),
    "train few-step": ("train", "few-step", "m.jsonl", "--name", "a", "--out", "file/a"),
    "train sound": ("train", "sound", "m.jsonl", "--out", "file/a.safetensors"),
}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "pictures").mkdir()
    picture(tmp_path / "pictures" / "a.png", 32, 32)
    (tmp_path / "pictures" / "a.txt").write_text("a cup")
    write_jsonl(tmp_path / "m.jsonl", [{"id": "a", "prompt": "a cup"}])
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_it_is_told_before_a_model_is_loaded(here, monkeypatch, name):
    monkeypatch.setattr(Wan, "load", lambda *given, **more: pytest.fail("a model was loaded"))
    before = sorted(here.glob("**/*"))
    [message] = refused(invoke(*COMMANDS[name]))
    assert message.startswith(f"{COMMANDS[name][-1]}: cannot be written ({here}/file is no folder): choose")
    assert sorted(here.glob("**/*")) == before, "and nothing was begun"
