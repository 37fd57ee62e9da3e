"""One worker, called directly: a task in, a written attempt out, whatever goes wrong with a row."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import faulty_models
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from job_making import write_jsonl
from PIL import Image
from worker_calls import exchange, reports_of

from wanbatch.errors import MachineryError, RowError
from wanbatch.jobs.config.hardware import ExecutionConfig
from wanbatch.jobs.driver.run_context import prepare_run
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.worker.actor import Worker
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.pipeline.loading.runtime import Runtime


@pytest.fixture(scope="session")
def worker_out(tmp_path_factory) -> Path:
    """The output folder of `worker`."""
    out = tmp_path_factory.mktemp("worker")
    (out / "_wanbatch" / "tmp").mkdir(parents=True)
    return out


@pytest.fixture(scope="session")
def worker(model, sources, worker_out) -> Worker:
    """A worker whose pipeline goes wrong where ids say so."""
    setup = WorkerSetup(model, str(worker_out), str(sources), False, "cpu", "float32", slots=2, threads=0)
    made = Worker(setup, "worker-7", faulty_models.load)
    started = made.ready()
    assert started.load_seconds > 0
    assert started.warm_up_seconds == 0
    return made


@pytest.fixture
def work(worker, worker_out, settings, sources, request):
    """Gives the worker one task of some rows; returns the report and the written tables by kind."""
    count = 0

    def call(*rows: dict):
        nonlocal count
        count += 1
        plan, _ = prepare(write_jsonl(sources / "task.jsonl", rows), settings())
        token = f"{abs(hash(request.node.name))}-{count}"
        task = replace(plan.task(3, 2, token, np.arange(len(plan))), later=("evaluations",))
        [report] = reports_of(worker, task)
        names = report.attempt.names
        return report, {kind: pq.read_table(worker_out / "_wanbatch" / "tmp" / name) for kind, name in names.items()}

    return call


def test_report_names_what_was_written(work):
    report, tables = work({"id": "a", "prompt": "x"}, {"id": "b", "image": "nowhere.png"}, {"id": "c", "prompt": "y"})
    assert (report.attempt.unit, report.attempt.made) == (3, ("a", "c"))
    assert report.attempt.failed == (("b", "missing_image"),)
    assert {kind: table["id"].to_pylist() for kind, table in tables.items()} == {
        **{"data": ["a", "c"], "timings": ["a", "c"], "failures": ["b"]},
    }
    assert report.busy_seconds > 0


def test_timings_name_the_worker_and_the_attempt(work):
    _, tables = work({"id": "a", "prompt": "x"})
    [row] = tables["timings"].to_pylist()
    assert (row["unit"], row["attempt"], row["worker"], row["batch_size"]) == (3, 2, "worker-7", 2)


@pytest.mark.parametrize("kind", ["raise", "late"])
@pytest.mark.parametrize("size", [1, 2, 5, pytest.param(8, marks=pytest.mark.slow)])
def test_one_bad_row_is_found_wherever_it_stands(work, kind, size):
    for place in range(size):
        rows = [{"id": f"good-{number}", "prompt": "x"} for number in range(size)]
        rows[place] = {"id": f"{kind}-it", "prompt": "x"}
        report, _ = work(*rows)
        assert report.attempt.failed == ((f"{kind}-it", "error"),)
        assert set(report.attempt.made) == {row["id"] for row in rows} - {f"{kind}-it"}


def test_all_rows_bad(work):
    report, tables = work(*({"id": f"raise-{number}", "prompt": "x"} for number in range(5)))
    assert report.attempt.made == ()
    assert sorted(name for name, _ in report.attempt.failed) == [f"raise-{number}" for number in range(5)]
    assert set(tables) == {"failures"}


def test_passthrough_stays_with_its_row_when_others_fail(work):
    rows = [
        {"id": f"{'raise' if number % 3 else 'good'}-{number}", "prompt": "x", "tag": number} for number in range(7)
    ]
    _, tables = work(*rows)
    found = dict(zip(tables["data"]["id"].to_pylist(), tables["data"]["tag"].to_pylist(), strict=True))
    assert found == {"good-0": 0, "good-3": 3, "good-6": 6}
    assert tables["data"].schema.field("tag").type == pa.int64()


def test_a_source_is_shared_at_several_weights_and_sizes(work):
    _, tables = work(
        {"id": "a", "image": "square.png", "creativity": 0.8},
        {"id": "b", "images": ["square.png", "wide.png"], "blend_weights": [1, 4], "creativity": 0.8},
        {"id": "c", "image": "square.png", "width": 64, "height": 32, "creativity": 0.8},
    )
    rows = {row["id"]: row for row in tables["data"].to_pylist()}
    assert [source["weight"] for source in rows["b"]["sources"]] == [0.2, 0.8]
    assert rows["a"]["sources"][0]["sha256"] == rows["b"]["sources"][0]["sha256"] == rows["c"]["sources"][0]["sha256"]
    assert len({row["sha256"] for row in rows.values()}) == 3


def test_schedules_are_recorded_and_steps_are_counted_as_evaluations(work):
    _, tables = work(
        {"id": "a", "prompt": "x", "sampler": "heun", "sigmas": [1, 0.5, 0.2]},
        {"id": "b", "prompt": "x", "sampler": "lcm", "schedule": "beta", "steps": 4},
        {"id": "c", "image": "square.png", "creativity": 0.6, "sampler": "res_2s", "sigmas": [1, 0.5, 0.2]},
        {"id": "d", "image": "square.png"},
    )
    rows = {row["id"]: row for row in tables["data"].to_pylist()}
    kept = ("steps", "shift", "schedule", "sigmas")
    assert {name: tuple(row[column] for column in kept) for name, row in rows.items()} == {
        "a": (3, None, None, [1.0, 0.5, 0.2]),
        "b": (4, 3.0, "beta", None),
        "c": (3, None, None, [1.0, 0.5, 0.2]),
        "d": (2, 3.0, "linear", None),
    }
    counted = dict(zip(tables["timings"]["id"].to_pylist(), tables["timings"]["steps_full"].to_pylist(), strict=True))
    assert counted == {"a": 5, "b": 4, "c": 3, "d": 1}  # c from 0.6 by 0.2 to 0, d from the last of its two levels
    assert rows["d"]["creativity"] == pytest.approx(0.7504, abs=1e-4)


def test_a_row_with_a_map_records_the_highest_creativity_of_it(work, sources):
    """Its map is read after it was planned, as if it could start at 1."""
    Image.fromarray(np.tile(np.array([51, 153], np.uint8).repeat(16), (32, 1))).save(sources / "map.png")
    _, tables = work(
        {"id": "a", "image": "square.png", "creativity_map": "map.png", "steps": 8, "width": 32, "height": 32},
        {"id": "b", "image": "square.png", "creativity": 0.6, "steps": 8, "width": 32, "height": 32},
    )
    mapped, plain = tables["data"].to_pylist()
    assert mapped["creativity"] == plain["creativity"] == 0.6
    assert mapped["evaluations"] == plain["evaluations"] < 8


def test_blending_a_source_with_itself_changes_nothing(work):
    _, tables = work(
        {"id": "a", "image": "square.png", "seed": 1},
        {"id": "b", "images": ["square.png", "square.png"], "seed": 1, "width": 32, "height": 32},
    )
    one, other = tables["data"]["sha256"].to_pylist()
    assert one == other


def test_progress_counts_what_is_made_and_not_what_has_failed(worker, work):
    work({"id": "a", "prompt": "x"}, {"id": "b", "image": "nowhere.png"}, {"id": "raise-c", "prompt": "y"})
    assert exchange(worker, seconds=0.0).in_model == (3, 1)


def test_embedded_images_are_read_out_of_the_manifest(worker, settings, sources):
    data = (sources / "square.png").read_bytes()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": data, "path": None}, {"bytes": b"not an image", "path": "b.png"}], kind)
    pq.write_table(pa.table({"id": ["a", "b"], "image": images}), sources / "embedded.parquet")
    plan, _ = prepare(sources / "embedded.parquet", settings())
    [report] = reports_of(worker, plan.task(0, 1, "embedded", np.arange(2)))
    assert (report.attempt.made, report.attempt.failed) == (("a",), (("b", "bad_image"),))


def test_a_disk_that_refuses_is_no_fault_of_the_row(model, settings, sources, tmp_path):
    """The folder for attempts goes away: the worker says so instead of quarantining what it made."""
    folder = tmp_path / "gone" / "_wanbatch" / "tmp"
    folder.mkdir(parents=True)
    setup = WorkerSetup(model, str(tmp_path / "gone"), str(sources), False, "cpu", "float32", slots=2, threads=0)
    broken = Worker(setup, "worker-0")
    broken.ready()
    shutil.rmtree(folder)
    plan, _ = prepare(write_jsonl(tmp_path / "one.jsonl", [{"prompt": "x"}]), settings())
    with pytest.raises(MachineryError, match="cannot be written to"):
        reports_of(broken, plan.task(0, 1, "t", np.arange(1)))


def test_a_worker_lets_torch_have_few_threads_whatever_the_device(model, settings, sources, tmp_path):
    """Beside a GPU, too: with a thread for each core, every small copy has all cores wait for each other."""
    (tmp_path / "_wanbatch" / "tmp").mkdir(parents=True)
    context = prepare_run(
        write_jsonl(tmp_path / "one.jsonl", [{"prompt": "x"}]), tmp_path / "out", settings(threads=3)
    )
    on_gpu = replace(context, execution=ExecutionConfig("cuda", "bf16", compile=False))
    setup = on_gpu.worker_setup(str(tmp_path), examples=(), pending=np.arange(1), workers_on_host=1)
    assert (setup.device, setup.threads) == ("cuda", 3)
    before = torch.get_num_threads()
    try:
        worker = Worker(replace(setup, device="cpu", dtype="float32", device_kind=None), "worker-0")
        worker.ready()
        found = worker._stages.call_in_model_thread(torch.get_num_threads)
    finally:
        torch.set_num_threads(before)
    assert found == 3


@pytest.mark.parametrize(("second", "texts"), [(1, 1), (2, 2)])
def test_texts_that_are_kept_are_those_of_the_number_of_threads(model, settings, sources, tmp_path, second, texts):
    """It decides their last bits on a CPU; the processes here begin with as many as the host has cores."""
    (tmp_path / "_wanbatch" / "tmp").mkdir(parents=True)
    plan, _ = prepare(write_jsonl(tmp_path / "one.jsonl", [{"prompt": "a star", "guidance": 1}]), settings())
    setup = WorkerSetup(
        model,
        str(tmp_path),
        str(sources),
        False,
        "cpu",
        "float32",
        2,
        1,
        runtime=Runtime(text_cache=str(tmp_path / "t")),
    )
    before = torch.get_num_threads()
    try:
        for number, threads in enumerate((1, second)):
            torch.set_num_threads(before)
            worker = Worker(replace(setup, threads=threads), "worker-0")
            worker.ready()
            reports_of(worker, plan.task(0, 1, f"t{number}", np.arange(1)))
    finally:
        torch.set_num_threads(before)
    assert len(list((tmp_path / "t").rglob("*.safetensors"))) == texts


def test_a_step_cache_is_recorded_and_counted(model, settings, sources, tmp_path):
    (tmp_path / "_wanbatch" / "tmp").mkdir(parents=True)
    cache = "deepcache:blocks=2,interval=2,first=0"
    setup = WorkerSetup(
        model, str(tmp_path), str(sources), False, "cpu", "float32", 2, 0, runtime=Runtime(step_cache=cache)
    )
    worker = Worker(setup, "worker-0")
    worker.ready()
    rows = [{"prompt": "x", "steps": 5}, {"prompt": "y", "steps": 5, "guidance": 1}]
    plan, _ = prepare(write_jsonl(tmp_path / "two.jsonl", rows), settings(step_cache="deepcache:blocks=2"))
    [report] = reports_of(worker, plan.task(0, 1, "t", np.arange(2)))
    names = report.attempt.names
    data, timings = (pq.read_table(tmp_path / "_wanbatch" / "tmp" / names[kind]) for kind in ("data", "timings"))
    assert data["step_cache"].to_pylist() == [cache] * 2
    counts = timings.select(["steps_full", "steps_cached", "blocks_full", "blocks_cached"]).to_pylist()
    assert [tuple(count.values()) for count in counts] == [(3, 2, 2 * 11, 2 * 4), (3, 2, 11, 4)]


def test_errors_keep_what_they_say_on_their_way_between_processes():
    import pickle

    error = pickle.loads(pickle.dumps(RowError("source", "bad_image", "a.png is empty")))
    assert (error.stage, error.kind, error.message, str(error)) == (
        *("source", "bad_image", "a.png is empty", "a.png is empty"),
    )
