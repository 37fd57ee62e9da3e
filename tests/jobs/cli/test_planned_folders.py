"""`wanbatch plan` refuses the output folders that `wanbatch run` refuses, in the same words, and writes nothing."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest
from command_line import GOOD, invoke
from example_rows import MIXED
from job_making import snapshot, write_jsonl

from wanbatch.manifests.dataset.status import recorded_fingerprint
from wanbatch.manifests.storage.backend import open_backend
from wanbatch.manifests.storage.local import LocalBackend


def both(manifest, out, model_folder, *more, code=2):
    """The message of `plan`, which is the one of `run`; nothing in the folder changes."""
    before = snapshot(out)
    options = ["--out", out, "--model", model_folder, "--width", 32, "--height", 32, "--steps", 2, "--seed", 9, *more]
    planned, ran = (invoke(name, manifest, *options) for name in ("plan", "run"))
    assert (planned.exit_code, planned.stdout) == (code, ""), planned.output
    assert (planned.exit_code, planned.stderr) == (ran.exit_code, ran.stderr)
    assert snapshot(out) == before
    return planned.stderr


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--steps", 5], "steps was 2, now 5"),
        (["--seed", 10], "seed was 9, now 10"),
        (["--format", "jpeg"], 'format was "png", now "jpeg"'),
        (["--precision", "bf16"], 'precision was "fp32", now "bf16"'),
    ],
)
def test_other_settings(mixed, model_folder, more, told):
    assert told in both(mixed.manifest, mixed.out, model_folder, *more)


def test_other_rows(mixed, model_folder, sources):
    fewer = write_jsonl(sources / "fewer.jsonl", MIXED[:-1])
    assert "holds 2 images that" in both(fewer, mixed.out, model_folder)
    others = write_jsonl(sources / "others.jsonl", [GOOD])
    assert "asks for none of the 15 images" in both(others, mixed.out, model_folder)
    two = write_jsonl(sources / "two.jsonl", [*MIXED[:-1], {**MIXED[-1], "num_images": 1, "id": "shifted-0"}])
    assert "holds 1 image that" in both(two, mixed.out, model_folder)
    changed = [{**MIXED[0], "prompt": "a blue heart"}, *MIXED[1:]]
    assert "1 row changed since it was made, 'plain'" in both(
        write_jsonl(sources / "changed.jsonl", changed), mixed.out, model_folder
    )
    types = [{**row, "note": 7} for row in MIXED]
    assert "note was string, now int64" in both(write_jsonl(sources / "types.jsonl", types), mixed.out, model_folder)


def test_folders_of_something_else(mixed, model_folder, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("three years of work")
    assert "holds other files" in both(mixed.manifest, tmp_path / "thesis", model_folder)
    (tmp_path / "file").write_text("a file")
    assert "is not a folder" in both(mixed.manifest, tmp_path / "file", model_folder)
    out = shutil.copytree(mixed.out, tmp_path / "out")
    next((out / "data").iterdir()).unlink()
    assert "repair" in both(mixed.manifest, out, model_folder)


def test_rows_that_would_be_made_again_are_counted(mixed, model_folder, sources):
    """And with --new-run the folder beside is asked."""
    rows = [{**MIXED[0], "prompt": "a blue heart"}, *MIXED[1:], {"id": "new", "prompt": "a star"}]
    grown = write_jsonl(sources / "grown-and-changed.jsonl", rows)
    options = ["--out", mixed.out, "--model", model_folder, "--width", 32, "--height", 32, "--seed", 9]
    before = snapshot(mixed.out)
    again = invoke("plan", grown, *options, "--steps", 2, "--rerun-changed", "--json")
    assert again.exit_code == 0, again.output
    told = json.loads(again.stdout)
    assert (told["made_again"], told["estimate"]["images"]) == (1, 2)
    shown = invoke("plan", grown, *options, "--steps", 2, "--rerun-changed").stdout
    assert f"again     1 row of {mixed.out} changed; made again" in shown
    beside = invoke("plan", grown, *options, "--steps", 3, "--new-run", "--json")
    assert json.loads(beside.stdout)["estimate"]["images"] == 16
    assert snapshot(mixed.out) == before


def test_a_run_that_is_at_work_there_is_told_of_with_what_it_has_made(mixed, model_folder):
    options = ["--out", mixed.out, "--model", model_folder, "--width", 32, "--height", 32, "--seed", 9, "--steps", 2]
    backend = open_backend(mixed.out)
    backend.acquire()
    try:
        shown = invoke("plan", mixed.manifest, *options)
        told = json.loads(invoke("plan", mixed.manifest, *options, "--json").stdout)["folder"]
    finally:
        backend.release()
    assert shown.exit_code == 0, shown.output
    who = rf"a run is at work in {mixed.out} \(pid {os.getpid()} on .* since .*\)"
    assert re.search(rf"  folder    {who}: 15 images made so far, 0 failed", shown.stdout)
    assert (told["out"], told["done"], told["quarantined"]) == (str(mixed.out), 15, 0)
    assert told["holder"]["pid"] == os.getpid()
    told = json.loads(invoke("plan", mixed.manifest, *options, "--json").stdout)["folder"]
    assert told == {"out": str(mixed.out), "done": 15, "quarantined": 0, "holder": None}
    assert "at work" not in invoke("plan", mixed.manifest, *options).stdout


def test_commits_are_read_once(mixed, model_folder, sources, tmp_path, monkeypatch, caplog):
    """All that is said of a folder is of one moment."""
    options = ["--model", model_folder, "--width", 32, "--height", 32, "--seed", 9, "--steps", 2, "--json"]
    read_all, read = LocalBackend.read_all, []

    def counted(backend, names):
        read.extend(names)
        return read_all(backend, names)

    monkeypatch.setattr(LocalBackend, "read_all", counted)
    planned = invoke("plan", mixed.manifest, "--out", mixed.out, *options)
    told = json.loads(planned.stdout)
    assert told["estimate"]["images"] == 0
    assert told["estimate"]["from"] == f"15 images of {mixed.out}"
    assert sorted(read) == sorted(set(read))
    assert len(read) == len(list((mixed.out / "_wanbatch/commits").iterdir()))
    assert json.loads(invoke("plan", mixed.manifest, "--out", tmp_path / "new", *options).stdout)["folder"] is None
    read.clear()
    labels = write_jsonl(sources / "labelled.jsonl", [{**row, "note": "other"} for row in MIXED])
    planned = invoke("plan", labels, "--out", mixed.out, *options)
    assert planned.exit_code == 0
    assert "15 images that are made keep the values of note that they were made with" in caplog.text
    assert sorted(read) == sorted(set(read))


def test_a_gpu_that_this_machine_has_not(mixed, model_folder, tmp_path, monkeypatch):
    """It is said once; and a folder that such a machine filled is still compared."""
    monkeypatch.setattr("wanbatch.jobs.driver.planned_folder.hardware_here", no_gpu)
    options = ["--model", model_folder, "--width", 32, "--height", 32, "--seed", 9, "--device", "cuda"]
    planned = invoke("plan", mixed.manifest, "--out", tmp_path / "new", *options, "--steps", 2)
    assert planned.exit_code == 0
    assert planned.stdout.count("no GPU on this machine") == 1
    there = invoke("plan", mixed.manifest, "--out", mixed.out, *options[:-1], "cpu", "--steps", 2)
    assert (there.exit_code, "no GPU" in there.stdout) == (0, False)
    of_cpu = invoke("plan", mixed.manifest, "--out", mixed.out, *options, "--steps", 2)
    assert 'device was "cpu", now "cuda"' in of_cpu.stderr
    out = shutil.copytree(mixed.out, tmp_path / "of-gpu")
    run = json.loads((out / "_wanbatch/run.json").read_text())
    there = recorded_fingerprint(out) | {"device": "cuda", "precision": "bf16", "compile": True}
    there["environment"] = {"torch": "2.11.0+cu130", "device_name": "NVIDIA H200"}
    del there["threads"]
    (out / "_wanbatch/run.json").write_text(json.dumps({**run, "fingerprint": there}))
    assert invoke("plan", mixed.manifest, "--out", out, *options, "--steps", 2).exit_code == 0
    refused = invoke("plan", mixed.manifest, "--out", out, *options, "--steps", 3)
    assert (refused.exit_code, "steps was 2, now 3. Use" in refused.stderr) == (2, True)
    here = invoke("plan", mixed.manifest, "--out", out, *options[:-2], "--steps", 2)
    assert (here.exit_code, 'device was "cuda", now "cpu"' in here.stderr) == (2, True)


def no_gpu(device):
    from wanbatch.jobs.config.hardware import detect_hardware

    found = detect_hardware()
    return type(found)(torch=found.torch, cpu=found.cpu)
