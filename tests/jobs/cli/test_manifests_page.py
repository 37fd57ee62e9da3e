"""Every example of the page about manifests: its files are written, its commands run, in the order of the page."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command_line import invoke
from hub_server import hub, use_hub
from job_making import picture

from wanbatch.jobs.config.settings import read_settings
from wanbatch.pipeline.sampling.schedules import levels
from wanbatch.pipeline.training.toy.captions import vocabulary

PAGE = (Path(__file__).parents[3] / "docs" / "manifests.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:^`([\w./-]+)`:\n\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks() -> list[tuple[str, str, str]]:
    """The name of the file that a block is, its language, and its text."""
    return BLOCK.findall(PAGE)


@pytest.fixture
def shop_on_the_hub(folder, tmp_path, monkeypatch):
    """A server in place of the Hub, with the dataset that the page names."""
    (tmp_path / "shop/data").mkdir(parents=True)
    rows = pq.read_table(folder / "shop.parquet")
    for number, split in enumerate(("train", "test")):
        pq.write_table(rows.slice(number, 1), tmp_path / f"shop/data/{split}-00000-of-00001.parquet")
    with hub("your-name/shop", tmp_path / "shop") as server:
        use_hub(server, monkeypatch)
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The files of the page, and a picture for each that a command or a table names."""
    place = tmp_path_factory.mktemp("page")
    for name, _, text in blocks():
        if name:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text, encoding="utf-8")
    for _, language, text in blocks():
        if language == "python":
            # pyarrow's threads, rarely, abort a process that is at its end; what it wrote is whole then
            whole = f"{text}\nimport os\nos._exit(0)"
            subprocess.run(
                [sys.executable, "-c", whole], cwd=place, check=True, env={**os.environ, "HF_HOME": str(place)}
            )
    for name in ("before/1.png", "photos/one.png", "photos/cats/tom.png", "birds/train/1.png", "birds/train/2.png"):
        assert Path(name).name in PAGE
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        picture(place / name, 128, 128)
    return place


def test_every_command_works_and_leaves_no_column_unused(folder, shop_on_the_hub, fast_retries, monkeypatch):
    monkeypatch.chdir(folder)
    commands = [line for _, language, text in blocks() if language == "sh" for line in text.splitlines()]
    assert len(commands) > 8
    for line in commands:
        words = shlex.split(line, comments=True)
        assert words[0] == "wanbatch"
        result = invoke(*words[1:])
        assert result.exit_code == 0, f"{line}: {result.output}"
        assert "without being used" not in result.stdout, f"{line}: {result.output}"
    first, second = (pq.read_table(f"out/{name}/data").to_pylist() for name in ("photos", "second"))
    caption = (folder / "photos/cats/tom.txt").read_text().strip()
    asked = {"one": "a large rabbit in a meadow", "cats-tom": caption}
    assert {row["id"]: row["prompt"] for row in first} == asked
    assert {row["id"]: row["source_prompt"] for row in second} == asked
    assert {row["prompt"] for row in second} == {"a large tiger in a meadow"}


def test_its_prompts_speak_of_what_the_small_model_was_trained_on(folder):
    prompts = re.findall(r'(?:--prompt |"(?:prompt|positive|text)": )"([^"]+)"', PAGE)
    for name in ("shop.csv", "log.csv", "edits.csv"):
        rows = csv.DictReader((folder / name).read_text().splitlines())
        prompts += [row.get("prompt") or row["edit_prompt"] for row in rows]
    prompts.append((folder / "photos/cats/tom.txt").read_text())
    assert len(prompts) > 12
    known = set(vocabulary())
    for prompt in prompts:
        unknown = set(re.findall(r"[a-z]+", prompt)) - known
        assert not unknown, prompt


def test_without_the_flags_each_table_of_another_tool_is_warned_of_or_refused(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for name in ("log.csv", "comfy.jsonl", "edits.csv", "birds", "birds/train/metadata.jsonl"):
        result = invoke("plan", name, "--sampler", "euler")
        assert "--map " in result.output, result.output


def test_the_warning_of_the_page_is_what_plan_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png", 32, 32)
    (tmp_path / "m.jsonl").write_text('{"image": "a.png", "caption": "a star", "cfg_scale": 2}\n')
    [shown] = [text for _, language, text in blocks() if not language and "without being used" in text]
    assert invoke("plan", "m.jsonl").stdout.endswith(shown)


def test_the_settings_file_of_the_page_is_one(tmp_path, monkeypatch):
    [text] = [text for _, language, text in blocks() if language == "toml"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wanbatch.toml").write_text(text)
    settings = read_settings()
    assert (settings.strict, settings.map) == (True, {"caption": "prompt", "cfg scale": "guidance"})


def test_the_table_of_strengths_is_what_the_schedule_gives():
    """diffusers leaves out the first steps: of n steps with a strength s it starts at step n - n s."""
    rows = dict(re.findall(r"^\| (strength|creativity, shift \d+) \| (.+) \|$", PAGE, re.MULTILINE))
    strengths = [float(cell) for cell in rows.pop("strength").split(" | ")]
    assert set(rows) == {"creativity, shift 3", "creativity, shift 5"}
    for name, cells in rows.items():
        shift, steps = float(name.split()[-1]), 1000
        schedule = levels(steps, shift)
        for strength, cell in zip(strengths, cells.split(" | "), strict=True):
            assert float(cell) == pytest.approx(schedule[steps - round(steps * strength)], abs=0.006)
            assert float(cell) == pytest.approx(shift * strength / (1 + (shift - 1) * strength), abs=0.006)
