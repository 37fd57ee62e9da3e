"""Unused and mapped columns in a run: told before it starts, in its log and summary, and known to `retry`."""

from __future__ import annotations

import json
import logging

import pytest
from job_making import picture, table, write_jsonl

from wanbatch.jobs.driver.run import retry
from wanbatch.jobs.reporting.text_summary import summary_text

ROW = {"id": "a", "image": "a.png", "caption": "a star", "cfg": 2.0, "creativity": 0}


def test_a_run_warns_before_it_starts_in_its_log_and_at_its_end(run_fast, settings, tmp_path, caplog):
    picture(tmp_path / "a.png", 32, 32)
    out = tmp_path / "out"
    manifest = write_jsonl(tmp_path / "shop.jsonl", [ROW])
    with caplog.at_level(logging.WARNING, logger="wanbatch.jobs.driver.run"):
        ran = run_fast(manifest, out, settings(map={"caption": "prompt"}))
    said = f"{manifest}: column 'cfg' is not used; did you mean guidance? Take it with --map cfg=guidance"
    assert caplog.messages == [said]
    assert ran.summary.warnings == (said,)
    assert f"  warning   {said}" in summary_text(ran.summary)
    events = [json.loads(line) for line in (out / "_wanbatch" / "log.jsonl").read_text().splitlines()]
    assert [event["message"] for event in events if event["event"] == "warning"] == [said]
    [row] = table(out, "data").to_pylist()
    assert (row["prompt"], row["cfg"]) == ("a star", 2.0)
    assert "caption" not in row


@pytest.mark.slow
def test_retry_and_resume_read_the_columns_as_the_run_did(run_fast, fast_retries, settings, tmp_path):
    """The pairs are recorded with the run, and a row's digest is of what it asks, whatever its column is called."""
    manifest, out = write_jsonl(tmp_path / "shop.jsonl", [{**ROW, "image": "late.png"}]), tmp_path / "out"
    chosen = settings(map={"caption": "prompt", "cfg": "guidance"}, creativity=0.5)
    assert run_fast(manifest, out, chosen).summary.failures == {"missing_image": 1}
    picture(tmp_path / "late.png", 32, 32)
    assert retry(out, []).made == 1
    [row] = table(out, "data").to_pylist()
    assert (row["prompt"], row["guidance"]) == ("a star", 2.0)
    renamed = {"id": "a", "image": "late.png", "prompt": "a star", "guidance": 2.0, "creativity": 0}
    write_jsonl(manifest, [renamed])
    resumed = run_fast(manifest, out, settings(creativity=0.5))
    assert (resumed.summary.made, resumed.summary.made_now, resumed.summary.warnings) == (1, 0, ())
