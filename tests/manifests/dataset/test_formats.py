"""A folder says which of its records a version of wanbatch must know, and one that does not know them refuses it."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from output_folders import publish, tree

from wanbatch.errors import UserError
from wanbatch.manifests.dataset import commit_log
from wanbatch.manifests.dataset.committed_parts import CommittedParts
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.repair import repair
from wanbatch.manifests.dataset.seen_folder import SeenFolder
from wanbatch.manifests.dataset.status import committed_rows, held_ids, status

READERS = (
    status,
    held_ids,
    committed_rows,
    repair,
    CommittedParts.open,
    lambda out: SeenFolder.look_at(out, {}),
    lambda out: OutputFolder.open(out, {}),
)


@pytest.fixture
def filled(out):
    with OutputFolder.open(out, {}) as folder:
        folder.set_plan({"rows": 3})
        publish(folder, 0, ["a", "b"], ["c"])
    return out


def formats(out) -> list[int | None]:
    """Of all commit records, in their order."""
    files = sorted((out / "_wanbatch/commits").iterdir())
    return [json.loads(line).get("format") for file in files for line in file.read_bytes().splitlines()]


def test_only_a_folder_that_rows_have_left_needs_a_version_that_knows_of_it(filled):
    assert formats(filled) == [None]
    with OutputFolder.open(filled, {}) as folder:
        publish(folder, 1, ["d"])
    assert formats(filled) == [None, None]
    with OutputFolder.open(filled, {}) as folder:
        folder.remove({"a"})
    assert formats(filled) == [None, None, 2]
    assert json.loads((filled / "_wanbatch/run.json").read_bytes())["format"] == 1


@pytest.mark.parametrize("reader", READERS)
def test_a_version_that_does_not_know_a_format_refuses_the_folder_and_changes_nothing(filled, monkeypatch, reader):
    with OutputFolder.open(filled, {}) as folder:
        folder.remove({"a"})
    if reader is repair:  # which mends files, but not in a folder that it cannot read
        (filled / "_wanbatch/commits/00000.json").write_bytes(b"{")
    before = tree(filled)
    monkeypatch.setattr(commit_log, "NEWEST_FORMAT", 1)
    says = r"commits/00001.json: is of format 2, as newer versions .*, and this one reads 1 at most: use that"
    with pytest.raises(UserError, match=says):
        reader(filled)
    assert tree(filled) == before


def test_the_next_format_is_refused_by_this_version_and_read_by_one_that_knows_it(filled, monkeypatch):
    with OutputFolder.open(filled, {}) as folder:
        folder.remove({"a"})
    record = filled / "_wanbatch/commits/00001.json"
    record.write_text(json.dumps({**json.loads(record.read_bytes()), "format": commit_log.NEWEST_FORMAT + 1}))
    with pytest.raises(UserError, match="use that version or a later one"):
        status(filled)
    monkeypatch.setattr(commit_log, "NEWEST_FORMAT", commit_log.NEWEST_FORMAT + 1)
    assert (status(filled)["done"], held_ids(filled)) == (1, ({"b"}, {"b", "c"}))
    assert pq.read_table(filled / "data").column("id").to_pylist() == ["b"]


@pytest.mark.parametrize("form", [0, -1, "2", None, 1.5])
def test_what_is_no_format_is_refused(filled, form):
    record = filled / "_wanbatch/commits/00000.json"
    record.write_text(json.dumps({**json.loads(record.read_bytes()), "format": form}))
    with pytest.raises(UserError, match="was written by another version of wanbatch"):
        status(filled)


def test_rows_that_left_before_records_had_a_format_stay_away(filled):
    with OutputFolder.open(filled, {}) as folder:
        folder.remove({"a"})
    record = filled / "_wanbatch/commits/00001.json"
    told = json.loads(record.read_bytes())
    del told["format"]
    record.write_text(json.dumps(told))
    assert status(filled)["done"] == 1
