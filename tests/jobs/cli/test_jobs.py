"""`wanbatch jobs`, on a cluster that this file plays. On a real one: tests/faults and tests/jobs/cluster."""

from __future__ import annotations

import json

import pytest
from command_line import invoke

from wanbatch.jobs.cli import jobs_command
from wanbatch.jobs.cluster.job_state import JobState

OF_JOBS = {"metadata": {"manifest": "s3://b/m.jsonl", "out": "s3://b/out"}, "started": 1_800_000_000.0}
RUNNING = JobState("wanbatch-0-2", "RUNNING", **OF_JOBS)
ENDED = JobState("wanbatch-0-1", "STOPPED", exit_code=130, ended=1_800_000_060.0, **OF_JOBS)


class Cluster:
    """Knows two jobs."""

    def __init__(self) -> None:
        self.stopped: list[str] = []

    def states(self) -> list[JobState]:
        return [RUNNING, ENDED]

    def state(self, job: str) -> JobState | None:
        return {state.id: state for state in self.states()}.get(job)

    def logs(self, job: str) -> str:
        return f"what {job} printed\n"

    def stop(self, job: str) -> None:
        self.stopped.append(job)


@pytest.fixture
def cluster(monkeypatch) -> Cluster:
    played = Cluster()
    monkeypatch.setattr(jobs_command, "_connect", lambda address: played)
    return played


def test_jobs_are_listed_looked_at_and_read(cluster):
    first, second = invoke("jobs", "list").stdout.splitlines()
    assert first.split() == ["wanbatch-0-2", "RUNNING", "2027-01-15", "08:00:00Z", "s3://b/out"]
    assert second.startswith("wanbatch-0-1  STOPPED")
    assert [state["id"] for state in json.loads(invoke("jobs", "list", "--json").stdout)] == [RUNNING.id, ENDED.id]
    assert "exit code 130" in invoke("jobs", "status", ENDED.id).stdout
    assert "exit code" not in invoke("jobs", "status", RUNNING.id).stdout
    assert json.loads(invoke("jobs", "status", ENDED.id, "--json").stdout)["exit_code"] == 130
    assert invoke("jobs", "logs", RUNNING.id).stdout == "what wanbatch-0-2 printed\n"


def test_a_job_is_stopped_once(cluster):
    assert "is asked to stop; submitting the same again goes on with it" in invoke("jobs", "stop", RUNNING.id).stdout
    assert "has ended before, as STOPPED" in invoke("jobs", "stop", ENDED.id).stdout
    assert cluster.stopped == [RUNNING.id]


@pytest.mark.parametrize("command", ["status", "logs", "stop"])
def test_a_job_that_the_cluster_does_not_know(cluster, command):
    refused = invoke("jobs", command, "wanbatch-9-1")
    assert refused.exit_code == 2
    assert "wanbatch-9-1: the cluster knows no such job: `wanbatch jobs list` lists them" in refused.output
