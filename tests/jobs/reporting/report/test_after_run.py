"""The report that a run leaves."""

from __future__ import annotations

import json

import fake_pipelines
from job_making import write_jsonl

from wanbatch.jobs.reporting.text_summary import summary_text


def test_a_run_leaves_its_report(run_here, run_fast, settings, sources, tmp_path):
    rows = [
        {"id": "kept", "image": "square.png", "creativity": 0, "label": "square"},
        {"id": "gone", "image": "nowhere.png", "creativity": 0, "label": "square"},
    ]
    manifest = write_jsonl(sources / "reported.jsonl", rows)
    ran = run_here(manifest, tmp_path / "out", settings(report="on"), fake_pipelines.load_timed)
    assert ran.summary.report == f"{tmp_path / 'out'}/report.html"
    assert f"  report    {ran.summary.report}" in summary_text(ran.summary).splitlines()
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (data["state"], data["counts"]["made"], data["counts"]["failed"]) == ("finished", 1, 1)
    assert data["runs"][0]["ended"] == "finished"
    assert data["devices"][0]["hours"] > 0
    assert data["class_column"] == "label"
    [square] = data["classes"]
    assert (square["made"], square["failed"]) == (1, 1)
    assert data["failures"][0]["image_classes"] == [{"value": "square", "images": 1}]
    shown = (tmp_path / "out" / "report.html").read_text()
    assert 'alt="source square.png"' in shown
    off = run_fast(manifest, tmp_path / "off", settings())
    assert off.summary.report is None
    assert not (tmp_path / "off" / "report.html").exists()
