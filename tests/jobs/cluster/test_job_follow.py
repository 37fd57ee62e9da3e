"""Following a job: its status and folder decide, lost connections are survived, exit codes are those of the run."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from output_folders import publish

from wanbatch.errors import MachineryError
from wanbatch.jobs.cluster.folder_watch import FolderWatch
from wanbatch.jobs.cluster.job_follow import LOST_SECONDS, POLL_SECONDS, JobEnd, follow
from wanbatch.jobs.cluster.job_state import JobState, exit_code_of, missing_interpreter
from wanbatch.jobs.cluster.submission import Submission
from wanbatch.jobs.reporting.progress import JsonLines
from wanbatch.jobs.reporting.run_log import events_of_last_run
from wanbatch.manifests.dataset.event_log import LOG, Speed, speed_of_run
from wanbatch.manifests.dataset.folder import OutputFolder


class ScriptedJobs:
    """Answers in turn; an exception is raised, and the last answer is repeated."""

    def __init__(self, answers: Iterable[object]):
        self.answers = list(answers)

    def state(self, submission_id: str) -> JobState | None:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        assert answer is None or isinstance(answer, JobState)
        return answer


class Shown:
    """Progress that remembers."""

    def __init__(self, total: int, before: int):
        self.seen: list[tuple[int, int]] = []
        self.total, self.before, self.closed = total, before, False

    def stage(self, text: str) -> None: ...

    def workers(self, wanted: int, placed: int) -> None: ...

    def measured(self, speed: Speed | None) -> None: ...

    def update(self, made: int, failed: int) -> None:
        self.seen.append((made, failed))

    def close(self) -> None:
        self.closed = True


class Folder(FolderWatch):
    """A folder in which one more picture is made between two looks."""

    def __init__(self, rows: int):
        super().__init__(None)
        self.rows, self.done = rows, -1

    def counts(self, now: bool = False) -> dict:
        self.done = min(self.rows, self.done + 1)
        return {"rows": self.rows, "done": self.done, "quarantined": 0}


RUNNING, DONE = JobState("j", "RUNNING"), JobState("j", "SUCCEEDED", exit_code=0)


def followed(answers: Iterable[object], watch: FolderWatch | None = None) -> tuple[JobEnd, list[str], list[Shown]]:
    now, notes, shown = [0.0], [], []

    def sleep(seconds: float) -> None:
        assert seconds >= POLL_SECONDS
        now[0] += seconds

    def progress(total: int, before: int) -> Shown:
        shown.append(Shown(total, before))
        return shown[-1]

    end = follow(
        ScriptedJobs(answers), "j", watch or FolderWatch(None), progress, notes.append, lambda: now[0], sleep
    )
    return end, notes, shown


def test_progress_is_what_the_folder_holds():
    end, notes, [shown] = followed([RUNNING, RUNNING, DONE], Folder(3))
    assert shown.seen == [(0, 0), (1, 0), (2, 0)]
    assert (shown.total, shown.closed, notes, end.exit_code) == (3, True, [], 0)


def test_a_lost_connection_is_told_once_and_survived():
    lost = MachineryError("no cluster answers")
    end, notes, _ = followed([RUNNING, lost, lost, lost, RUNNING, DONE])
    assert end.exit_code == 0
    assert [note.partition(";")[0] for note in notes] == [
        "the cluster does not answer",
        "the cluster answers again",
    ]


def test_a_cluster_that_is_gone_for_good_ends_it_with_what_to_do():
    with pytest.raises(MachineryError, match=f"not answered for {LOST_SECONDS:.0f} s.*same command"):
        followed([RUNNING, MachineryError("no cluster answers.")])


def test_a_job_that_the_cluster_forgot_ends_it_with_what_to_do():
    with pytest.raises(MachineryError, match=r"does not know job j any more.*same command"):
        followed([RUNNING, None])


@pytest.mark.parametrize(
    ("status", "driver", "message", "code"),
    [
        ("RUNNING", None, "", None),
        ("PENDING", None, "", None),
        ("SUCCEEDED", 0, "", 0),
        ("FAILED", 3, "", 3),
        ("FAILED", 6, "", 6),
        ("FAILED", 130, "", 130),
        ("FAILED", 1, "", 1),
        ("FAILED", 127, "", 2),
        ("FAILED", None, "Job entrypoint command failed with exit code 126, last", 2),
        ("FAILED", None, "Job entrypoint command failed with exit code 5, last", 5),
        ("FAILED", None, "runtime_env setup failed", 75),
        ("FAILED", -9, "", 75),
        ("FAILED", 137, "", 75),
        ("STOPPED", None, "", 130),
    ],
)
def test_exit_codes_are_those_of_the_run(status, driver, message, code):
    assert exit_code_of(status, driver, message) == code


def test_what_the_run_said_is_told_and_nothing_else_of_its_log():
    log = "failed with exit code 2, last logs:\nwanbatch: WANBATCH_X of this node is not used: it says all settings\n"
    log += "wanbatch: m.jsonl: has no rows: write one\nprogress finished successfully\n"
    end = JobEnd(JobState("j", "FAILED", log, exit_code=2), None)
    assert end.explanation == "m.jsonl: has no rows: write one"
    assert JobEnd(JobState("j", "FAILED", "node is dead\nmore", exit_code=75), None).explanation == "node is dead"
    assert JobEnd(DONE, None).explanation is None


def test_a_folder_is_read_seldom_if_reading_it_takes_long(tmp_path, monkeypatch):
    now, reads = [0.0], []

    def slow(out: str) -> dict:
        reads.append(now[0])
        now[0] += 1.0
        return {"rows": 2, "done": 0, "quarantined": 0, "holder": None}

    monkeypatch.setattr("wanbatch.jobs.cluster.folder_watch.status", slow)
    watch = FolderWatch(str(tmp_path), lambda: now[0])
    for _ in range(30):
        watch.counts()
        now[0] += 2.0
    assert len(reads) == 3
    watch.counts(now=True)
    assert len(reads) == 4


@pytest.mark.parametrize(
    ("status", "driver", "message", "found"),
    [
        ("FAILED", 127, "", "/no where/python"),
        ("FAILED", None, "Job entrypoint command failed with exit code 126", "/no where/python"),
        ("FAILED", 2, "", None),
        ("RUNNING", None, "", None),
    ],
)
def test_an_interpreter_that_is_not_there_is_named(status, driver, message, found):
    """Also for who attaches to a job that was submitted with another one."""
    entrypoint = Submission("/m.jsonl", "/out").entrypoint("/no where/python", {"a": " -m "})
    assert missing_interpreter(status, driver, message, entrypoint) == found
    if found:
        end = JobEnd(JobState("j", "FAILED", message, exit_code=2, interpreter=found), None)
        assert "/no where/python: " in (end.explanation or "")
        assert "--python" in (end.explanation or "")


def event(seconds: float, name: str, **fields: object) -> dict[str, Any]:
    """An event of a run, so many seconds after some moment."""
    return {"time": seconds, "event": name, **fields}


def unit(seconds: float, made: int, failed: int = 0) -> dict[str, Any]:
    return event(seconds, "unit", worker="w", made=made, failed=failed, busy_seconds=2.0)


READY = {"worker": "w", "host": "h", "node": "n"}


def test_speed_and_stage_are_those_of_the_run_and_not_counted_from_when_the_job_began(tmp_path):
    """As `wanbatch status` counts them; an earlier run of the folder, which was killed, is none of this one."""
    out, now, stream = tmp_path / "out", [0.0], io.StringIO()
    with OutputFolder.open(out, {}) as folder:
        began = datetime.now(UTC)  # not before the folder was held

        def write(*events: dict[str, Any]) -> None:
            for one in events:
                timed = {**one, "time": (began + timedelta(seconds=one["time"])).isoformat()}
                folder.append_internal_file(LOG, json.dumps(timed).encode() + b"\n")

        folder.set_plan({"rows": 10})
        publish(folder, 0, ["a"])
        write(event(-900, "started", pid=os.getpid()), event(-890, "worker_ready", **READY), unit(-880, 1))
        steps = [
            lambda: write(event(0, "started", pid=os.getpid()), event(1, "workers", wanted=2, placed=0)),
            lambda: write(event(50, "workers", wanted=2, placed=1), event(100, "worker_ready", **READY)),
            lambda: (write(unit(102, 2, 1)), publish(folder, 1, ["b", "c"], ["d"])),
            lambda: (write(unit(104, 2)), publish(folder, 2, ["e", "f"])),
        ]

        def sleep(seconds: float) -> None:
            now[0] += 60
            if steps:
                steps.pop(0)()

        jobs = ScriptedJobs([*[RUNNING] * 5, DONE])
        follow(
            jobs, "j", FolderWatch(str(out), lambda: now[0]), lambda total, before: JsonLines(
                total, before, stream, clock=lambda: now[0]
            ), str, lambda: now[0], sleep,
        )  # fmt: skip
        said = [json.loads(line) for line in stream.getvalue().splitlines()]
        assert speed_of_run(events_of_last_run(out)) == (1.0, 1.25)
    assert [one.get("stage") or one.get("placed") for one in said if one["event"] != "progress"] == [
        "starting", 0, "making", 1,
    ]  # fmt: skip
    counts = [(one["made"], one["failed"], one["pictures_per_second"], one["seconds_left"]) for one in said
              if one["event"] == "progress"]  # fmt: skip
    assert counts == [
        (1, 0, 0.0, None),
        (1, 0, 0.0, None),
        (1, 0, 0.0, None),
        (3, 1, 1.0, 4.0),
        (5, 1, 1.0, 3.2),
        (5, 1, 1.0, 3.2),
        (5, 1, 1.0, 3.2),
    ]
