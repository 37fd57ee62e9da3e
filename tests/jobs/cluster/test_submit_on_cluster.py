"""`wanbatch submit` and `wanbatch jobs` against a real cluster that wants a token, from a machine with nothing set.

The cluster's own `wanbatch` cannot be imported, so that what runs there is what was shipped. By default it is
tests/faults/test_submitted_to_nodes.py that submits jobs, kills what they need and attaches to them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from augment_making import folder_by_class
from job_making import commits, rows_by_id, wait_until, write_jsonl
from ray_cluster import RayCluster, cluster_environment, running_cluster

from wanbatch.jobs.config.metrics import METRICS

TOKEN = "sesame" * 8
ROWS = [{"id": f"r{n}", "prompt": "a red cup", "steps": 1, "width": 32, "height": 32} for n in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def cluster(folder) -> Iterator[RayCluster]:
    broken = folder / "broken/wanbatch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('this is not the package that was shipped')\n")
    with running_cluster(TOKEN, folder, PYTHONPATH=str(broken.parent), WANBATCH_STEPS="999") as started:
        yield started


@pytest.fixture(scope="module")
def wanbatch(cluster, folder) -> Callable[..., subprocess.CompletedProcess]:
    """Run `wanbatch` as on a laptop: a home of its own, this code, the address and the token."""
    home = folder / "laptop"
    home.mkdir()
    environment = cluster_environment(home, TOKEN) | {"RAY_API_SERVER_ADDRESS": cluster.address}
    environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")

    def call(*words: object, **changes: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "wanbatch.jobs.cli", *map(str, words)]
        given = environment | changes
        return subprocess.run(command, env=given, cwd=home, capture_output=True, text=True, timeout=240)

    return call


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_goes_on_by_itself_and_the_same_command_attaches_to_it(wanbatch, folder, cluster):
    manifest = write_jsonl(folder / "m.jsonl", ROWS)
    words = ["submit", manifest, "--out", folder / "out", "--unit-rows", "2"]
    started = wanbatch(*words, "--detach")
    assert started.returncode == 0, started.stderr
    job = started.stdout.strip()
    done = wanbatch(*words, "--json")
    log = wanbatch("jobs", "logs", job).stdout
    assert done.returncode == 0, done.stderr + log
    end = json.loads(done.stdout)
    assert (end["job"], end["attached"], end["status"]) == (job, True, "SUCCEEDED")
    assert (end["rows"], end["done"], end["pending"]) == (3, 3, 0)
    rows = rows_by_id(folder / "out")
    assert rows.keys() == {"r0", "r1", "r2"}
    assert {row["steps"] for row in rows.values()} == {1}

    assert "WANBATCH_STEPS of this node is not used" in log
    assert "3 of 3 pictures made" in log
    found = subprocess.run(["grep", "-rl", TOKEN, cluster.folder, folder], capture_output=True, text=True)
    assert found.stdout == ""
    assert TOKEN not in started.stdout + started.stderr + done.stdout + done.stderr + log


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_a_dashboard_shows_is_what_the_cluster_exports(wanbatch, folder, cluster):
    """By the names and tags that Ray gives to it. A run long enough for Ray to have sent them."""
    job = start_long_job(wanbatch, folder, "measured")
    wait_until(lambda: commits(folder / "measured"), seconds=200, what="a commit")

    def exported() -> dict[str, set[str]]:
        with urllib.request.urlopen(cluster.metrics, timeout=30) as answer:
            lines = re.findall(r"^(ray_wanbatch_\w+)\{(.*)\} ", answer.read().decode(), re.MULTILINE)
        return {name: set(re.findall(r'(\w+)="', tags)) for name, tags in lines}

    wait_until(lambda: exported().keys() >= {spec.exported for spec in METRICS}, seconds=120, what="all metrics")
    wanbatch("jobs", "stop", job)
    tags = exported()
    assert tags.keys() == {spec.exported for spec in METRICS}
    assert all(set(spec.tags) <= tags[spec.exported] for spec in METRICS)
    wait_until(lambda: ended(wanbatch, job), seconds=120, what="the end of the job")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_can_be_stopped(wanbatch, folder):
    job = start_long_job(wanbatch, folder, "stopped")
    assert "is asked to stop" in wanbatch("jobs", "stop", job).stdout
    state = wait_until(lambda: ended(wanbatch, job), seconds=120, what="the end of the job")
    assert (state["status"], state["exit_code"]) == ("STOPPED", 130)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_that_is_stopped_has_the_time_to_drain(wanbatch, folder):
    job = start_long_job(wanbatch, folder, "drained")
    wait_until(lambda: commits(folder / "drained"), seconds=200, what="a commit")
    assert "is asked to stop and ends within 35 s, also if asked again" in wanbatch("jobs", "stop", job).stdout
    again = wanbatch("jobs", "stop", job).stdout  # changes nothing
    assert "is asked to stop" in again or "has ended before, as STOPPED" in again
    wait_until(lambda: ended(wanbatch, job), seconds=120, what="the end of the job")
    assert 0 < len(rows_by_id(folder / "drained")) < 400
    events = [json.loads(line) for line in (folder / "drained/_wanbatch/log.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "interrupted"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_tick_of_a_recipe_submits_its_rows_and_a_full_one_nothing(wanbatch, folder, cluster):
    place = folder / "scheduled"
    folder_by_class(place / "pictures/train", {"disc": 2, "box": 1}, size=32)
    (place / "plans").mkdir()
    settings = '[settings]\nsteps = 2\ncreativity_steps = "respace"\nwidth = 32\nheight = 32\n'
    recipe = 'dataset = "../pictures"\nsplit = "train"\ntemplate = "a {label}"\ncreativity = 0.5\n'
    (place / "plans/recipe.toml").write_text(f"{recipe}fill = 1\n{settings}")
    (place / "wanbatch.toml").write_text(
        '[schedule.grow]\ncron = "* * * * *"\ntimezone = "UTC"\nrecipe = "plans/recipe.toml"\noutput = "out"\n'
        f'address = "{cluster.address}"\n'
    )

    def tick() -> str:
        done = wanbatch("schedule", "tick", "grow", "--file", place / "wanbatch.toml", "--json")
        log = "".join(path.read_text() for path in (place / "schedule-state/grow").glob("*.log"))
        assert done.returncode == 0, done.stderr + log
        return log

    assert "there is nothing to make" in tick()
    assert not (place / "out").exists()
    (place / "plans/recipe.toml").write_text(f"{recipe}fill = 2\n{settings}")
    time.sleep(60 - time.time() % 60)  # each minute is a tick once
    assert "succeeded, exit code 0" in tick()
    (made,) = rows_by_id(place / "out").values()
    assert made["label"] == "box"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_repeat_says_how_a_job_ended(wanbatch, folder):
    manifest = write_jsonl(folder / "ended.jsonl", ROWS)
    words = ["submit", manifest, "--out", folder / "ended", "--json"]
    first = json.loads(wanbatch(*words).stdout)
    again = wanbatch(*words)
    assert again.returncode == 0, again.stderr
    assert f"job {first['job']} has ended before" in again.stderr
    assert json.loads(again.stdout) == {**first, "attached": True}
    assert first["job"] in [state["id"] for state in json.loads(wanbatch("jobs", "list", "--json").stdout)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_path_that_the_cluster_does_not_see_is_refused_and_submitted_again_under_the_next_number(wanbatch, folder):
    words = ["submit", "/nowhere/m.jsonl", "--out", folder / "nothing", "--json"]
    for attempt in (1, 2):
        done = wanbatch(*words)
        assert done.returncode == 2, done.stderr
        answer = json.loads(done.stdout)
        assert answer["job"].endswith(f"-{attempt}")
        assert answer["message"].startswith("/nowhere/m.jsonl: the cluster does not see it")
        assert "--upload s3://" in answer["message"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_interpreter_that_the_cluster_does_not_have_is_named_also_to_who_attaches(wanbatch, folder):
    manifest = write_jsonl(folder / "interpreter.jsonl", ROWS)
    words = ["submit", manifest, "--out", folder / "interpreter", "--python", "/nope/python", "--json"]
    done = wanbatch(*words)
    assert done.returncode == 2, done.stderr
    answer = json.loads(done.stdout)
    assert answer["message"].startswith("/nope/python: the cluster's shell does not find this interpreter")
    state = json.loads(wanbatch("jobs", "status", answer["job"], "--json").stdout)
    assert (state["status"], state["exit_code"]) == ("FAILED", 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "no token (RAY_AUTH_MODE is disabled)"),
        ({"RAY_AUTH_TOKEN": "open" * 12}, "the token of RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN": ""}, "the token of the file {home}/.ray/auth_token"),
    ],
)
@pytest.mark.timeout(300)
def test_without_the_token_there_is_one_message(wanbatch, folder, changes, says):
    """Also with a stale one in the home folder."""
    stale = folder / "laptop/.ray/auth_token"
    stale.parent.mkdir(exist_ok=True)
    stale.write_text("5" * 64)
    refused = wanbatch("jobs", "list", **changes)
    assert (refused.returncode, refused.stdout) == (2, "")
    sent = f"does not take this process, which sends {says.format(home=folder / 'laptop')}"
    ours = ", and that is not the cluster's own: put the cluster's own token there"
    assert sent + (": set RAY_AUTH_MODE=token, and put" if "disabled" in says else ours) in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "5555" not in refused.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cluster_without_a_token_needs_none(tmp_path):
    (tmp_path / "laptop").mkdir()
    manifest = write_jsonl(tmp_path / "m.jsonl", ROWS)
    with running_cluster(None, tmp_path) as cluster:
        environment = cluster_environment(tmp_path / "laptop", None) | {
            "PYTHONPATH": os.environ.get("PYTHONPATH", "")
        }
        words = ["submit", manifest, "--out", tmp_path / "out", "--address", cluster.address]
        command = [sys.executable, "-m", "wanbatch.jobs.cli", *map(str, words)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert rows_by_id(tmp_path / "out").keys() == {"r0", "r1", "r2"}


def start_long_job(wanbatch: Callable[..., subprocess.CompletedProcess], folder: Path, name: str) -> str:
    """Submit 400 rows that are made one by one; returns the job."""
    manifest = write_jsonl(folder / f"{name}.jsonl", [{**ROWS[0], "id": f"s{n}", "steps": 40} for n in range(400)])
    words = ["submit", manifest, "--out", folder / name, "--unit-rows", "1", "--slots", "1", "--detach"]
    started = wanbatch(*words)
    assert started.returncode == 0, started.stderr
    return started.stdout.strip()


def ended(wanbatch: Callable[..., subprocess.CompletedProcess], job: str) -> dict | None:
    state = json.loads(wanbatch("jobs", "status", job, "--json").stdout)
    return state if state["ended"] is not None else None
