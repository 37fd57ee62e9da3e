"""The one table of columns: what follows from it fits together, and what is written from it is up to date."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from wanbatch.manifests.column_types import FIRST_VERSION
from wanbatch.manifests.columns import (
    COLUMNS,
    GIVEN,
    LATER,
    RESOLVED,
    RUN_SETTINGS,
    SETTINGS,
    WRITTEN,
    markdown_table,
)
from wanbatch.manifests.reading.arrow_rows import ROWS_SCHEMA, UNMERGED_SCHEMA
from wanbatch.manifests.reading.row_model import KNOWN, RULES, ManifestRow
from wanbatch.manifests.records import DATA_SCHEMA, Record, Row, data_schema

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "architecture.md"


def test_names_are_given_once():
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names)


def test_the_documentation_shows_the_table():
    text = DOC.read_text()
    begin, end = "<!-- columns: from manifests/columns.py -->\n", "\n<!-- end of columns -->"
    shown = text[text.index(begin) + len(begin) : text.index(end)]
    assert shown == markdown_table(), "run `make docs` and commit it"


@pytest.mark.parametrize("name", GIVEN)
def test_a_value_of_another_kind_is_refused_with_the_words_of_the_rule(name):
    with pytest.raises(ValidationError):
        ManifestRow.model_validate({name: {"no": "such thing"}})
    assert RULES[name]


def test_records_rows_and_schemas_have_the_columns_of_the_table():
    assert set(GIVEN) == KNOWN
    assert {field.name for field in fields(Row)} >= set(SETTINGS)
    assert {field.name for field in fields(Record)} == {*WRITTEN, "suffix"}
    assert set(ROWS_SCHEMA.names) >= set(SETTINGS)
    assert set(UNMERGED_SCHEMA.names) - set(ROWS_SCHEMA.names) == {"blend_group", "blend_weight"}
    assert {*RESOLVED, *RUN_SETTINGS} <= set(SETTINGS)


def test_what_the_first_release_wrote_is_written_first_and_in_its_order():
    assert DATA_SCHEMA.names == [
        *["id", "image", "prompt", "negative_prompt", "sources", "creativity", "seed", "variant", "width", "height"],
        *["steps", "guidance", "shift", "sampler", "schedule", "sigmas", "step_cache", "model", "revision", "sha256"],
        "manifest_row",
    ]
    assert all(column.since == FIRST_VERSION for column in COLUMNS if column.name in DATA_SCHEMA.names)


@pytest.mark.parametrize("later", [(), LATER])
def test_later_columns_stand_between_the_first_ones_and_the_manifests_own(later):
    schema = data_schema(pa.schema([("note", pa.string())]), later)
    assert schema.names == [*DATA_SCHEMA.names, *later, "note"]
