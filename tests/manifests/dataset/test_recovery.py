"""Opening a folder that was left: nothing that may be data is removed, and what is odd is refused or said."""

import json
import logging
import os

import pytest
from manifest_making import unit_of
from output_folders import orphans, publish, tree, visible

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.dataset import publisher
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.storage.local import LocalBackend


def fill(out, units=5):
    with OutputFolder.open(out, {}) as folder:
        for unit in range(units):
            publish(folder, unit, [f"a{unit}"])


def test_what_no_commit_names_is_set_aside_and_said(out, caplog):
    with OutputFolder.open(out, {}) as folder:
        publish(folder, 0, ["a"])
        write_attempt(folder.path, attempt="orphan", **unit_of(1, ["b"], ["c"]))
    (out / "data/notes.txt").write_text("mine")
    for text in ("first", "second", "third"):
        (out / "data/part-00007.parquet").write_text(text)
        with caplog.at_level(logging.WARNING), OutputFolder.open(out, {}) as folder:
            assert folder.committed().made == {"a"}
        assert "moved to _wanbatch/orphans, since no commit names them: data/part-00007.parquet" in caplog.text
        caplog.clear()
    assert tree(out) == [
        "_wanbatch/commits/00000.json",
        "_wanbatch/run.json",
        "data/notes.txt",
        "data/part-00000.parquet",
        "timings/part-00000.parquet",
    ]
    kept = {name: (out / "_wanbatch/orphans" / name).read_text() for name in orphans(out)}
    assert kept == {
        "data-part-00007.parquet": "first",
        "data-part-00007.2.parquet": "second",
        "data-part-00007.3.parquet": "third",
    }
    events = [json.loads(line) for line in (out / "_wanbatch/log.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["set_aside"] * 3
    assert events[1]["files"] == {"data/part-00007.parquet": "_wanbatch/orphans/data-part-00007.2.parquet"}


def test_parts_without_any_commits_are_refused(out):
    """As a restored backup without `_wanbatch/commits` has them: without this each of them would be taken away."""
    fill(out)
    for path in (out / "_wanbatch/commits").iterdir():
        path.unlink()
    before = tree(out)
    with pytest.raises(UserError, match=r"holds 10 parts .* and no commits in _wanbatch/commits: restore") as caught:
        OutputFolder.open(out, {})
    assert f"`wanbatch repair {out}`" in str(caught.value)
    assert tree(out) == before
    assert orphans(out) == []


def test_a_first_group_cut_short_is_no_reason_to_refuse(out, monkeypatch):
    """Its parts are there and no commit is, as when the driver is killed between the two."""

    def die(backend, records):
        raise KeyboardInterrupt

    monkeypatch.setattr(publisher, "write_commit", die)
    with pytest.raises(KeyboardInterrupt):
        fill(out, 1)
    monkeypatch.undo()
    assert visible(out)[0] == ["a0"]
    fill(out, 3)
    assert visible(out)[0] == ["a0", "a1", "a2"]
    assert orphans(out) == ["data-part-00000.parquet", "timings-part-00000.parquet"]
    assert not (out / "_wanbatch/first-group.json").exists()


def test_an_empty_commit_file_is_damaged(out):
    """As a power cut leaves it on some file systems: its rows are not quietly forgotten."""
    fill(out, 2)
    (out / "_wanbatch/commits/00001.json").write_bytes(b"")
    with pytest.raises(UserError, match=rf"00001\.json: cannot be read .* or run `wanbatch repair {out}`"):
        OutputFolder.open(out, {})


def test_a_run_json_that_was_only_not_seen_is_not_written_over(out, monkeypatch):
    fill(out, 1)
    with OutputFolder.open(out, {}) as folder:
        folder.set_plan({"rows": 9})
    for name in ("data", "timings"):
        (out / name / "part-00000.parquet").unlink()
    before = (out / "_wanbatch/run.json").read_bytes()
    monkeypatch.setattr(LocalBackend, "exists", lambda self, name: False)
    with pytest.raises(MachineryError, match=r"File exists.*run\.json"):
        OutputFolder.open(out, {})
    assert (out / "_wanbatch/run.json").read_bytes() == before


def test_a_link_that_leads_nowhere_is_no_file(out):
    fill(out, 1)
    (out / "data/mine").symlink_to(out / "nothing")
    OutputFolder.open(out, {}).close()
    assert os.path.islink(out / "data/mine")


def test_a_rejected_attempt_is_not_tried_for_ever(out, monkeypatch):
    """A fault of our own verification, or of the mount, rejects every attempt that is written."""
    monkeypatch.setattr(publisher, "expected_schema", lambda kind, data: None)
    with OutputFolder.open(out, {}) as folder:
        for number in range(publisher.MAX_REJECTED):
            attempt = write_attempt(out, attempt=f"t{number}", **unit_of(0, ["a"]))
            (refused,) = folder.publish_many([attempt])
            assert "is not what was written" in str(refused.error)
        attempt = write_attempt(out, attempt="last", **unit_of(0, ["a"]))
        with pytest.raises(MachineryError, match=r"17 attempts in a row .* the last: .*its columns are not those of"):
            folder.publish_many([attempt])


def test_a_failed_read_is_no_damaged_attempt(out, monkeypatch):
    """A worker's files that cannot be read are not thrown away: the run ends, and may be started again."""

    def fail(self, name):
        raise OSError(116, "Stale file handle", self.location(name))

    with OutputFolder.open(out, {}) as folder:
        publish(folder, 0, ["a"])
        attempt = write_attempt(out, attempt="t", **unit_of(1, ["b"]))
        monkeypatch.setattr(LocalBackend, "sha256", fail)
        with pytest.raises(MachineryError, match=rf"Stale file handle\) at {out}/_wanbatch/tmp/00001-t-"):
            folder.publish_many([attempt])
        monkeypatch.undo()
        assert len(os.listdir(out / "_wanbatch/tmp")) == 2
        assert folder.publish_many([attempt]) == []


def test_what_a_failed_commit_had_moved_is_moved_back_not_removed(out, monkeypatch):
    def fail(backend, records):
        raise OSError(5, "Input/output error", "commits")

    with OutputFolder.open(out, {}) as folder:
        attempt = write_attempt(out, attempt="t", **unit_of(0, ["a"], ["b"]))
        monkeypatch.setattr(publisher, "write_commit", fail)
        with pytest.raises(MachineryError, match="Input/output error"):
            folder.publish(attempt)
        monkeypatch.undo()
        assert visible(out) == ([], [], [])
        folder.publish(attempt)
    assert visible(out) == (["a"], ["a"], ["b"])


def test_nothing_more_is_published_when_it_is_open_what_is_committed(out, monkeypatch):
    """The commit was written and its folder could not be synced: another record would get the same number."""
    real = publisher.write_commit

    def written_and_failed(backend, records):
        real(backend, records)
        raise OSError(5, "Input/output error", "commits")

    with OutputFolder.open(out, {}) as folder:
        monkeypatch.setattr(publisher, "write_commit", written_and_failed)
        with pytest.raises(MachineryError, match="Input/output error"):
            publish(folder, 0, ["a"])
        monkeypatch.undo()
        with pytest.raises(MachineryError, match="run the same command again"):
            publish(folder, 1, ["b"])
    with OutputFolder.open(out, {}) as folder:
        assert folder.committed().made == {"a"}
        publish(folder, 1, ["b"])
    assert visible(out)[0] == ["a", "b"]
