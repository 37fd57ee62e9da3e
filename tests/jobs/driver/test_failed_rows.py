"""Rows that cannot be made, and the others beside them."""

from __future__ import annotations

import re
import shutil

import faulty_models
import numpy as np
from data_row_requests import data_row_request
from job_making import decoded, log_events, part_files, rows_by_id, table, write_jsonl

from wanbatch.manifests.records import FAILURE_SCHEMA
from wanbatch.pipeline.generate import Wan


def test_bad_rows_are_quarantined_and_the_others_made(faulty):
    assert faulty.summary.exit_code == 3
    assert sorted(rows_by_id(faulty.out)) == ["good-0", "good-1", "good-2"]
    assert table(faulty.out, "failures").schema.equals(FAILURE_SCHEMA)
    failures = rows_by_id(faulty.out, "failures")
    found = {name: (row["stage"], row["error_class"]) for name, row in failures.items()}
    assert found == {
        "absent": ("source", "missing_image"),
        "cut": ("source", "bad_image"),
        "html": ("source", "bad_image"),
        "blend-absent": ("source", "missing_image"),
        "raise-1": ("generate", "error"),
        "late-1": ("generate", "error"),
        "endless": ("decode", "nan"),
    }


def test_failures_say_what_happened(faulty):
    failures = rows_by_id(faulty.out, "failures")
    assert failures["absent"]["message"] == f"nowhere.png does not exist in {faulty.manifest.parent}"
    assert "truncated.png cannot be decoded" in failures["cut"]["message"]
    assert failures["html"]["message"].startswith("page.png is an HTML page, not an image")
    assert "ValueError: no picture of raise-1" in failures["raise-1"]["message"]
    assert "NaN or infinity" in failures["endless"]["message"]
    assert {row["attempts"] for row in failures.values()} == {1}
    rows = {"absent": 1, "cut": 2, "html": 3, "raise-1": 5, "late-1": 7, "endless": 8}
    assert {name: failures[name]["manifest_row"] for name in rows} == rows


def test_counts_of_a_run_with_failures(faulty):
    summary = faulty.summary
    assert (summary.rows, summary.made, summary.quarantined, summary.pending) == (10, 3, 7, 0)
    assert summary.failures == {"bad_image": 2, "error": 2, "missing_image": 2, "nan": 1}
    card = (faulty.out / "README.md").read_text()
    assert "7 rows could not be made (2 bad_image, 2 error, 2 missing_image, 1 nan)" in card


def test_neighbours_of_failures_have_their_usual_pixels(faulty, model, sources):
    rows = rows_by_id(faulty.out)
    wan = Wan.load(model)
    for name, row in rows.items():
        [result] = wan.generate([data_row_request(row, sources)])
        assert np.array_equal(result.pixels, decoded(row)), name


def test_a_run_of_failures_alone_leaves_a_whole_folder(run_fast, settings, sources, tmp_path):
    """No part of data at all; the folder still has its card, its status and its exit code."""
    manifest = write_jsonl(sources / "hopeless.jsonl", [{"image": "nowhere.png"}, {"image": "page.png"}])
    ran = run_fast(manifest, tmp_path / "out", settings())
    assert (ran.summary.exit_code, ran.summary.made, ran.summary.quarantined) == (3, 0, 2)
    assert not list((ran.out / "data").iterdir())
    assert sorted(rows_by_id(ran.out, "failures")) == ["00000000", "00000001"]
    assert "0 images" in (ran.out / "README.md").read_text()


def test_the_log_names_quarantined_rows_without_their_prompts(faulty):
    events = log_events(faulty.out, "quarantined")
    assert {event["id"]: event["error_class"] for event in events} == {
        name: row["error_class"] for name, row in rows_by_id(faulty.out, "failures").items()
    }
    assert all(re.fullmatch("[0-9a-f]{24}", event["digest"]) for event in events)
    assert "heart" not in (faulty.out / "_wanbatch" / "log.jsonl").read_text()


def test_failed_rows_are_not_tried_again(faulty, run_here, settings, tmp_path):
    out = shutil.copytree(faulty.out, tmp_path / "out")
    before = part_files(out)
    ran = run_here(faulty.manifest, out, settings(), faulty_models.load)
    assert ran.summary.exit_code == 3
    assert ran.summary.failures == faulty.summary.failures
    assert part_files(out) == before
