"""Faults 7 and 8 with memory that really runs out: RLIMIT_AS, and torch's own allocator on a CPU."""

from __future__ import annotations

import memory_hungry_pipeline
import pytest
import ray
from fault_making import require_whole
from job_making import log_events, rows_by_id


@pytest.fixture(autouse=True)
def _by_value(shared_ray):
    ray.cloudpickle.register_pickle_by_value(memory_hungry_pipeline)
    yield
    ray.cloudpickle.unregister_pickle_by_value(memory_hungry_pipeline)


def test_memory_that_runs_out(run_rows, tmp_path):
    """Eight slots become four, then two; a row that does not fit alone is set aside; no worker is lost."""
    names = [f"r{index}" for index in range(6)]
    rows = [{"id": name, "prompt": "x"} for name in [*names[:3], "huge-one", *names[3:]]]
    summary = run_rows(rows, load=memory_hungry_pipeline.load, unit_rows=7, slots=8)
    assert (summary.exit_code, summary.failures) == (3, {"oom": 1})
    require_whole(tmp_path / "out", set(names), {"huge-one"})
    assert "can't allocate memory" in rows_by_id(tmp_path / "out", "failures")["huge-one"]["message"]
    assert log_events(tmp_path / "out", "unit_lost") == []
    sizes = {name: row["batch_size"] for name, row in rows_by_id(tmp_path / "out", "timings").items()}
    assert set(sizes.values()) <= {1, 2}


def test_slots_are_halved_only_as_far_as_is_needed(run_rows, tmp_path):
    names = {f"r{index}" for index in range(4)}
    rows = [{"id": name, "prompt": "x"} for name in sorted(names)]
    assert run_rows(rows, load=memory_hungry_pipeline.load, slots=8).exit_code == 0
    require_whole(tmp_path / "out", names)
    assert {row["batch_size"] for row in rows_by_id(tmp_path / "out", "timings").values()} == {2}
    assert [event["slots"] for event in log_events(tmp_path / "out", "unit")] == [2] * 4
