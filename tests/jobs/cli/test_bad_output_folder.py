"""Output folders that cannot be used: one message, and nothing in them changes."""

from __future__ import annotations

import pytest
from command_line import GOOD, invoke, refused
from job_making import snapshot


def test_a_folder_with_other_files(model_folder, manifest, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("three years of work")
    [message] = refused(invoke("run", manifest(GOOD), "--out", out, "--model", model_folder))
    assert message == f"{out}: holds other files: choose a new or empty output folder"
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_a_file_in_place_of_the_folder(model_folder, manifest, tmp_path):
    (tmp_path / "out").write_text("a file")
    [message] = refused(invoke("run", manifest(GOOD), "--out", "out", "--model", model_folder))
    assert "is not a folder: choose another output folder" in message
    assert (tmp_path / "out").read_text() == "a file"


def test_a_folder_of_a_run_with_other_settings(mixed, model_folder):
    before = snapshot(mixed.out)
    options = ["--model", model_folder, "--width", 32, "--height", 32, "--steps", 5, "--seed", 9]
    [message] = refused(invoke("run", mixed.manifest, "--out", mixed.out, *options))
    assert f"{mixed.out}: was filled with other settings: steps was 2, now 5." in message
    assert "choose another output folder" in message
    assert snapshot(mixed.out) == before


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"]])
def test_status_of_something_else(tmp_path, arguments):
    (tmp_path / "folder").mkdir()
    for name in ("folder", "nowhere"):
        [message] = refused(invoke(*arguments, name))
        assert message.startswith(f"{name}: is not an output folder of wanbatch")


@pytest.mark.parametrize("name", ["folder", "nowhere"])
def test_report_of_something_else(tmp_path, name):
    (tmp_path / "folder").mkdir()
    [message] = refused(invoke("report", name))
    assert message.startswith(f"{name}: is not an output folder of wanbatch")
    [message] = refused(invoke("report", name, "--sheet", "sheet.png"))
    assert message.startswith(f"{name}: has no pictures")


@pytest.mark.parametrize("target", ["folder", "blocked/sheet.png", "/proc/sheet.png"])
def test_a_report_that_cannot_be_written(mixed, tmp_path, target):
    (tmp_path / "blocked").write_text("a file")
    (tmp_path / "folder").mkdir()
    [message] = refused(invoke("report", mixed.out, "--sheet", target))
    assert message.startswith(f"{target}: cannot be written")
