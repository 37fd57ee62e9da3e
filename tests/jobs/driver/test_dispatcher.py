"""Workers that die, and models that cannot be loaded; tests/faults has more of the former."""

from __future__ import annotations

import shutil

import fake_pipelines
import faulty_models
import pytest
from job_making import commit_records, log_events, rows_by_id, write_jsonl

from wanbatch.errors import MachineryError, UserError


@pytest.fixture(scope="package")
def deadly(run_here, settings, tmp_path_factory):
    """Six rows in units of two: one kills its worker each time, one does so once."""
    folder = tmp_path_factory.mktemp("deadly")
    rows = [{"id": name, "prompt": "x"} for name in ("a", "kill-b", "c", "d", "f")]
    rows.insert(4, {"id": "killonce-e", "prompt": str(folder / "has-died")})
    manifest = write_jsonl(folder / "deadly.jsonl", rows)
    return run_here(manifest, folder / "out", settings(unit_rows=2), faulty_models.load)


@pytest.mark.slow
def test_a_row_that_kills_workers_is_quarantined_alone(deadly):
    assert deadly.summary.exit_code == 3
    assert deadly.summary.failures == {"worker_died": 1}
    assert sorted(rows_by_id(deadly.out)) == ["a", "c", "d", "f", "killonce-e"]
    [failure] = rows_by_id(deadly.out, "failures").values()
    assert (failure["id"], failure["error_class"], failure["manifest_row"]) == ("kill-b", "worker_died", 1)
    assert failure["attempts"] == 4
    assert "its worker process died 4 times while making only this row" in failure["message"]


@pytest.mark.slow
def test_attempts_are_bounded_and_logged(deadly):
    """The unit twice, then the row alone four times; and once for the row that kills once."""
    assert len(log_events(deadly.out, "unit_lost")) == 7
    [event] = log_events(deadly.out, "quarantined")
    assert (event["id"], event["error_class"]) == ("kill-b", "worker_died")


@pytest.mark.slow
def test_every_row_is_committed_once_after_deaths(deadly):
    ids = [name for record in commit_records(deadly.out) for name in (*record["ids"], *record["failed"])]
    assert sorted(ids) == ["a", "c", "d", "f", "kill-b", "killonce-e"]
    assert not list((deadly.out / "_wanbatch" / "tmp").iterdir())


@pytest.mark.slow
def test_a_worker_that_dies_while_loading_is_a_machinery_error(run_here, settings, manifest, tmp_path):
    with pytest.raises(MachineryError, match="died while it loaded the model"):
        run_here(manifest({"prompt": "x"}), tmp_path / "out", settings(), faulty_models.load_and_die)


def test_a_model_with_damaged_weights_is_a_user_error(run_here, settings, manifest, tmp_path, model_folder):
    damaged = shutil.copytree(model_folder, tmp_path / "damaged")
    weights = next((damaged / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="is not a whole safetensors file") as caught:
        run_here(manifest({"prompt": "x"}), tmp_path / "out", settings(model=str(damaged)))
    assert str(damaged / "transformer") in str(caught.value)


def test_memory_that_runs_out_halves_the_slots_and_costs_no_row(run_fast, settings, tmp_path):
    rows = [{"id": f"wide-{i}", "prompt": f"picture {i}", "seed": i} for i in range(5)]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    ran = run_fast(manifest, tmp_path / "out", settings(slots=8), load=fake_pipelines.load_with_room_for_two)
    assert ran.summary.exit_code == 0
    made = rows_by_id(ran.out)
    assert [made[row["id"]]["seed"] for row in rows] == list(range(5))
    assert {timing["batch_size"] for timing in rows_by_id(ran.out, "timings").values()} == {2}
    [unit] = log_events(ran.out, "unit")
    assert unit["slots"] == 2


def test_a_row_too_large_for_one_slot_is_quarantined_as_oom(run_fast, settings, tmp_path):
    rows = [{"id": "a", "prompt": "x"}, {"id": "huge-b", "prompt": "x"}, {"id": "c", "prompt": "x"}]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    ran = run_fast(manifest, tmp_path / "out", settings(slots=2), load=fake_pipelines.load_with_room_for_two)
    assert ran.summary.failures == {"oom": 1}
    assert sorted(rows_by_id(ran.out)) == ["a", "c"]
    assert list(rows_by_id(ran.out, "failures")) == ["huge-b"]


def test_a_broken_device_costs_the_worker_and_no_row(run_here, settings, tmp_path):
    broken = tmp_path / "was-broken"
    rows = [{"id": "a", "prompt": "x"}, {"id": "device-b", "prompt": str(broken)}]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    ran = run_here(manifest, tmp_path / "out", settings(), fake_pipelines.load)
    assert broken.exists()
    assert ran.summary.exit_code == 0
    assert sorted(rows_by_id(ran.out)) == ["a", "device-b"]
    [event] = log_events(ran.out, "unit_lost")
    assert "CUDA error" in event["cause"]
