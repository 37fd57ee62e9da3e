"""A worker makes rows with adapters of their own beside plain ones, and with one merged for all of them."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from adapter_making import random_pairs, save_adapter
from job_making import write_jsonl
from PIL import Image
from worker_calls import Gate, GatedPipeline, exchange, reports_of

from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.worker.actor import Worker
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.jobs.worker.requests import coming_row
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.runtime import MERGED, Runtime

SMALL = {"width": 64, "height": 64, "steps": 3}


@pytest.fixture
def lora(model_folder, tmp_path) -> dict[str, str]:
    """Adapter files by name, as a run is given them."""
    config = json.loads((model_folder / "transformer" / "config.json").read_text())
    found = {}
    for seed, name in enumerate(("crayon", "ink")):
        path = save_adapter(tmp_path / f"{name}.safetensors", config, random_pairs(config, 4, seed, size=0.5))
        found[name] = f"{path}:0.5"
    return found


@pytest.fixture
def make(model, lora, settings, tmp_path):
    """Makes rows in one worker; returns the pictures and the recorded columns by id."""

    def call(*rows: dict, **given):
        plan, _ = prepare(
            write_jsonl(tmp_path / "m.jsonl", [SMALL | row for row in rows]), settings(lora=lora, **given)
        )
        out = tmp_path / "out"
        (out / "_wanbatch" / "tmp").mkdir(parents=True, exist_ok=True)
        adapters = tuple(plan.adapters.values())
        setup = WorkerSetup(
            model, str(out), str(tmp_path), False, "cpu", "float32", 2, 0, adapters=adapters,
            runtime=Runtime(merged_rows=given.get("row_adapters") == MERGED),
        )  # fmt: skip
        worker = Worker(setup, "worker")
        worker.ready()
        task = plan.task(0, 1, f"t{len(list(out.rglob('*.parquet')))}", np.arange(len(plan)))
        (report,) = reports_of(worker, task)
        table = pq.read_table(out / "_wanbatch" / "tmp" / report.attempt.names["data"])
        found = {row["id"]: row for row in table.to_pylist()}
        return {name: np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for name, row in found.items()}, found

    return call


def test_rows_beside_each_other_and_alone(make):
    rows = [
        {"id": "plain", "prompt": "a star", "seed": 1},
        {"id": "crayon", "prompt": "a star", "seed": 1, "style": "crayon"},
        {"id": "both", "prompt": "a star", "seed": 1, "loras": [{"name": "ink", "weight": 2}, {"name": "crayon"}]},
        {"id": "half", "prompt": "a star", "seed": 1, "loras": [{"name": "ink", "weight": 0.5}]},
    ]
    pictures, found = make(*rows)
    assert len({picture.tobytes() for picture in pictures.values()}) == 4
    for row in (rows[0], rows[2]):
        alone, _ = make(row)
        assert np.array_equal(alone[row["id"]], pictures[row["id"]])
    assert [found[row["id"]]["style"] for row in rows] == [None, "crayon", None, None]
    assert {
        name: row["adapters"] and [(one["name"], one["weight"]) for one in row["adapters"]]
        for name, row in found.items()
    } == {
        "plain": None,
        "crayon": [("crayon", 0.5)],
        "both": [("ink", 1.0), ("crayon", 0.5)],
        "half": [("ink", 0.25)],
    }
    assert found["both"]["loras"] == [{"name": "ink", "weight": 2.0}, {"name": "crayon", "weight": 1.0}]


def test_a_merged_adapter_makes_what_a_row_with_it_gets(make):
    row = {"id": "a", "prompt": "a star", "seed": 1}
    pictures, _ = make(row | {"style": "crayon"})
    merged, found = make(row, merge=["crayon"])
    plain, _ = make(row)
    difference = np.abs(merged["a"].astype(int) - pictures["a"])
    assert difference.max() <= 1
    assert np.abs(merged["a"].astype(int) - plain["a"]).max() > 10
    assert "style" not in found["a"]
    assert [(one["name"], one["weight"], one["merged"]) for one in found["a"]["adapters"]] == [("crayon", 0.5, True)]


def test_what_the_model_is_told_of_coming_rows(lora, settings, tmp_path):
    """The level is what a row begins at, by which its adapters come for the transformers that it enters."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    drawn = {"prompt": "a star", "seed": 1}
    changed = drawn | {"image": "red.png"}
    rows = [
        drawn | {"id": "drawn", "style": "crayon"},
        drawn | {"id": "plain"},
        changed | {"id": "changed", "creativity": 0.7, "loras": [{"name": "ink", "weight": 2}]},
        changed | {"id": "kept", "creativity": 0.0, "style": "ink"},
        changed | {"id": "listed", "creativity": 0.9, "sigmas": [0.5, 0.25], "steps": None, "style": "ink"},
    ]
    plan, _ = prepare(write_jsonl(tmp_path / "m.jsonl", [SMALL | row for row in rows]), settings(lora=lora))
    coming = {row.id: row for row in map(coming_row, plan.task(0, 1, "t", np.arange(len(plan))).images)}
    assert {name: row.level for name, row in coming.items()} == pytest.approx(
        {"drawn": 1.0, "plain": 1.0, "changed": 0.7, "kept": 0.0, "listed": 0.5}
    )
    assert [name for name, row in coming.items() if row.adapters] == ["drawn", "changed", "kept", "listed"]
    assert list(coming["changed"].adapters) == [("ink", 2.0)]


