"""What a job looks at on the cluster before it begins."""

from __future__ import annotations

import os
import subprocess
import sys

from wanbatch.jobs.cluster.job_entrypoint import (
    ENTRIES,
    content_of,
    entries_of,
    forget_node_settings,
    problem_with_output,
    problem_with_paths,
)
from wanbatch.manifests.dataset.visibility import leave_mark


def test_a_path_that_is_not_there_is_refused_with_the_remedy(tmp_path):
    path = str(tmp_path / "m.jsonl")
    expected = {"contents": {path: None}}
    message = problem_with_paths(expected, "node7")
    assert message is not None
    assert message.startswith(f"{path}: the cluster does not see it (host node7: No such file")
    assert "--upload s3://" in message
    message = problem_with_paths({**expected, "remedies": {path: "share it"}}, "node7")
    assert message is not None
    assert message.endswith("): share it")


def test_another_file_of_the_same_name_is_refused(tmp_path):
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"prompt": "a"}\n')
    content = content_of(str(manifest))
    assert problem_with_paths({"contents": {str(manifest): content}}, "node7") is None
    manifest.write_text('{"prompt": "b"}\n')
    assert "has another one of this name" in (
        problem_with_paths({"contents": {str(manifest): content}}, "node7") or ""
    )


def test_folders_are_told_apart_by_their_names_and_sizes(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"12")
    before = content_of(str(tmp_path))
    (tmp_path / "a.parquet").write_bytes(b"21")
    assert content_of(str(tmp_path)) == before
    (tmp_path / "b.parquet").write_bytes(b"")
    assert content_of(str(tmp_path)) != before


def test_a_folder_that_grew_is_the_same_and_one_without_its_entries_is_another(tmp_path):
    for number in range(ENTRIES + 9):
        (tmp_path / f"{number}.png").touch()
    expected = {"contents": {str(tmp_path): entries_of(str(tmp_path))}}
    (tmp_path / "out").mkdir()
    (tmp_path / "7.png").write_bytes(b"more")
    assert problem_with_paths(expected, "node7") is None
    for entry in tmp_path.iterdir():
        os.utime(entry, (0, 0))
    settled = {"contents": {str(tmp_path): entries_of(str(tmp_path))}}
    (tmp_path / "more.png").touch()
    assert problem_with_paths(settled, "node7") is None
    for entry in tmp_path.glob("*.png"):
        entry.write_bytes(b"longer")
    assert "has another one of this name" in (problem_with_paths(settled, "node7") or "")
    assert problem_with_paths(expected, "node7") is None
    for number in range(0, ENTRIES + 9, 2):
        (tmp_path / f"{number}.png").unlink()
    assert "has another one of this name" in (problem_with_paths(expected, "node7") or "")
    expected = {"contents": {str(tmp_path / "no"): [["1.png", -1]]}}
    assert "the cluster does not see it" in (problem_with_paths(expected, "node7") or "")


def test_an_output_folder_of_the_same_name_elsewhere_is_refused(tmp_path):
    (tmp_path / "here/_wanbatch/tmp").mkdir(parents=True)
    (tmp_path / "there/_wanbatch/tmp").mkdir(parents=True)
    mark = leave_mark(tmp_path / "here", "laptop")
    there = {"out": str(tmp_path / "there"), "mark": mark, "host": "laptop", "patience": 0.0}
    assert "another folder of this name" in (problem_with_output(there, "node7") or "")
    assert problem_with_output(there | {"out": str(tmp_path / "here")}, "node7") is None
    assert problem_with_output({}, "node7") is None


def test_settings_of_the_node_are_left_out_with_a_warning():
    environment = {"WANBATCH_STEPS": "3", "HOME": "/root"}
    [warning] = forget_node_settings(environment)
    assert "WANBATCH_STEPS" in warning
    assert environment == {"HOME": "/root"}


def test_a_python_without_the_packages_is_one_message(tmp_path):
    """An interpreter that has nothing installed stands for an image without wanbatch's dependencies."""
    from wanbatch.jobs.cluster.package import shipped_package

    shipped = shipped_package(cache=tmp_path / "cache")
    code = "import runpy, sys; sys.argv = ['x', '{}', 'run']; "
    code += "runpy.run_module('wanbatch.jobs.cluster.job_entrypoint', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(shipped.parent)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("wanbatch: the cluster's Python")
    assert "--python" in line
    code = code.replace("'run'", "'--version'")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, "an interpreter that has them; " + done.stderr
