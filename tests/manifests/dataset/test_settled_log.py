"""Folders that are read while their run replaces parts: commits say already what the parts are only about to be."""

from __future__ import annotations

import pytest
from manifest_making import unit_of
from output_folders import publish, visible

from wanbatch.errors import UserError
from wanbatch.manifests.dataset import settled_log
from wanbatch.manifests.dataset.committed_parts import CommittedParts
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.storage.local import LocalBackend


@pytest.fixture
def half(out, monkeypatch):
    """A folder whose run is between the commit of a replaced data part and its taking the old one's name."""

    def ended(*given: object) -> None:
        raise KeyboardInterrupt

    with OutputFolder.open(out, {}) as folder:
        publish(folder, 0, ["a", "b"])
        attempt = write_attempt(out, attempt="n", **unit_of(1, ["b"]))
        with monkeypatch.context() as patched:
            patched.setattr(LocalBackend, "replace", ended)
            with pytest.raises(KeyboardInterrupt):
                folder.publish(attempt, replace=True)
    assert visible(out)[0] == ["a", "b", "b"]
    return out


def ids(out) -> list[str]:
    table = CommittedParts.open(out).table("data", ["id"])
    assert table is not None
    return sorted(table["id"].to_pylist())


def test_a_look_in_between_is_taken_again(half, monkeypatch):
    """The run goes on while the look waits."""
    monkeypatch.setattr(settled_log.time, "sleep", lambda seconds: OutputFolder.open(half, {}).close())
    held = committed_rows(str(half))
    assert held is not None
    assert (held.images, held.parts) == (2, ("data/part-00000.parquet", "data/part-00001.parquet"))
    assert ids(half) == ["a", "b"]


def test_a_look_at_commits_of_a_moment_ago_is_taken_again(out, monkeypatch):
    """The run commits, and removes the part, after the commits are read."""
    with OutputFolder.open(out, {}) as folder:
        publish(folder, 0, ["a"])
        sizes, calls = LocalBackend.sizes, []

        def overtaken(backend: LocalBackend, name: str) -> dict[str, int]:
            calls.append(name)
            if calls == ["_wanbatch/commits", "data"]:
                folder.publish(write_attempt(out, attempt="n", **unit_of(1, ["a"])), replace=True)
            return sizes(backend, name)

        with monkeypatch.context() as patched:
            patched.setattr(LocalBackend, "sizes", overtaken)
            held = committed_rows(str(out))
    assert held is not None
    assert (held.images, held.parts) == (1, ("data/part-00001.parquet",))


def test_what_a_run_left_so_when_it_was_ended_is_told_from_damage(half, monkeypatch):
    monkeypatch.setattr(settled_log, "PAUSE_SECONDS", 0.0)
    for look in (committed_rows, CommittedParts.open):
        with pytest.raises(UserError, match="a run is replacing it: wait for that, or") as caught:
            look(str(half))
        assert "repair" not in str(caught.value)
    OutputFolder.open(half, {}).close()
    assert ids(half) == ["a", "b"]


def test_damage_is_told_at_once(half, monkeypatch):
    (half / "timings/part-00001.parquet").unlink()
    monkeypatch.setattr(settled_log.time, "sleep", lambda seconds: pytest.fail("nothing is waited for"))
    with pytest.raises(UserError, match="restore it, or run `wanbatch repair"):
        CommittedParts.open(half)
