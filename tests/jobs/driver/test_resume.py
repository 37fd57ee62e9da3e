"""Going on with a folder: after an end, an interruption or a death; with the same rows, more rows, other rows."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
from io import StringIO

import fake_pipelines
import faulty_models
import pytest
from command_line import invoke
from example_rows import MIXED
from job_making import (
    command,
    commits,
    gone,
    log_events,
    part_files,
    pictures,
    rows_by_id,
    snapshot,
    table,
    workers_of,
    write_jsonl,
)

from wanbatch.errors import UserError
from wanbatch.jobs.driver.run import run
from wanbatch.jobs.reporting.progress import JsonLines


@pytest.fixture
def copied(mixed, tmp_path):
    """A copy of the finished folder of all kinds of rows."""
    return shutil.copytree(mixed.out, tmp_path / "copied")


# ---- a finished folder


def test_the_same_command_again_does_nothing(copied, mixed, run_here, settings):
    before = part_files(copied)
    ran = run_here(mixed.manifest, copied, settings(unit_rows=4, seed=9))
    assert ran.summary.exit_code == 0
    assert (ran.summary.made, ran.summary.made_now, ran.summary.pending) == (15, 0, 0)
    assert part_files(copied) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 10}, "seed was 9, now 10"),
        ({"steps": 3}, "steps was 2, now 3"),
        ({"sampler": "euler"}, 'sampler was "unipc", now "euler"'),
        ({"negative_prompt": "dots"}, 'negative_prompt was "", now "dots"'),
        (
            {"step_cache": "taylor"},
            'step_cache was "none", now "taylor:interval=2,order=1,along=logsnr,blocks=3,first=0"',
        ),
        ({"slots": 2}, "slots was 4, now 2"),
        ({"precision": "bf16"}, 'precision was "fp32", now "bf16"'),
        ({"compile": "always"}, "compile was false, now true"),
        ({"format": "jpeg", "quality": 80}, 'format was "png", now "jpeg"; quality was not set, now 80'),
    ],
)
def test_other_settings_are_refused(mixed, run_here, settings, change, told):
    before = snapshot(mixed.out)
    with pytest.raises(UserError) as caught:
        run_here(mixed.manifest, mixed.out, settings(**{"unit_rows": 4, "seed": 9, **change}))
    assert told in str(caught.value)
    assert str(mixed.out) in str(caught.value)
    assert snapshot(mixed.out) == before


def test_another_model_is_refused(mixed, run_here, settings, model_folder, tmp_path):
    """Also one of the same name: its weights are looked at."""
    before = snapshot(mixed.out)
    moved = model_folder.rename(model_folder.with_name("moved"))
    try:
        shutil.copytree(moved, model_folder)
        weights = next((model_folder / "vae").glob("*.safetensors"))
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        with pytest.raises(UserError, match="weights was"):
            run_here(mixed.manifest, mixed.out, settings(unit_rows=4, seed=9))
    finally:
        shutil.rmtree(model_folder)
        moved.rename(model_folder)
    assert snapshot(mixed.out) == before


def test_how_units_are_cut_may_change(copied, mixed, run_here, settings):
    ran = run_here(mixed.manifest, copied, settings(unit_rows=7, seed=9, workers=2))
    assert (ran.summary.exit_code, ran.summary.made_now) == (0, 0)


@pytest.mark.slow
def test_a_grown_manifest_runs_only_what_is_new(copied, mixed, run_here, settings, sources):
    before, hashes = part_files(copied), pictures(copied)
    new = [{"id": "new-1", "prompt": "a star", "note": "n"}, {"id": "new-2", "image": "wide.png", "price": 0.5}]
    # the last row of all has no id of its own, and the number of its line says which it is
    rows = [*MIXED, *new, {"prompt": "the last"}]
    ran = run_here(write_jsonl(sources / "grown.jsonl", rows), copied, settings(unit_rows=4, seed=9))
    assert ran.summary.exit_code == 0
    assert (ran.summary.rows, ran.summary.made, ran.summary.made_now) == (18, 18, 3)
    assert before.items() <= part_files(copied).items()
    grown = pictures(copied)
    assert grown.keys() - hashes.keys() == {"new-1", "new-2", "00000016"}
    assert hashes.items() <= grown.items()
    assert rows_by_id(copied)["new-2"]["price"] == 0.5
    assert "18 images" in (copied / "README.md").read_text()


def test_order_units_and_workers_do_not_change_pixels(mixed, run_here, settings, sources, tmp_path):
    """Two workers, rows in another order, other units: the same picture for each id."""
    rows = [{**row, "id": "00000001"} if "seed" in row and "id" not in row else row for row in MIXED]
    shuffled = [rows[(5 * place + 3) % len(rows)] for place in range(len(rows))]
    assert sorted(map(str, shuffled)) == sorted(map(str, rows))
    # members of a blend group keep their order: the first one's size decides
    members = iter([row for row in rows if "blend_group" in row])
    shuffled = [next(members) if "blend_group" in row else row for row in shuffled]
    manifest = write_jsonl(sources / "shuffled.jsonl", shuffled)
    (meeting := tmp_path / "meeting").mkdir()
    load = functools.partial(faulty_models.load_together, meeting, 2)  # else the first to start might make them all
    ran = run_here(manifest, tmp_path / "out", settings(unit_rows=3, seed=9, workers=2), load)
    assert ran.summary.exit_code == 0
    assert pictures(ran.out) == pictures(mixed.out)
    workers = {row["worker"] for row in table(ran.out, "timings").to_pylist()}
    assert workers == {"worker-0", "worker-1"}


# ---- a run that is watched from outside and interrupted, in this process


class Watcher(JsonLines):
    """Progress that, at the first commit, looks at the run from other processes and then asks it to stop."""

    def __init__(self, total: int, before: int, out, manifest, model):
        super().__init__(total, before, StringIO())
        self.out, self.manifest, self.model = out, manifest, model
        self.status = self.status_text = self.second = None
        self.workers = []

    def update(self, made: int, failed: int) -> None:
        super().update(made, failed)
        if self.status is None and commits(self.out):
            here = self.out.parent
            self.status = invoke("status", self.out, "--json")
            self.status_text = invoke("status", self.out)
            options = ["--model", self.model, "--width", 32, "--height", 32, "--steps", 2]
            self.second = command("run", self.manifest, "--out", self.out, *options, cwd=here)
            self.workers = workers_of(os.getpid())
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="package")
def watched(local_ray, settings, model_folder, tmp_path_factory):
    """What was seen of thirty rows of a second each, stopped with SIGINT in the middle and run again."""
    folder = tmp_path_factory.mktemp("watched")
    rows = [{"id": f"slow-{number}", "prompt": "x"} for number in range(30)]
    manifest, out = write_jsonl(folder / "slow.jsonl", rows), folder / "out"
    watchers = []

    def watch(total: int, before: int) -> Watcher:
        watchers.append(Watcher(total, before, out, manifest, model_folder))
        return watchers[-1]

    chosen = settings(unit_rows=2)
    summary = run(manifest, out, chosen, watch, fake_pipelines.load)
    seen = {"watcher": watchers[0], "summary": summary, "out": out, "alive": gone(watchers[0].workers)}
    seen |= {"parts": part_files(out), "tmp": list((out / "_wanbatch" / "tmp").iterdir())}
    seen["status"] = invoke("status", out, "--json")
    seen["again"] = run(
        manifest, out, chosen, lambda total, before: JsonLines(total, before, StringIO()), fake_pipelines.load_mended
    )
    return seen


def test_status_while_a_run_goes_on(watched):
    ended = watched["watcher"].status
    assert ended.exit_code == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["rows"], found["quarantined"]) == (30, 0)
    assert found["done"] >= 2
    assert found["done"] + found["pending"] == 30
    assert found["holder"]["pid"] == os.getpid()
    text = watched["watcher"].status_text.stdout
    assert "of 30 pictures made, 0 failed" in text
    assert f"a run goes on (pid {os.getpid()} on {found['holder']['host']} since" in text


def test_a_second_run_on_a_held_folder(watched):
    ended = watched["watcher"].second
    holder = json.loads(watched["watcher"].status.stdout)["holder"]
    assert ended.code == 4
    assert len(ended.err.splitlines()) == 1
    assert f"another run writes to this folder (pid {holder['pid']} on {holder['host']}" in ended.err


def test_interrupt_keeps_what_is_done(watched):
    summary = watched["summary"]
    assert (summary.exit_code, summary.interrupted, summary.quarantined) == (130, True, 0)
    assert 0 < summary.made < 30
    assert summary.pending == 30 - summary.made
    found = json.loads(watched["status"].stdout)
    assert (found["done"], found["pending"], found["holder"]) == (summary.made, summary.pending, None)
    assert [event["pending"] for event in log_events(watched["out"], "interrupted")] == [summary.pending]


def test_interrupt_ends_the_workers(watched):
    assert len(watched["watcher"].workers) == 1
    assert watched["alive"] == []


def test_rerun_makes_the_rest(watched):
    again, out = watched["again"], watched["out"]
    assert (again.exit_code, again.made) == (0, 30)
    assert again.made_now == 30 - watched["summary"].made
    assert sorted(rows_by_id(out)) == sorted(f"slow-{number}" for number in range(30))
    assert watched["parts"].items() <= part_files(out).items()
    assert list((out / "_wanbatch" / "tmp").iterdir()) == []
