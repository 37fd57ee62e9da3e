"""Slots stay full from one unit to the next: dispatcher and worker together, without Ray, with the small model."""

from __future__ import annotations

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from job_making import log_events, pictures, write_jsonl
from local_pool import run_locally

from wanbatch.jobs.driver.units_in_hand import MAX_WRITING
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.planning.slot_turns import MAX_IN_MODEL
from wanbatch.jobs.reporting.report.work import COLUMNS, slot_use
from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.manifests.dataset.committed_parts import CommittedParts

LONG = " ".join(["a big red heart on the left"] * 8)


@pytest.fixture
def run_units(settings, model, tmp_path):
    """Makes 24 rows in units of so many: short and long texts, guided or not, 1 to 3 steps."""
    rows = [
        {"id": f"r{n:02}", "prompt": LONG if n % 4 == 1 else "a star", "guidance": 1 + 2 * (n % 3 == 0), "seed": n}
        | {"steps": 1 + n % 3}
        for n in range(24)
    ]
    plan, _ = prepare(write_jsonl(tmp_path / "m.jsonl", rows), settings())

    def run(name: str, unit_rows: int, workers: int = 1):
        out = tmp_path / name
        setup = WorkerSetup(model, str(out), str(tmp_path), False, "cpu", "float32", slots=4, threads=1)
        return out, *run_locally(plan, setup, unit_rows, workers)

    return run


def test_small_units_fill_the_slots_and_change_no_bit(run_units):
    whole, of_whole, _ = run_units("whole", 24)
    small, of_small, pool = run_units("small", 3)
    assert pictures(small) == pictures(whole)
    assert len(pictures(small)) == 24
    counters = of_small.counters
    assert (counters.made, counters.quarantined, counters.pending) == (24, 0, 0)
    units = log_events(small, "unit")
    assert sorted(event["unit"] for event in units) == list(range(len(units)))  # none twice
    assert sum(event["made"] for event in units) == 24
    evaluations = sum(event["evaluations"] for event in units)
    assert counters.slot_use == pytest.approx(evaluations / sum(event["slot_steps"] for event in units), abs=0.01)
    timings = CommittedParts.open(small).table("timings", ("unit", "steps_full", "steps_cached", "slot_steps"))
    assert slot_use(timings) == pytest.approx(counters.slot_use, abs=0.01)  # the records alone say it, too
    for event in units:
        of_unit = timings.filter(pc.equal(timings["unit"], event["unit"]))
        assert pc.sum(of_unit["slot_steps"]).as_py() == pytest.approx(event["slot_steps"], abs=0.01)
    assert pool.most_in_hand <= MAX_IN_MODEL + 1 + MAX_WRITING
    assert counters.slot_use > 0.55  # in units of their own, slots are filled to 0.4
    assert of_whole.counters.slot_use >= counters.slot_use - 0.05


def test_two_workers_make_each_row_once(run_units):
    one, _, _ = run_units("one", 4)
    two, of_two, _ = run_units("two", 4, workers=2)
    assert pictures(two) == pictures(one)
    assert of_two.counters.made == 24


def test_timing_records_of_before_are_read_beside_those_of_now(run_units):
    """A folder that an earlier version began goes on with parts that have a column more."""
    out, _, _ = run_units("old", 6)
    parts, first = CommittedParts.open(out), out / "timings/part-00000.parquet"
    pq.write_table(pq.read_table(first).drop_columns(["slot_steps"]), first)
    timings = parts.table("timings", COLUMNS)
    assert timings["slot_steps"].null_count == pq.read_metadata(first).num_rows == 6
    assert 0 < slot_use(timings) <= 1
    assert ds.dataset(sorted(out.glob("timings/*.parquet"))).to_table().num_rows == 24  # as other tools read it
