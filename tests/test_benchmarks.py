"""The scripts of benchmarks/ run: with a few units or rows, and nobody looks at what they measure."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"

SMALL = {
    "cluster_scale.py": [
        "--workers",
        "8",
        "--nodes",
        "4",
        "--rows",
        "640",
        "--unit-seconds",
        "0.1",
        "--lost-nodes",
        "1",
    ],
    "commits.py": ["--units", "4", "--group", "2", "--resume-commits", "3"],
    "driver.py dispatch": ["--units", "6", "--workers", "2"],
    "driver.py resume": ["--rows", "40", "--left", "8"],
}
TRIED = {script.split()[0] for script in SMALL}
SCRIPTS = (path for path in FOLDER.glob("*.py") if "__main__" in path.read_text())
OTHERS = sorted({path.name for path in SCRIPTS} - TRIED)


LONG = "driver.py dispatch"


@pytest.mark.parametrize(
    "script", [pytest.param(script, marks=[pytest.mark.slow] if script == LONG else []) for script in SMALL]
)
def test_a_script_runs(script, tmp_path):
    name, *what = script.split()
    result = tmp_path / "result.json"
    command = [sys.executable, FOLDER / name, *what, *SMALL[script], "--folder", tmp_path, "--out", result]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(result.read_text())["date"]


@pytest.mark.parametrize("script", OTHERS)
def test_a_script_that_takes_longer_is_whole(script, monkeypatch):
    """What it imports is there, and so is what its options name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    names = runpy.run_path(str(FOLDER / script), run_name="benchmark")
    with pytest.raises(SystemExit, match="0"):
        names["main"]()


def test_the_page_on_quality_has_the_table_of_its_results(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    report = runpy.run_path(str(FOLDER / "quality_report.py"))
    page = (FOLDER.parent / "docs" / "quality.md").read_text(encoding="utf-8")
    lines, compared = (page.split(f"<!-- {name} -->\n")[1].split("<!-- end -->")[0].splitlines()
                       for name in ("table", "differences"))  # fmt: skip
    found = json.loads((FOLDER / "results" / "quality-tiny-h200.json").read_text(encoding="utf-8"))
    assert len(found["results"]) == len(lines) - 2  # the head and the line below it
    assert lines == report["table"](found)
    assert len(found["differences"]) > 20
    assert compared == report["differences"](found)
