"""Manifests of recipes: what is written is read back, whatever texts are in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from wanbatch.errors import UserError
from wanbatch.jobs.augment.earlier import earlier_rows, of_recipe
from wanbatch.jobs.augment.manifest_file import write_manifest

ODD = ["one\u2028two", "one\u2029two", "one\x85two", "one\x1ctwo\x0bthree\x0cfour", "one\ntwo\r\nthree", ""]
"""Texts with what some take for the end of a line."""


@pytest.mark.parametrize("form", [".jsonl", ".parquet"])
def test_rows_with_any_text_are_found_again(tmp_path: Path, form):
    rows = [
        {"id": f"disc-0a1b-{number}", "prompt": "a disc", "source_sha256": "ab" * 32, "recipe_digest": "r",
         "seed": number, "regeneration": 0, "label": "disc", "caption": text}
        for number, text in enumerate(ODD)
    ]  # fmt: skip
    target = tmp_path / f"rows{form}"
    write_manifest(target, rows)
    assert of_recipe(earlier_rows(target), "r") == rows


def test_a_manifest_that_cannot_be_looked_at_is_not_taken_for_none(tmp_path: Path):
    assert earlier_rows(tmp_path / "none.jsonl") == []
    (tmp_path / "rows.jsonl").symlink_to("rows.jsonl")
    with pytest.raises(UserError, match=r"rows\.jsonl: cannot be read \(Too many levels of symbolic links\)"):
        earlier_rows(tmp_path / "rows.jsonl")
