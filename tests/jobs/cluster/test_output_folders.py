"""`wanbatch submit` looks at the output folder, as far as this machine sees it, before a cluster is asked."""

from __future__ import annotations

import pytest
from command_line import invoke
from example_rows import MIXED
from job_making import snapshot, write_jsonl

NOBODY = ["--address", "http://127.0.0.1:9"]
"""No cluster: who asks it is told that it does not answer, with another exit code."""


def submit(manifest, out, model, *more):
    options = ["--out", out, "--model", model, "--width", 32, "--height", 32, "--steps", 2, "--seed", 9]
    return invoke("submit", manifest, *options, *more)


@pytest.mark.parametrize("way", [["--detach", *NOBODY], NOBODY, ["--emit", "slurm"]])
@pytest.mark.parametrize(
    ("more", "told"), [(["--steps", 5], "steps was 2, now 5"), (["--format", "jpeg"], 'format was "png", now "jpeg"')]
)
def test_other_settings_are_refused_here(mixed, model_folder, way, more, told):
    before = snapshot(mixed.out)
    done = submit(mixed.manifest, mixed.out, model_folder, *more, *way)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert told in done.stderr
    assert snapshot(mixed.out) == before


def test_the_same_settings_get_to_the_cluster(mixed, model_folder):
    done = submit(mixed.manifest, mixed.out, model_folder, "--detach", *NOBODY)
    assert done.exit_code == 75, done.output
    assert "on the cluster first" not in done.stderr
    for more in (["--new-run", "--steps", 5], []):
        printed = submit(mixed.manifest, mixed.out, model_folder, *more, "--emit", "slurm")
        assert printed.exit_code == 0, printed.output


def test_rows_that_are_gone_are_refused_here_unless_they_may_leave(mixed, model_folder, sources):
    fewer = write_jsonl(sources / "submitted.jsonl", MIXED[:-1])
    refused = submit(fewer, mixed.out, model_folder, "--detach", *NOBODY)
    assert (refused.exit_code, "holds 2 images that" in refused.stderr) == (2, True), refused.output
    printed = submit(fewer, mixed.out, model_folder, "--drop-removed", "--emit", "slurm")
    assert (printed.exit_code, "--drop-removed" in printed.stdout) == (0, True), printed.output


def test_of_a_model_that_is_not_here_what_every_model_shares_is_compared(mixed):
    refused = submit(mixed.manifest, mixed.out, "owner/name", "--seed", 10, "--detach", *NOBODY)
    assert (refused.exit_code, "seed was 9, now 10" in refused.stderr) == (2, True), refused.output
    left = f"{mixed.out}: what of it depends on manifest and model is compared on the cluster first"
    for more, noted in (((), True), (("--new-run", "--seed", 10), False)):
        done = submit(mixed.manifest, mixed.out, "owner/name", *more, "--emit", "slurm")
        assert (done.exit_code, left in done.stderr) == (0, noted), done.output
    kept = submit(mixed.manifest, mixed.out, "owner/name", "--creativity-steps", "keep", "--emit", "slurm")
    assert kept.exit_code == 0, kept.output


def test_a_folder_that_this_machine_does_not_see_is_left_to_the_cluster(mixed, model_folder, tmp_path):
    out = "/no-such-folder-here/out"
    left = f"{out}: is not seen from this machine, so that what it holds is compared on the cluster first"
    assert left in submit(mixed.manifest, out, model_folder, "--emit", "slurm").stderr
    assert (
        "on the cluster first" not in submit(mixed.manifest, tmp_path / "new", model_folder, "--emit", "slurm").stderr
    )
