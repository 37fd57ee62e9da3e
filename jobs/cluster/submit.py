"""`wanbatch submit`: starts a job on a cluster, or attaches to the one that is there, and follows it to its end."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from wanbatch.errors import UserError, WanbatchError
from wanbatch.jobs.cluster.folder_watch import FolderWatch
from wanbatch.jobs.cluster.job_client import JobExistsError
from wanbatch.jobs.cluster.job_entrypoint import UPLOAD, content_of, entries_of
from wanbatch.jobs.cluster.job_follow import JobEnd, Jobs, follow
from wanbatch.jobs.cluster.job_state import JobState
from wanbatch.jobs.cluster.package import shipped_package
from wanbatch.jobs.cluster.prepare import output_is_seen
from wanbatch.jobs.cluster.submission import Submission
from wanbatch.jobs.reporting.progress import MeasuredProgress, progress_for
from wanbatch.manifests.dataset.part_files import TMP
from wanbatch.manifests.dataset.status import status
from wanbatch.manifests.dataset.visibility import leave_mark
from wanbatch.manifests.storage.backend import open_backend
from wanbatch.manifests.storage.urls import is_url

MAX_ATTEMPTS = 1000
NEW_RUN = "--new-run"
_log = logging.getLogger(__name__)


class JobsOfCluster(Jobs, Protocol):
    """Starts jobs, too; `job_client.ClusterJobs` does."""

    @property
    def address(self) -> str: ...

    def submit(
        self, submission_id: str, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job that is there. attached: it was there before. end: how it ended; None if it goes on."""

    id: str
    attached: bool
    end: JobEnd | None = None


def submit(
    submission: Submission,
    jobs: JobsOfCluster,
    python: str = "python",
    detach: bool = False,
    progress: Callable[[int, int], MeasuredProgress] = progress_for,
    note: Callable[[str], None] = _log.warning,
) -> Submitted:
    """Have a cluster do what is asked, or attach to the job that does it already.

    Args:
        submission: what is asked.
        jobs: of the cluster.
        python: the interpreter, as the cluster's shell finds it.
        detach: return as soon as the job is there.
        progress: makes what shows the progress, of (images in all, images done before).
        note: is told what happens, a sentence each.

    Raises:
        UserError: The cluster refuses what is asked.
        MachineryError: It does not answer, or the output folder cannot be written to.
    """
    seen = output_is_seen(submission.out)
    attempt, last = latest_attempt(submission, jobs)
    watched = seen and NEW_RUN not in submission.flags
    watch = FolderWatch(submission.out if watched else None)
    if last is not None and (not last.has_ended or (last.is_final and not _is_unfinished(submission.out, watched))):
        name, attached = last.id, True
        note(f"job {name} {'is there already: attached to it' if not last.has_ended else 'has ended before'}")
    else:
        if last is not None:
            note(f"job {last.id} ended as {last.status}: what it left is gone on with")
        name, attached = _start(submission, jobs, attempt + 1, python, seen)
        note(f"job {name} {'is there already: attached to it' if attached else f'is submitted to {jobs.address}'}")
    if not seen:
        note(f"{submission.out}: is not seen from this machine, so that only the job's status is followed")
    elif not watched:
        note(f"{NEW_RUN}: the run may use another folder than {submission.out}: only the job's status is followed")
    if detach:
        return Submitted(name, attached)
    return Submitted(name, attached, follow(jobs, name, watch, progress, note))


def latest_attempt(submission: Submission, jobs: Jobs) -> tuple[int, JobState | None]:
    """The number of the last attempt that the cluster knows, and how it is; 0 and None if there is none."""
    found: JobState | None = None
    for attempt in range(1, MAX_ATTEMPTS):
        state = jobs.state(submission.id(attempt))
        if state is None:
            return attempt - 1, found
        found = state
    raise UserError(f"this was submitted {MAX_ATTEMPTS - 1} times: give --out another folder")


def expected_of(submission: Submission, seen: bool) -> dict[str, Any]:
    """What the job checks on the cluster before it begins.

    Args:
        submission: what is asked.
        seen: whether the output folder can be seen from here; if it is a local one, a mark is left in it.

    Raises:
        MachineryError: The output folder cannot be written to.
    """
    contents = {path: _content(path, grows=os.path.isdir(path)) for path in submission.needed if not is_url(path)}
    if not is_url(submission.manifest):
        contents[submission.manifest] = _content(submission.manifest)
    expected: dict[str, Any] = {"contents": contents}
    if submission.needed:
        expected["remedies"] = {path: remedy for path, remedy in submission.needed.items() if remedy != UPLOAD}
    if seen and not is_url(submission.out):
        host = socket.gethostname()
        try:
            open_backend(submission.out).make_folders([TMP])
        except OSError as error:
            raise UserError(f"{submission.out}: cannot be written to ({error.strerror or error})") from error
        expected |= {"out": submission.out, "host": host, "mark": leave_mark(submission.out, host)}
    return expected


def _start(submission: Submission, jobs: JobsOfCluster, attempt: int, python: str, seen: bool) -> tuple[str, bool]:
    """Start an attempt, unless another process did at this moment: the id, and whether that was so."""
    package = shipped_package()
    name = submission.id(attempt)
    entrypoint = submission.entrypoint(python, expected_of(submission, seen))
    try:
        jobs.submit(name, entrypoint, submission.runtime_env(package), submission.metadata)
    except JobExistsError:
        return name, True
    return name, False


def _is_unfinished(out: str, seen: bool) -> bool:
    """Whether a folder that a job has filled is known to lack rows now, as after it was removed."""
    if not seen:
        return False
    try:
        return status(out)["pending"] != 0
    except UserError:
        return True
    except WanbatchError:
        return False


def _content(path: str, grows: bool = False) -> str | list[list[Any]] | None:
    """What tells a path from another, or what is in a folder that may grow, as one with the output folder in it does.

    None: it is not seen here.
    """
    try:
        return entries_of(path) if grows else content_of(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or os.strerror(error.errno or 0)})") from error
