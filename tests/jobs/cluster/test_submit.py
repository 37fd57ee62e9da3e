"""Which attempt a submission becomes: a new one, the one that runs, the one that has ended. Without a cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wanbatch.errors import UserError
from wanbatch.jobs.cluster import submit as module
from wanbatch.jobs.cluster.job_client import JobExistsError
from wanbatch.jobs.cluster.job_entrypoint import UPLOAD, problem_with_paths
from wanbatch.jobs.cluster.job_state import JobState
from wanbatch.jobs.cluster.submission import Submission
from wanbatch.jobs.cluster.submit import Submitted, expected_of, output_is_seen, submit


class Cluster:
    """A cluster whose jobs end at once."""

    address = "http://head:8265"

    def __init__(self, *states: JobState):
        self.known = {state.id: state for state in states}
        self.submitted: list[tuple[str, dict[str, Any]]] = []
        self.taken: tuple[str, ...] = ()  # ids that another process takes first

    def state(self, submission_id: str) -> JobState | None:
        return self.known.get(submission_id)

    def submit(self, submission_id: str, entrypoint: str, runtime_env: dict, metadata: dict) -> None:
        if submission_id in self.taken:
            raise JobExistsError(submission_id)
        self.submitted.append((submission_id, runtime_env))
        self.known[submission_id] = JobState(submission_id, "SUCCEEDED", exit_code=0)


@pytest.fixture
def asked(tmp_path, monkeypatch) -> Submission:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "shipped_package", lambda: Path("/shipped/wanbatch"))
    return Submission("s3://b/m.jsonl", str(tmp_path / "out"))


@pytest.fixture
def folder(monkeypatch) -> Callable[[int | None], None]:
    """Say how many rows the output folder lacks; None: it is not there."""

    def set_pending(pending: int | None) -> None:
        def status(out: str) -> dict:
            if pending is None:
                raise UserError(f"{out}: is not an output folder")
            return {"rows": 3, "done": 3 - pending, "quarantined": 0, "pending": pending}

        monkeypatch.setattr(module, "status", status)

    set_pending(0)
    return set_pending


def submitted(asked: Submission, cluster: Cluster, **more: Any) -> tuple[Submitted, list[str]]:
    notes: list[str] = []
    return submit(asked, cluster, detach=True, note=notes.append, **more), notes


def test_what_was_never_asked_is_the_first_attempt_and_leaves_a_mark_for_the_cluster(asked, folder, tmp_path):
    cluster = Cluster()
    done, notes = submitted(asked, cluster)
    assert (done.id, done.attached, notes) == (
        asked.id(1),
        False,
        [f"job {asked.id(1)} is submitted to {cluster.address}"],
    )
    [(_, environment)] = cluster.submitted
    assert environment["py_modules"] == ["/shipped/wanbatch"]
    assert len(list((tmp_path / "out/_wanbatch/tmp").glob("mark-*"))) == 1


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_a_job_that_goes_on_is_attached_to(asked, folder, status):
    folder(3)
    cluster = Cluster(JobState(asked.id(1), "FAILED", exit_code=75), JobState(asked.id(2), status))
    done, _ = submitted(asked, cluster)
    assert (done.id, done.attached, cluster.submitted) == (asked.id(2), True, [])


@pytest.mark.parametrize("code", [0, 3])
def test_what_has_ended_for_good_is_not_submitted_again(asked, folder, code):
    cluster = Cluster(JobState(asked.id(1), "SUCCEEDED" if code == 0 else "FAILED", exit_code=code))
    done, [note] = submitted(asked, cluster)
    assert (done.id, cluster.submitted) == (asked.id(1), [])
    assert "has ended before" in note


@pytest.mark.parametrize("pending", [None, 1])
def test_a_folder_that_lacks_rows_again_is_filled_again(asked, folder, pending):
    folder(pending)
    done, _ = submitted(asked, Cluster(JobState(asked.id(1), "SUCCEEDED", exit_code=0)))
    assert done.id == asked.id(2)


@pytest.mark.parametrize(
    ("status", "code"), [("FAILED", 2), ("FAILED", 4), ("FAILED", 5), ("FAILED", 6), ("FAILED", 75), ("STOPPED", 130)]
)
def test_what_did_not_come_to_its_end_goes_on_under_the_next_number(asked, folder, status, code):
    done, notes = submitted(asked, Cluster(JobState(asked.id(1), status, exit_code=code)))
    assert (done.id, done.attached) == (asked.id(2), False)
    assert f"ended as {status}: what it left is gone on with" in notes[0]


def test_a_job_that_another_process_starts_at_this_moment_is_attached_to(asked, folder):
    cluster = Cluster()
    cluster.taken = (asked.id(1),)
    done, _ = submitted(asked, cluster)
    assert (done.id, done.attached) == (asked.id(1), True)


def test_a_folder_that_only_the_cluster_has_is_left_alone_here(asked, folder, tmp_path):
    assert not output_is_seen("/no-such-folder-here/out")
    assert output_is_seen(str(tmp_path / "a/b/out"))
    _, notes = submitted(Submission("s3://b/m.jsonl", "/no-such-folder-here/out"), Cluster())
    assert "is not seen from this machine" in notes[-1]
    assert not Path("/no-such-folder-here").exists()


def test_with_new_run_the_folder_is_not_taken_for_that_of_the_run(asked, folder):
    _, notes = submitted(Submission(asked.manifest, asked.out, ("--new-run",)), Cluster())
    assert "may use another folder" in notes[-1]


def test_a_folder_of_sources_that_holds_the_output_folder_is_the_same_when_the_job_begins(tmp_path):
    """The mark of the output folder is left in it meanwhile, and a run may have begun to write."""
    (tmp_path / "a.png").touch()
    (tmp_path / "m.jsonl").write_text('{"image": "a.png"}\n')
    submission = Submission(str(tmp_path / "m.jsonl"), str(tmp_path / "out"), needed={str(tmp_path): UPLOAD})
    expected = expected_of(submission, seen=True)
    assert (tmp_path / "out").is_dir()
    assert problem_with_paths(expected, "node7") is None
    (tmp_path / "a.png").unlink()
    assert "has another one of this name" in (problem_with_paths(expected, "node7") or "")
