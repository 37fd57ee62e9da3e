"""The whole command with manifest, sources and output in an object store: an S3 server on this machine."""

from __future__ import annotations

import io
import json

import pyarrow.parquet as pq
import pytest
from command_line import invoke, refused
from job_making import Ended, command, decoded, pictures
from s3_server import ENVIRONMENT, Server, empty_bucket, running

from wanbatch.manifests.storage import fsspec_io

OPTIONS = ["--width", 32, "--height", 32, "--steps", 2, "--unit-rows", 2, "--log-prompts"]
ROWS = [
    {"id": "plain", "prompt": "a red heart", "tag": 1},
    {"id": "kept", "image": "square.png", "creativity": 0.8},
    {"id": "wide", "image": "wide.png", "prompt": "a star", "tag": 2},
    {"id": "absent", "image": "nowhere.png", "prompt": "secret words"},
]


@pytest.fixture(scope="module")
def server():
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def store(server: Server, sources):
    """An S3 file system with a manifest and its sources in s3://shop/in."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url}.items():
            patch.setenv(name, value)
        fsspec_io.forget_file_systems()
        system = fsspec_io.file_system("s3://shop")
        empty_bucket("shop")
        for name in ("square.png", "wide.png"):
            system.pipe_file(f"s3://shop/in/{name}", (sources / name).read_bytes())
        lines = "".join(json.dumps(row) + "\n" for row in ROWS)
        system.pipe_file("s3://shop/in/rows.jsonl", lines.encode())
        yield system
    fsspec_io.forget_file_systems()


@pytest.fixture(scope="module")
def ran(store, model_folder, tmp_path_factory) -> Ended:
    """Everything from and to the store."""
    here = tmp_path_factory.mktemp("here")
    ended = command(
        "run", "s3://shop/in/rows.jsonl", "--out", "s3://shop/out", "--model", model_folder, *OPTIONS, cwd=here
    )
    assert list(here.iterdir()) == [], "nothing is written here"
    return ended


def test_it_ends_like_a_local_run(ran):
    assert ran.code == 3, ran.err
    assert "3 of 4 pictures made, 1 failed" in ran.out
    assert "output    s3://shop/out" in ran.out
    assert "absent: source: nowhere.png does not exist" in ran.out


def test_the_dataset_is_in_the_store(ran, store):
    names = {name.removeprefix("shop/out/") for name in store.find("shop/out")}
    assert {"README.md", "_wanbatch/run.json", "_wanbatch/log.jsonl"} <= names
    assert not any(name.startswith("_wanbatch/tmp/") for name in names)
    rows = {}
    for name in sorted(name for name in names if name.startswith("data/")):
        for row in pq.read_table(io.BytesIO(store.cat_file(f"shop/out/{name}"))).to_pylist():
            rows[row["id"]] = row
    assert {name: row["tag"] for name, row in rows.items()} == {"plain": 1, "kept": None, "wide": 2}
    assert all(decoded(row).shape == (row["height"], row["width"], 3) for row in rows.values())


def test_pictures_are_those_of_a_local_run(ran, store, run_here, settings, sources, tmp_path):
    manifest = sources / "local-rows.jsonl"
    manifest.write_bytes(store.cat_file("shop/in/rows.jsonl"))
    local = run_here(manifest, tmp_path / "out", settings(unit_rows=2, threads=2))
    found = {}
    for name in store.find("shop/out/data"):
        found |= {row["id"]: row["sha256"] for row in pq.read_table(io.BytesIO(store.cat_file(name))).to_pylist()}
    assert found == pictures(local.out)


def test_status_and_report_read_it_there(ran, store, tmp_path):
    found = json.loads(invoke("status", "s3://shop/out", "--json").stdout)
    assert (found["done"], found["quarantined"], found["pending"], found["holder"]) == (3, 1, 0, None)
    assert found["failures"] == {"missing_image": 1}
    assert found["pictures_per_second"] > 0
    ended = invoke("report", "s3://shop/out")
    assert ended.exit_code == 0, ended.stderr
    shown = (tmp_path / "report.html").read_text()
    assert shown.count("<figure") == 3
    assert 'alt="source square.png"' in shown, "sources are read from the store, too"
    ended = invoke("report", "s3://shop/out", "--sheet", "contact-sheet.png")
    assert ended.exit_code == 0, ended.stderr
    assert (tmp_path / "contact-sheet.png").read_bytes()[:4] == b"\x89PNG"


def test_the_log_names_prompts_because_it_was_asked_to(ran, store):
    events = [json.loads(line) for line in store.cat_file("shop/out/_wanbatch/log.jsonl").splitlines()]
    [failed] = [event for event in events if event["event"] == "quarantined"]
    assert (failed["id"], failed["error_class"], failed["prompt"]) == ("absent", "missing_image", "secret words")
    assert [event["event"] for event in events][-1] == "finished"


@pytest.mark.slow
def test_the_same_command_again_and_retry(ran, store, model_folder, sources, tmp_path):
    run = ["run", "s3://shop/in/rows.jsonl", "--out", "s3://shop/out", "--model", model_folder, *OPTIONS]
    before = {name: store.info(name)["size"] for name in store.find("shop/out/data")}
    again = command(*run, cwd=tmp_path)
    assert again.code == 3, again.err
    assert {name: store.info(name)["size"] for name in store.find("shop/out/data")} == before
    store.pipe_file("s3://shop/in/nowhere.png", (sources / "square.png").read_bytes())
    retried = command("retry", "s3://shop/out", "--json", cwd=tmp_path)
    assert retried.code == 0, retried.err
    assert json.loads(retried.out)["made"] == 4
    assert store.find("shop/out/failures") == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "s3://shop/in/none.jsonl"], "s3://shop/in/none.jsonl: there is no such manifest"),
        (["plan", "ftp://shop/rows.jsonl"], "ftp://shop/rows.jsonl: such addresses are not supported here"),
        (["status", "s3://shop/in"], "s3://shop/in: is not an output folder of wanbatch"),
    ],
)
def test_mistakes(store, arguments, told):
    [message] = refused(invoke(*arguments))
    assert told in message


def test_rows_that_are_gone_from_the_manifest_leave(store, run_fast, settings, model_folder):
    """With quarantined rows, and with images of a unit that lose one and all."""
    rows = [{"id": f"r{number}", "prompt": "a star"} for number in range(5)]
    rows += [{"id": name, "image": "nowhere.png"} for name in ("absent", "gone")]
    where = ["s3://shop/in/dropped.jsonl", "--out", "s3://shop/dropped", "--model", model_folder, *OPTIONS]

    def manifest(*numbers: int) -> None:
        lines = "".join(json.dumps(rows[number]) + "\n" for number in numbers)
        store.pipe_file("s3://shop/in/dropped.jsonl", lines.encode())

    manifest(*range(7))
    chosen = settings(unit_rows=2, log_prompts=True)
    assert run_fast("s3://shop/in/dropped.jsonl", "s3://shop/dropped", chosen).summary.exit_code == 3
    manifest(0, 4, 5)
    [message] = refused(invoke("run", *where))
    assert "take these 4 out of the dataset with `wanbatch run --drop-removed`" in message
    planned = invoke("plan", *where, "--drop-removed", "--json")
    assert json.loads(planned.stdout)["removed"] == 4, planned.stderr
    done = invoke("run", *where, "--drop-removed", "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["removed"], told["made"], told["made_now"], told["quarantined"]) == (3, 4, 2, 0, 1)
    fsspec_io.forget_file_systems()
    ids = {
        kind: sorted(
            name
            for part in store.find(f"shop/dropped/{kind}")
            for name in pq.read_table(io.BytesIO(store.cat_file(part)))["id"].to_pylist()
        )
        for kind in ("data", "timings", "failures")
    }
    assert ids == {"data": ["r0", "r4"], "timings": ["r0", "r4"], "failures": ["absent"]}
    told = json.loads(invoke("status", "s3://shop/dropped", "--json").stdout)
    assert [told[name] for name in ("rows", "done", "quarantined", "pending")] == [3, 2, 1, 0]
    assert invoke("repair", "s3://shop/dropped").exit_code == 0
