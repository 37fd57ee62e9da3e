"""A folder of pictures becomes a dataset, and that one the next: both grow, and each row is made once."""

from __future__ import annotations

import hashlib

import pytest
from job_making import picture, table

from wanbatch.errors import UserError


@pytest.mark.slow
def test_pictures_then_a_second_pass_and_both_grow(run_here, settings, tmp_path):
    photos, first, second = tmp_path / "photos", tmp_path / "photos" / "made", tmp_path / "second"
    (photos / "cats").mkdir(parents=True)
    picture(photos / "a.png", 32, 32, seed=1)
    picture(photos / "cats" / "b.jpg", 32, 32, seed=2)
    (photos / "a.txt").write_text("a star")
    chosen = settings(prompt="a heart", creativity=0)
    assert run_here(photos, first, chosen).summary.made == 2
    assert {row["id"]: row["prompt"] for row in table(first, "data").to_pylist()} == {
        "a": "a star",
        "cats-b": "a heart",
    }

    again = settings(prompt="in watercolour", creativity=0, seed=1)
    made = run_here(first, second, again)
    assert (made.summary.made, made.summary.warnings) == (2, ())
    images = {
        row["id"]: hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in table(first, "data").to_pylist()
    }
    for row in table(second, "data").to_pylist():
        assert row["sources"][0]["sha256"] == images[row["id"]]
        assert (row["prompt"], row["source_creativity"]) == ("in watercolour", 0.0)
        assert row["source_prompt"] in ("a star", "a heart")

    picture(photos / "0.png", 32, 32, seed=3)
    grown = run_here(photos, first, chosen).summary
    assert (grown.rows, grown.made_now) == (3, 1), "its own output below the folder is no part of the manifest"
    followed = run_here(first, second, again).summary
    assert (followed.rows, followed.made_now) == (3, 1)
    assert sorted(table(second, "data")["id"].to_pylist()) == ["0", "a", "cats-b"]


def test_the_output_of_a_run_is_not_its_manifest(run_here, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"is the manifest and cannot be the output folder, too: give --out another"):
        run_here(tmp_path / "out", "out", settings())
