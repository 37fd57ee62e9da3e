"""`--slots`: a number, or measured once for a folder."""

from __future__ import annotations

import json

import pytest
from job_making import log_events, pictures, rows_by_id, write_jsonl

from wanbatch.errors import UserError
from wanbatch.jobs.config.hardware import ExecutionConfig
from wanbatch.jobs.config.settings import Settings, read_settings
from wanbatch.jobs.driver import batch_size
from wanbatch.jobs.driver.batch_size import measure_here
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.pipeline.loading.runtime import Runtime


def test_auto_or_a_number():
    assert read_settings(slots="auto").slots == "auto"
    assert read_settings(slots="8").slots == 8
    for wrong in ("0", "65", "many"):
        with pytest.raises(UserError, match="slots"):
            read_settings(slots=wrong)


@pytest.mark.slow
def test_it_is_measured_once_and_a_resume_takes_the_recorded_number(run_here, settings, tmp_path, monkeypatch):
    measured = []
    times = {1: 0.02, 2: 0.012, 4: 0.0118}
    monkeypatch.setattr(batch_size, "measure_in_subprocess", lambda *given: measured.append(given) or times)
    rows = [{"id": f"r{number}", "prompt": "x", "seed": number} for number in range(3)]
    manifest = write_jsonl(tmp_path / "m.jsonl", rows[:2])
    first = run_here(manifest, tmp_path / "out", settings(slots="auto"))
    assert first.summary.exit_code == 0
    run = json.loads((first.out / "_wanbatch" / "run.json").read_text())
    assert run["fingerprint"]["slots"] == 2
    [event] = log_events(first.out, "calibrated")
    assert event["milliseconds_of_a_step_and_row"] == {"1": 20.0, "2": 12.0, "4": 11.8}
    write_jsonl(manifest, rows)
    times.clear()  # measuring now would find nothing
    second = run_here(manifest, tmp_path / "out", settings(slots="auto"))
    assert (second.summary.made, len(measured)) == (3, 1)
    assert {row["batch_size"] for row in rows_by_id(second.out, "timings").values()} == {2}
    plain = run_here(manifest, tmp_path / "plain", settings(slots=2))
    assert pictures(plain.out) == pictures(second.out)


def test_nothing_fits(settings, monkeypatch, manifest, model):
    monkeypatch.setattr(batch_size, "measure_in_subprocess", lambda *given: {})
    plan, _ = prepare(manifest({"prompt": "x"}), settings())
    with pytest.raises(UserError, match="not even one row fits"):
        batch_size.batch_size_for(Settings(slots="auto"), None, plan, model, ExecutionConfig("cpu", "fp32", False))


def test_the_commonest_size_is_measured(settings, manifest):
    rows = [{"prompt": "x", "width": 64, "height": 32}] * 2 + [{"prompt": "x", "guidance": 1.0}]
    plan, _ = prepare(manifest(*rows), settings())
    assert batch_size.most_common_kind(plan) == (64, 32, True)


def test_measuring_for_real(model):
    found = measure_here(model, (64, 32, True), ExecutionConfig("cpu", "fp32", False), Runtime())
    assert set(found) == {1, 2, 4, 8, 16}
    assert all(seconds > 0 for seconds in found.values())
