"""`wanbatch submit` looks for the folders of `--source-root` and `--source-fence` before a cluster is asked."""

from __future__ import annotations

import shlex

import pytest
from command_line import invoke
from job_making import picture, write_jsonl

from wanbatch.jobs.cluster.job_entrypoint import problem_with_paths
from wanbatch.jobs.cluster.prepare import prepare_submission
from wanbatch.jobs.cluster.submit import expected_of
from wanbatch.jobs.config.settings import Settings

FLAGS = ("--source-root", "--source-fence")
NOBODY = ("--address", "http://127.0.0.1:9", "--detach")
"""No cluster: who asks it is told that it does not answer, with another exit code."""

ABROAD = "/no-such-folder-here/pictures"
LEFT = f"{ABROAD}: cannot be read from this machine, so that the rows are checked on the cluster first"


@pytest.fixture
def manifest(tmp_path):
    """One of a picture beside it, in a folder of its own."""
    (tmp_path / "rows").mkdir()
    picture(tmp_path / "rows/a.png", 32, 32)
    return write_jsonl(tmp_path / "rows/m.jsonl", [{"image": "a.png"}])


def submit(manifest, *more):
    return invoke("submit", manifest, "--out", "s3://shop/out", "--model", "owner/name", *more)


@pytest.mark.parametrize("flag", FLAGS)
def test_a_folder_that_is_none_is_refused_before_the_cluster_is_asked(manifest, tmp_path, monkeypatch, flag):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "to-nowhere").symlink_to("nowhere")
    beside, below = str(tmp_path / "rows/none"), str(tmp_path / "none")
    for folder in ("none", "rows/m.jsonl", str(manifest), "to-nowhere", beside, below):
        for way in (NOBODY, ("--emit", "slurm"), ("--upload", "s3://shop/up")):
            refused = submit(manifest, flag, folder, *way)
            assert (refused.exit_code, refused.stdout) == (2, ""), refused.output
            assert f"is not a folder: give {flag} an existing one" in refused.stderr, refused.stderr
    assert submit(manifest, flag, "rows", *NOBODY).exit_code == 75


@pytest.mark.parametrize("flag", FLAGS)
def test_a_folder_that_only_nodes_may_see_is_left_to_them_and_found_out_before_anything_is_loaded(
    manifest, tmp_path, flag
):
    link = tmp_path / "link"
    link.symlink_to("/no-such-folder-here")
    for folder in (ABROAD, f"{link}", f"{tmp_path}/none/pictures"):
        printed = submit(manifest, flag, folder, "--emit", "slurm")
        assert printed.exit_code == 0, printed.output
        assert LEFT.replace(ABROAD, folder) in printed.stderr
        assert f"{flag} {folder}" in shlex.join(shlex.split(printed.stdout, comments=True))
    asked = prepare_submission(manifest, tmp_path / "out", Settings(**{flag[2:].replace("-", "_"): ABROAD}))
    told = problem_with_paths(expected_of(asked.submission, seen=False), "node7")
    assert told is not None
    assert told.startswith(f"{ABROAD}: the cluster does not see it (host node7: No such file or directory)")


@pytest.mark.parametrize("flag", FLAGS)
def test_what_is_uploaded_is_here(manifest, flag):
    refused = submit(manifest, flag, ABROAD, "--upload", "s3://shop/up")
    assert refused.exit_code == 2
    assert f"{ABROAD}: is not a folder: give {flag} an existing one" in refused.stderr


def test_a_manifest_that_is_not_there_is_said_wherever_its_sources_are(manifest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = submit("gone.jsonl", "--source-root", ABROAD, *NOBODY)
    assert (refused.exit_code, "gone.jsonl: does not exist" in refused.stderr) == (2, True), refused.output


def test_a_fence_on_a_disk_around_sources_in_a_store_is_refused_without_either(manifest):
    for given in (["s3://shop/m.jsonl", "--source-fence", ABROAD], [manifest, "--source-fence", "s3://shop"]):
        refused = submit(*given, "--emit", "slurm")
        assert (refused.exit_code, "cannot be the fence of sources" in refused.stderr) == (2, True), refused.output


def test_a_folder_in_the_home_folder_is_found(manifest, tmp_path, monkeypatch):
    """As variables and settings files give it, in which no shell resolves `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = prepare_submission(manifest, tmp_path / "out", Settings(source_root="~/rows", model="owner/name"))
    assert asked.manifest is not None
    assert str(asked.manifest.source_root) == str(tmp_path / "rows")
