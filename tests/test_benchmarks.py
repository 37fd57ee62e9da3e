"""The scripts of benchmarks/ run: with a few units or rows, and nobody looks at what they measure."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def with_few_processes(names: dict[str, Any]) -> Callable[..., dict]:
    """In place of `_in_a_process` of a script with these names: only planning has a process of its own."""
    in_a_process = names["_in_a_process"]

    def call(function: str, *arguments: object) -> dict:
        return in_a_process(function, *arguments) if function == "_plan" else names[function](*map(str, arguments))

    return call


@pytest.mark.parametrize(
    "script", [pytest.param(script, marks=[pytest.mark.slow] if script == LONG else []) for script in SMALL]
)
def test_a_script_runs(script, tmp_path, monkeypatch):
    """In this process; `driver.py resume` plans in one of its own, and dispatches would want a Ray of their own."""
    name, *what = script.split()
    result = tmp_path / "result.json"
    command = [str(FOLDER / name), *what, *SMALL[script], "--folder", str(tmp_path), "--out", str(result)]
    if script == LONG:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, timeout=120, env=environment
        )
        assert done.returncode == 0, done.stderr
    else:
        monkeypatch.syspath_prepend(str(FOLDER))
        monkeypatch.setattr(sys, "argv", command)
        names = runpy.run_path(command[0], run_name="benchmark")["main"].__globals__
        if "_in_a_process" in names:
            names["_in_a_process"] = with_few_processes(names)
        names["main"]()
    assert json.loads(result.read_text())["date"]


@pytest.mark.parametrize("script", OTHERS)
def test_a_script_that_takes_longer_is_whole(script, monkeypatch):
    """What it imports is there, and so is what its options name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    names = runpy.run_path(str(FOLDER / script), run_name="benchmark")
    with pytest.raises(SystemExit, match="0"):
        names["main"]()


def test_what_has_a_process_of_its_own_comes_from_it_and_so_does_its_end(monkeypatch):
    """Named functions, as a new process must find them."""
    monkeypatch.syspath_prepend(str(FOLDER))
    in_a_process = importlib.import_module("own_process").in_a_process
    threads = [list(in_a_process(os.listdir, "/proc/self/task")) for _ in range(2)]
    assert all(threads)
    assert str(os.getpid()) not in threads[0] + threads[1]
    assert not {*threads[0]} & {*threads[1]}
    found = in_a_process(map, int, ["1", "2", "no number"])
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(SystemExit, match="the process of map ended with exit code 1"):
        next(found)


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


@pytest.mark.parametrize(
    ("alone", "together", "expected"),
    [
        ({"0": 10.0}, [("0", 9.0), ("1", 11.0)], 1.0),  # the others count as the one that was measured
        ({"0": 10.0, "1": 20.0}, [("0", 10.0), ("1", 15.0), ("2", 20.0)], 1.0),  # 45 of 10, 20 and their mean
        ({"0": 10.0, "1": 12.0}, [("0", 5.0), ("1", 6.0)], 0.5),
        ({"3": 8.0}, [("0", 6.0), ("1", 10.0)], 1.0),  # none of them was measured
        ({None: 4.0}, [(None, 3.0), (None, 3.0)], 0.75),  # on a CPU
    ],
)
def test_efficiency_is_of_all_workers_with_the_mean_card_for_those_not_measured_alone(
    alone, together, expected, monkeypatch
):
    monkeypatch.syspath_prepend(str(FOLDER))
    script = runpy.run_path(str(FOLDER / "scaling.py"))
    runs = [{"workers": [{"gpu": card, "pictures_per_second": rate} for card, rate in together]}]
    assert script["efficiency"](runs, alone) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["", "-50-steps", "-64-threads"])
def test_scaling_in_a_file_is_what_its_script_derives_from_what_was_measured(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    script = runpy.run_path(str(FOLDER / "scaling.py"))
    found = json.loads((FOLDER / "results" / f"scaling-4xh200-fp8{name}.json").read_text(encoding="utf-8"))
    assert found["scaling"] == script["scaling"](found["measured"])
