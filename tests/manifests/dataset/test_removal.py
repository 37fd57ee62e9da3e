"""Ids that leave a folder: all by one commit, and whatever dies in between, each is there or gone for good."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from killed_removal import AFTER, BEFORE, require_all_or_nothing
from manifest_making import unit_of
from output_folders import publish, tree, visible

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.dataset import rewrite
from wanbatch.manifests.dataset.committed_parts import CommittedParts
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.repair import repair
from wanbatch.manifests.dataset.status import status
from wanbatch.manifests.storage.local import LocalBackend

SUPPORT = Path(__file__).parents[2] / "support"


@pytest.fixture
def filled(out):
    with OutputFolder.open(out, {}) as folder:
        publish(folder, 0, ["a", "b"], ["c"], passthrough=pa.table({"label": [1, 2]}))
        publish(folder, 1, ["d"], passthrough=pa.table({"label": [3]}))
    return out


def test_ids_leave_images_timings_and_failures_alike(filled):
    whole = pq.read_table(filled / "data/part-00000.parquet")
    with OutputFolder.open(filled, {}) as folder:
        before = folder.committed().content_digest
        folder.remove({"b", "c", "d"})
        done = folder.committed()
        assert (done.made, dict(done.failed), dict(done.where)) == ({"a"}, {}, {"a": 0})
        assert done.content_digest != before
        assert done.next_unit == 3, "the number of the commit is no unit's"
    assert visible(filled) == (["a"], ["a"], [])
    assert pq.read_table(filled / "data/part-00000.parquet").equals(whole.slice(0, 1), check_metadata=True)
    assert [name for name in tree(filled) if not name.startswith("_wanbatch")] == [
        "data/part-00000.parquet",
        "timings/part-00000.parquet",
    ]
    assert CommittedParts.open(filled).finished == {"a"}
    assert repair(filled).whole
    event = json.loads((filled / "_wanbatch/log.jsonl").read_text().splitlines()[-1])
    assert (event["event"], event["rows"]) == ("rows_removed", 3)


def test_what_left_can_be_made_again(filled):
    with OutputFolder.open(filled, {}) as folder:
        folder.remove({"b", "c"})
        publish(folder, folder.committed().next_unit, ["b", "c"], passthrough=pa.table({"label": [7, 8]}))
    with OutputFolder.open(filled, {}) as folder:
        assert (folder.committed().made, folder.committed().where["b"]) == (set("abcd"), 3)
    labels = pq.read_table(filled / "data").to_pydict()
    assert dict(zip(labels["id"], labels["label"], strict=True)) == {"a": 1, "b": 7, "c": 8, "d": 3}


@pytest.mark.parametrize("leaving", ["a", "ab", "d", "abd"])
def test_columns_change_after_parts_have_gone(filled, leaving):
    """The part that is looked at for its columns may be one of them, and so may all."""
    new = pa.table({"label": [2.5], "tag": ["x"]})
    with OutputFolder.open(filled, {}) as folder:
        schema = folder.common_columns(new.schema)
        folder.remove(set(leaving))
        folder.change_columns(schema)
        unit = unit_of(folder.committed().next_unit, ["e"], passthrough=new)
        folder.publish(write_attempt(filled, attempt="t", **unit))
    left = sorted({*"abd"} - {*leaving})
    rows = {row["id"]: (row["label"], row["tag"]) for row in pq.read_table(filled / "data").to_pylist()}
    labels = {"a": 1.0, "b": 2.0, "d": 3.0}
    assert rows == {name: (labels[name], None) for name in left} | {"e": (2.5, "x")}
    with OutputFolder.open(filled, {}) as folder:
        assert folder.common_columns(new.schema) == schema


def test_a_damaged_part_is_named_with_the_remedy_and_nothing_leaves(filled):
    part = filled / "data/part-00000.parquet"
    raw = bytearray(part.read_bytes())
    raw[40] ^= 255  # in the first page, which has a checksum
    part.write_bytes(raw)
    before = tree(filled)
    with (
        OutputFolder.open(filled, {}) as folder,
        pytest.raises(UserError, match=rf"part-00000.parquet: cannot be read .*: run `wanbatch repair {filled}` and"),
    ):
        folder.remove({"a", "d"})
    assert tree(filled) == before
    assert repair(filled).ids == ("a", "b")
    with OutputFolder.open(filled, {}) as folder:
        folder.remove({"d"})
    assert visible(filled) == ([], [], ["c"])
    assert status(filled)["done"] == 0


def test_parts_are_written_several_at_a_time_and_each_is_told_of(filled, monkeypatch):
    """The two of them wait for each other; one after the other they would wait in vain."""
    both = threading.Barrier(2)
    written, told = rewrite.write_part, []

    def write_part(*arguments):
        both.wait(timeout=60)
        return written(*arguments)

    monkeypatch.setattr(rewrite, "write_part", write_part)
    monkeypatch.setattr(LocalBackend, "max_concurrency", 2)
    with OutputFolder.open(filled, {}) as folder:
        folder.remove({"b", "d"}, lambda *counts: told.append(counts))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]  # two are written again, two go
    assert visible(filled) == (["a"], ["a"], ["c"])


def test_an_error_while_several_are_written_leaves_nothing_behind(filled, monkeypatch):
    written = rewrite.write_part

    def write_part(backend, name, *more):
        if "replaced-2" in name:
            raise OSError(28, "No space left on device")
        return written(backend, name, *more)

    with OutputFolder.open(filled, {}) as folder:
        publish(folder, 2, ["e", "f"], passthrough=pa.table({"label": [4, 5]}))
        publish(folder, 3, ["g", "h"], passthrough=pa.table({"label": [6, 7]}))
        before = tree(filled)
        monkeypatch.setattr(rewrite, "write_part", write_part)
        with pytest.raises(MachineryError, match="No space left"):
            folder.remove({"b", "e", "g"})
        assert tree(filled) == before
        monkeypatch.undo()
    with OutputFolder.open(filled, {}) as folder:
        folder.remove({"b", "e", "g"})
    assert visible(filled)[0] == ["a", "d", "f", "h"]


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_every_file_operation(tmp_path, step):
    command = [sys.executable, SUPPORT / "killed_removal.py", tmp_path, str(step)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(runs) * step > 25
    require_all_or_nothing(runs)
    settled = [[made, made, failed] for made, failed in (BEFORE, AFTER)]
    torn = [killed for killed, *_ in runs if killed not in settled]
    assert torn, "some were killed while parts took the names of others"
