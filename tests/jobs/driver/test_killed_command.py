"""The real command, killed and interrupted, and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from job_making import (
    command,
    commit_records,
    commits,
    environment,
    family,
    gone,
    log_events,
    part_files,
    pictures,
    start,
    table,
    wait_until,
    workers_of,
    write_jsonl,
)

ROWS = [{"id": f"r{number:03d}", "prompt": "a red heart", "seed": number} for number in range(120)]


@pytest.fixture
def options(model_folder) -> list:
    return ["--model", model_folder, "--width", 64, "--height", 64, "--steps", 30, "--unit-rows", 2]


@pytest.fixture(scope="package")
def undisturbed(run_here, settings, tmp_path_factory) -> dict[str, str]:
    """The pictures of ROWS, made in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    chosen = settings(width=64, height=64, steps=30, unit_rows=50)
    return pictures(run_here(write_jsonl(folder / "shop.jsonl", ROWS), folder / "out", chosen).out)


def _finish(manifest, out, options, undisturbed, before) -> None:
    """Run the same command again; everything must be there once, and what was there must be untouched."""
    ended = command("run", manifest, "--out", out, *options, cwd=out.parent)
    assert ended.code == 0, ended.err
    assert before.items() <= part_files(out).items()
    assert pictures(out) == undisturbed
    assert sorted(name for record in commit_records(out) for name in record["ids"]) == [row["id"] for row in ROWS]
    assert list((out / "_wanbatch" / "tmp").iterdir()) == []


@pytest.mark.slow
def test_a_killed_driver(manifest, options, undisturbed, tmp_path):
    path, out = manifest(*ROWS), tmp_path / "out"
    process = start("run", path, "--out", out, *options, cwd=tmp_path)
    try:
        wait_until(lambda: len(commits(out)) >= 2, what="two commits")
        workers = workers_of(process.pid)
        assert _load_dataset(out, tmp_path / "during") >= 4
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert len(workers) == 1
    assert _load_dataset(out, tmp_path / "after") >= 4
    assert gone(workers) == []
    before = part_files(out)
    assert len(commits(out)) < 60
    ended = command("status", out, "--json", cwd=tmp_path)
    found = json.loads(ended.out)
    assert found["holder"] is None
    assert 0 < found["pending"] < 120
    committed = {name: entry for name, entry in before.items() if _is_committed(name, out)}
    _finish(path, out, options, undisturbed, committed)


def _load_dataset(out: Path, cache: Path) -> int:
    """How many images `datasets` finds in the folder, as users call it."""
    code = "import sys, datasets; print(len(datasets.load_dataset(sys.argv[1], split='train')))"
    environ = environment(HF_HOME=str(cache), HF_DATASETS_OFFLINE="1")
    done = subprocess.run([sys.executable, "-c", code, out], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def _is_committed(name: str, out) -> bool:
    """Whether it is a commit, or a part that one names."""
    parts = {part["name"] for record in commit_records(out) for part in record["parts"].values()}
    return name in parts or not name.startswith(("data", "timings"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_command(manifest, options, undisturbed, tmp_path, number):
    """SIGINT goes to the whole process group, as Ctrl-C in a terminal does; SIGTERM to the command alone."""
    path, out = manifest(*ROWS), tmp_path / "out"
    process = start("run", path, "--out", out, *options, cwd=tmp_path)
    try:
        wait_until(lambda: len(commits(out)) >= 2, what="two commits")
        relatives = family(process.pid)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        told, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in told + errors
    assert "interrupted: " in told
    assert "run the same command again" in told
    assert gone(relatives) == []
    found = json.loads(command("status", out, "--json", cwd=tmp_path).out)
    assert found["done"] >= 4
    assert (found["done"] + found["pending"], found["quarantined"]) == (120, 0)
    assert found["pending"] > 0
    _finish(path, out, options, undisturbed, part_files(out))


@pytest.mark.slow
def test_ctrl_c_while_workers_start(manifest, options, tmp_path):
    """Before anything is made: 130 soon, nothing committed, no process left."""
    path, out = manifest(*ROWS), tmp_path / "out"
    process = start("run", path, "--out", out, *options, cwd=tmp_path)
    try:
        wait_until((out / "_wanbatch" / "log.jsonl").exists, what="the log")
        workers = wait_until(lambda: [p for p in family(process.pid) if "ray" in p.name()], what="Ray")
        os.killpg(process.pid, signal.SIGINT)
        told, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in told + errors
    assert commits(out) == []
    assert gone(workers) == []


@pytest.mark.slow
def test_ctrl_c_twice_ends_at_once(manifest, options, tmp_path):
    path, out = manifest(*ROWS), tmp_path / "out"
    process = start("run", path, "--out", out, *options, cwd=tmp_path)
    try:
        wait_until(lambda: commits(out), what="a commit")
        relatives = family(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGINT)
        told, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in told + errors
    assert gone(relatives) == []


@pytest.mark.slow
def test_a_killed_worker_of_the_real_command(manifest, options, undisturbed, tmp_path):
    """The worker's process is killed from outside: its unit is made by another, nothing is lost or quarantined."""
    path, out = manifest(*ROWS), tmp_path / "out"
    process = start("run", path, "--out", out, *options, cwd=tmp_path)
    try:
        wait_until(lambda: len(commits(out)) >= 2, what="two commits")
        [worker] = workers_of(process.pid)
        worker.send_signal(signal.SIGKILL)
        told, errors = process.communicate(timeout=150)
    finally:
        process.kill()
    assert process.returncode == 0, told + errors
    assert len(log_events(out, "unit_lost")) == 1
    assert pictures(out) == undisturbed
    assert {row["attempt"] for row in table(out, "timings").to_pylist()} == {1, 2}
