"""Every example of the README, run as a stranger would run it."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wanbatch.jobs.cli.main import main
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.pipeline.core.conditioning import to_model
from wanbatch.pipeline.evaluation.judge import Judge
from wanbatch.pipeline.training.toy import world

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.timeout(1800)  # all its commands run before the first test that looks at them


def blocks(language: str) -> list[str]:
    every = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [text for name, text in every if name == language]


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with the examples, where the README's commands have been run in their order."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", folder / "examples")
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "HF_HOME": str(folder / "hf")}
    for command in commands():
        if command[0] == "wanbatch" and not any("/" in word and "Wan-AI" in word for word in command):
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return folder


def test_the_two_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    made = [command[1] for command in commands() if command[0] == "make"]
    assert made == ["run", "test"]
    assert set(made) <= set(targets)


def test_the_manifest_lines_are_valid(tmp_path):
    shutil.copytree(ROOT / "examples" / "images", tmp_path / "images")
    (tmp_path / "three.jsonl").write_text(blocks("jsonl")[0], encoding="utf-8")
    manifest = read_manifest(tmp_path / "three.jsonl")
    assert [row.num_images for row in manifest.iter_rows()] == [1, 3, 1]
    assert [len(row.sources) for row in manifest.iter_rows()] == [0, 1, 2]


def test_commands_for_the_real_model_are_understood():
    real = [command for command in commands() if "Wan-AI/Wan2.2-TI2V-5B-Diffusers" in command]
    assert real
    for command in real:
        group, arguments = main, command[1:]
        name, subcommand, rest = group.resolve_command(group.make_context("wanbatch", ["plan"]), arguments)
        parsed = subcommand.make_context(name, rest)
        assert parsed.params["model"] == "Wan-AI/Wan2.2-TI2V-5B-Diffusers"


def test_the_output_tree_is_what_comes_out(workplace):
    tree = next(block for block in blocks("") if block.startswith("out/quickstart/"))
    shown = re.findall(r"[├└]── (\S+)", tree)
    assert "data/part-00000.parquet" in shown
    for name in shown:
        assert (workplace / "out/quickstart" / name).exists() or "only if there is one" in tree.split(name)[1], name


def test_the_pictures_show_what_the_quickstart_asked_for(workplace):
    asked = {
        "owl": ("owl", "none", "center", "night", "plain"),
        "penguin": ("penguin", "none", "left", "snow", "plain"),
        "apple-and-dog": ("apple", "dog", "side by side", "blue", "striped"),
        "row-wide": ("lemon", "frog", "row", "pink", "dotted"),
        "sailboats-0": ("sailboat", "none", "bottom", "beach", "plain"),
        "sweep-0.0": ("dog", "none", "center", "blue", "striped"),  # the source itself
        "sweep-0.1": ("dog", "none", "center", "blue", "striped"),
        "sweep-0.2": ("cat", "none", "center", "blue", "striped"),
        "sweep-1.0": ("cat", "none", "center", "blue", "striped"),  # the prompt alone
        "few-steps": ("butterfly", "none", "center", "purple", "plain"),
        "crown": ("crown", "none", "center", "snow", "plain"),
        "crown-flat": ("crown", "none", "center", "snow", "plain"),
        "crown-night": ("crown", "none", "center", "night", "plain"),
        "four-steps": ("butterfly", "none", "center", "purple", "plain"),
    }
    table = pq.read_table(workplace / "out/quickstart/data")
    images = {row["id"]: row["image"]["bytes"] for row in table.select(["id", "image"]).to_pylist()}
    assert len(images) == 20
    judge = Judge.load()
    for name, attributes in asked.items():
        pixels = np.asarray(Image.open(io.BytesIO(images[name])).convert("RGB"))
        seen = world.describe(judge.read(to_model(pixels)))[0]
        assert tuple(seen[f] for f in ("first", "second", "layout", "background", "texture")) == attributes, name
    sweep = [np.asarray(Image.open(io.BytesIO(images[f"sweep-{at}"]))).astype(float) for at in (0.0, 0.1, 0.2, 1.0)]
    away = [float(np.sqrt(np.mean((picture - sweep[0]) ** 2))) for picture in sweep]
    assert away == sorted(away)
    assert away[1] < 0.6 * away[3], "there is a passage between the source and the prompt"
    assert away[2] > 1.2 * away[1]


def test_the_join_is_one_and_failures_are_read_where_there_are_none(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    [query] = blocks("sql")
    rows = duckdb.sql(query).fetchall()
    assert len(rows) == pq.read_table("out/quickstart/data").num_rows
    assert all(prompt and seconds >= 0 for _, prompt, seconds in rows)
    [way] = re.findall(r"`pandas\.read_parquet\(\"(.*?)\"\)`", README)
    assert pd.read_parquet(way).empty
    with pytest.raises(duckdb.IOException, match="No files found"):
        duckdb.sql(f"select * from '{way}/*.parquet'")


def test_the_python_example_prints_a_picture_and_its_prompt(workplace):
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")[0]],
        cwd=workplace,
        env={**os.environ, "HF_HOME": str(workplace / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "PIL" in done.stdout
    assert "a large owl" in done.stdout


@pytest.mark.parametrize("name", ["cpu-tiny", "h200-bench-exact"])
def test_speeds_come_from_committed_results(name):
    section = README[README.index(f"benchmarks/results/{name}.json") :]
    rows = re.findall(r"^\| (.+?) \| ([\d.]+) \| (?:([\d.]+) x that)? ?\|$", section, re.MULTILINE)
    result = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
    speeds = result["images_per_second"]
    rows = rows[: len(speeds)]
    assert {row.split(",")[0] if row.startswith("wanbatch") else row for row, *_ in rows} == set(speeds)
    for row, speed, ratio in rows:
        one = speeds["wanbatch" if row.startswith("wanbatch") else row]
        assert float(speed) == pytest.approx(one, abs=0.006)
        assert not ratio or float(ratio) == pytest.approx(speeds["wanbatch"] / one, abs=0.06)
    assert result["hardware"]["device"].split(",")[0] in README


def test_times_of_the_stages_on_the_gpu_come_from_committed_results():
    exact, fp8 = (
        json.loads((ROOT / f"benchmarks/results/h200-bench-{name}.json").read_text())["stages"]
        for name in ("exact", "fp8")
    )
    expected = {
        name: [
            exact[name][who]["ms"]
            for who in ("diffusers eager", "diffusers compiled", "wanbatch")
            if who in exact[name]
        ]
        for name in exact
    }
    expected["denoise"].append(fp8["denoise"]["wanbatch"]["ms"])
    table = README[README.index("| milliseconds |") :].split("\n\n")[0].splitlines()[2:]
    assert len(table) == len(expected)
    for line, figures in zip(table, expected.values(), strict=True):
        found = [float(figure) for figure in re.findall(r"\d+\.\d+", line)]
        assert found == pytest.approx(figures, abs=0.06)


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)(?:#[\w-]*)?\)", README)
    assert len(targets) > 5
    assert [target for target in targets if not (ROOT / target).exists()] == []