class WatchedWan(GatedPipeline):
    """A `Wan` with adapters for rows; its units wait at a gate."""

    def __init__(self, setup: WorkerSetup, gate: Gate):
        super().__init__(gate)
        self._adapters = {one.name: (one.file, one.weight) for one in setup.adapters}

    def load(self, model, device, dtype, slots) -> WatchedWan:
        self.wan = Wan.load(model, device, dtype, slots, adapters=self._adapters)
        return self

    def wait(self) -> None:
        self.wan._adapters.wait()

    @property
    def resident(self) -> list[str]:
        return [key[0][0] for key, _ in self.wan._adapters.resident]

    @property
    def held(self) -> set[str]:
        return {key[0][0] for key, _ in self.wan._adapters._residents.held}


def test_a_units_adapters_come_while_the_one_before_it_has_the_model(model, lora, settings, tmp_path):
    rows = [
        {"id": "a", "prompt": "a star", "seed": 1, "style": "crayon"},
        {"id": "b", "prompt": "a star", "seed": 1, "loras": [{"name": "ink", "weight": 0.5}]},
        {"id": "c", "prompt": "a star", "seed": 1},
    ]
    plan, _ = prepare(write_jsonl(tmp_path / "m.jsonl", [SMALL | row for row in rows]), settings(lora=lora))
    (tmp_path / "_wanbatch" / "tmp").mkdir(parents=True)
    adapters = tuple(plan.adapters.values())
    setup = WorkerSetup(model, str(tmp_path), str(tmp_path), False, "cpu", "float32", 2, 0, adapters=adapters)
    gate = Gate()
    pipeline = WatchedWan(setup, gate)
    worker = Worker(setup, "worker", pipeline.load)
    worker.ready()
    tasks = [plan.task(number, 1, f"t{number}", np.array([number])) for number in range(3)]
    assert exchange(worker, *tasks, seconds=0.0).reports == []
    assert gate.reached.wait(60)
    worker._stages._prepare_thread.submit(pipeline.wait).result(60)
    assert pipeline.held == {"crayon", "ink"}
    assert pipeline.resident == ["crayon", "ink"]  # though no row of the second unit has been seen by the model
    gate.opened.set()
    reports = reports_of(worker, count=3)
    pictures = {}
    for report in reports:
        (row,) = pq.read_table(tmp_path / "_wanbatch" / "tmp" / report.attempt.names["data"]).to_pylist()
        pictures[row["id"]] = row["image"]["bytes"]
    assert len(set(pictures.values())) == 3
    assert pipeline.held == set()  # they may go now, and do not have to
    assert pipeline.resident == ["crayon", "ink"]
    assert pipeline.spare_memory() > 0
    assert pipeline.resident == []


def test_rows_with_weights_of_their_own_make_the_pictures_of_a_merged_adapter(make):
    rows = [
        {"id": "plain", "prompt": "a star", "seed": 1},
        {"id": "crayon", "prompt": "a star", "seed": 1, "style": "crayon"},
        {"id": "ink", "prompt": "a star", "seed": 1, "style": "ink"},
    ]
    pictures, _ = make(*rows, row_adapters=MERGED)
    added, _ = make(*rows)
    assert np.array_equal(added["plain"], pictures["plain"])
    for name in ("crayon", "ink"):
        merged, _ = make({**rows[0], "id": name}, merge=[name])
        assert np.abs(merged[name].astype(int) - pictures[name]).max() <= 1
        assert np.abs(added["plain"].astype(int) - pictures[name]).max() > 5
        alone, _ = make(next(row for row in rows if row["id"] == name), row_adapters=MERGED)
        assert np.array_equal(alone[name], pictures[name])
