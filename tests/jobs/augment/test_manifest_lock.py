"""Two commands that add rows to one manifest at once: none loses what the other added."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest
from augment_making import RECIPE, fill_folder, folder_by_class, rows_of
from command_line import invoke, refused

from wanbatch.jobs.augment.checking import check_folder
from wanbatch.jobs.augment.checks_settings import Checks
from wanbatch.jobs.augment.manifest_file import write_manifest
from wanbatch.jobs.augment.manifest_lock import locked_manifest
from wanbatch.jobs.augment.regeneration import regenerate, rows_again
from wanbatch.manifests.storage.lock_file import LockFile

AUGMENT = [sys.executable, "-m", "wanbatch.jobs.cli", "augment", "recipe.toml", "--out", "rows.jsonl"]


@pytest.fixture
def pictures(tmp_path) -> Path:
    Path("recipe.toml").write_text(RECIPE, encoding="utf-8")
    return folder_by_class(tmp_path / "set", {"train/disc": 3, "train/box": 2})


def never(line: str) -> None:
    raise AssertionError(line)


def test_a_command_waits_for_the_other_and_keeps_the_rows_that_it_added(pictures):
    """The other one is this process, which adds the rows that `check --regenerate` would."""
    made = invoke("augment", "recipe.toml", "--out", "rows.jsonl")
    assert made.exit_code == 0, made.output
    with locked_manifest(Path("rows.jsonl"), never):
        before = rows_of(Path("rows.jsonl"))
        command = subprocess.Popen(AUGMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert command.stderr is not None
        said = command.stderr.readline()
        assert said == "rows.jsonl: another command of wanbatch writes it: waiting until it is done\n"
        added = rows_again(before, {before[0]["id"]}, 1)
        write_manifest(Path("rows.jsonl"), [*before, *added])
    _, rest = command.communicate()
    assert (command.returncode, rest) == (0, "")
    assert {row["id"] for row in rows_of(Path("rows.jsonl"))} == {row["id"] for row in [*before, *added]}
    assert [name for name in os.listdir() if "lock" in name] == []


def test_pictures_that_are_made_again_wait_for_a_recipe_that_grows(pictures, tmp_path):
    """Rows that `augment` adds while `check --regenerate` is at work are in the manifest afterwards, too."""
    manifest, out = Path("rows.jsonl"), tmp_path / "out"
    invoke("augment", "recipe.toml", "--out", "rows.jsonl")
    fill_folder(out, manifest)  # its pictures are of one colour, and rejected
    report = check_folder(out, Checks())
    waits = Event()
    before = rows_of(manifest)
    new = {**before[0], "id": before[0]["id"] + "9", "seed": 1}

    def again() -> None:
        regenerate(out, report, 1, lambda: report, lambda *_: None, lambda line: waits.set())

    thread = Thread(target=again)
    with locked_manifest(manifest, never):
        thread.start()
        assert waits.wait(600)
        write_manifest(manifest, [*before, new])
    thread.join()
    after = {row["id"] for row in rows_of(manifest)}
    assert after > {row["id"] for row in before} | {new["id"]}
    assert [row["regeneration"] for row in rows_of(manifest)].count(1) == report.rejected > 0


def test_a_lock_is_of_the_file_that_has_its_name(tmp_path):
    """Who waited for a file that its holder removed does not share the lock with the maker of the next file."""
    path = tmp_path / "a" / "lock"
    first, second = LockFile(path), LockFile(path)
    assert first.take()
    assert not second.take()
    first.close(remove=True)
    third = LockFile(path)
    assert third.take()
    assert not second.take()
    third.close(remove=True)
    assert second.take()
    assert path.is_file()
    (tmp_path / "a" / "other").touch()
    second.close(remove=True)
    assert [one.name for one in path.parent.iterdir()] == ["other"]
    alone = LockFile(tmp_path / "b" / "c" / "lock")
    assert alone.take()
    alone.close(remove=True)
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def test_a_manifest_whose_folder_is_none_is_refused_without_waiting(pictures):
    Path("file").write_bytes(b"")
    said = refused(invoke("augment", "recipe.toml", "--out", "file/rows.jsonl"))
    assert said == ["file/rows.jsonl: cannot be written (File exists): choose another file"]
