"""Following a job to its end, by its status and the output folder, never by its log, which proves nothing. No Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from wanbatch.errors import MachineryError
from wanbatch.jobs.cluster.folder_watch import Counts, FolderWatch, RunSeen
from wanbatch.jobs.cluster.job_state import JobState
from wanbatch.jobs.reporting.progress import MAKING, STARTING, MeasuredProgress

POLL_SECONDS = 2.0
MAX_PAUSE_SECONDS = 30.0
LOST_SECONDS = 900.0
"""How long a cluster may not answer before following it is given up; the job itself may go on."""


class Jobs(Protocol):
    """Knows how jobs are; `job_client.ClusterJobs` does."""

    def state(self, submission_id: str) -> JobState | None: ...


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended. counts: of its output folder; None if it cannot be seen from here."""

    state: JobState
    counts: Counts | None

    @property
    def exit_code(self) -> int:
        """As of `wanbatch run`."""
        assert self.state.exit_code is not None
        return self.state.exit_code

    @property
    def explanation(self) -> str | None:
        """What the run said as it failed, or what Ray says of a process that never was; None if there is nothing."""
        if self.state.interpreter is not None:
            return (
                f"{self.state.interpreter}: the cluster's shell does not find this interpreter, or may not run it: "
                "give one that its nodes have with --python"
            )
        lines = [line.strip() for line in self.state.message.splitlines() if line.strip()]
        ours = [line.removeprefix("wanbatch: ") for line in lines if line.startswith("wanbatch: ")]
        refused = [line for line in ours if not line.endswith("says all settings")]
        if refused:
            return refused[-1]
        return lines[0] if lines and self.exit_code not in (0, 130) else None


def follow(
    jobs: Jobs,
    submission_id: str,
    watch: FolderWatch,
    progress: Callable[[int, int], MeasuredProgress],
    note: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> JobEnd:
    """Wait until a job has ended.

    Args:
        jobs: the cluster's.
        submission_id: of the job.
        watch: of its output folder.
        progress: makes what shows the progress, of (images in all, images done before).
        note: is told what else happens, a sentence each.
        clock: seconds of a monotonic clock.
        sleep: waits for some seconds.

    Raises:
        MachineryError: The cluster does not know the job any more, or has not answered for too long.
    """
    shown: _Shown | None = None
    try:
        while True:
            state = _state(jobs, submission_id, note, clock, sleep)
            counts = watch.counts(now=state.has_ended)
            if counts is not None and counts["rows"] is not None and (shown is not None or not state.has_ended):
                if shown is None:
                    shown = _Shown(progress(counts["rows"], counts["done"] + counts["quarantined"]))
                shown.update(counts, watch.run)
            if state.has_ended:
                return JobEnd(state, counts)
            sleep(POLL_SECONDS)
    finally:
        if shown is not None:
            shown.close()


class _Shown:
    """Progress that is shown of what a folder says: what the run does, its workers, its speed, its counts."""

    def __init__(self, progress: MeasuredProgress):
        self._progress = progress
        self._stage = ""
        self._workers: tuple[int, int] | None = None

    def update(self, counts: Counts, run: RunSeen | None) -> None:
        stage = MAKING if run is not None and run.is_making else STARTING
        if stage != self._stage:
            self._progress.stage(stage)
        workers = None if run is None else run.workers
        if workers is not None and workers != self._workers:
            self._progress.workers(*workers)
        self._stage, self._workers = stage, workers
        self._progress.measured(None if run is None else run.speed)
        self._progress.update(counts["done"], counts["quarantined"])

    def close(self) -> None:
        self._progress.close()


def _state(
    jobs: Jobs,
    submission_id: str,
    note: Callable[[str], None],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> JobState:
    """How a job is. A cluster that does not answer is asked again, for a while."""
    begin, pause, lost = clock(), POLL_SECONDS, False
    while True:
        try:
            found = jobs.state(submission_id)
            break
        except MachineryError as error:
            if clock() - begin >= LOST_SECONDS:
                raise MachineryError(
                    f"{error} It has not answered for {LOST_SECONDS:.0f} s; the job may go on: give the same command "
                    "again to attach to it"
                ) from error
            if not lost:
                note("the cluster does not answer; the job may go on, and it is asked again")
            lost = True
        sleep(pause)
        pause = min(MAX_PAUSE_SECONDS, 2 * pause)
    if lost:
        note("the cluster answers again")
    if found is None:
        raise MachineryError(
            f"the cluster does not know job {submission_id} any more, as after its head was started anew; what was "
            "committed is kept: give the same command again to go on"
        )
    return found
