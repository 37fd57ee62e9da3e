"""`wanbatch jobs`: the jobs that were submitted to a cluster: listed, looked at, read and stopped."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from wanbatch.errors import UserError
from wanbatch.jobs.cli.options import json_option
from wanbatch.jobs.cli.submit_command import address_option

if TYPE_CHECKING:
    from wanbatch.jobs.cluster.job_client import ClusterJobs
    from wanbatch.jobs.cluster.job_state import JobState

job_argument = click.argument("job")


@click.group()
def jobs() -> None:
    """List, follow and stop jobs that `wanbatch submit` started on a Ray cluster."""


@jobs.command("list")
@address_option
@json_option
def list_jobs(address: str | None, as_json: bool) -> None:
    """List the jobs of wanbatch that the cluster knows, those that were submitted last first.

    \b
    Example:
      wanbatch jobs list --address http://ray-head:8265
    """
    found = _connect(address).states()
    if as_json:
        click.echo(json.dumps([asdict(state) for state in found]))
        return
    for state in found:
        click.echo(_line(state))
    if not found:
        click.echo("no jobs of wanbatch")


@jobs.command()
@job_argument
@address_option
@json_option
def status(job: str, address: str | None, as_json: bool) -> None:
    """Say how JOB is.

    \b
    Example:
      wanbatch jobs status wanbatch-0123456789abcdef-1
    """
    state = _found(_connect(address), job)
    click.echo(json.dumps(asdict(state)) if as_json else "\n".join(_lines(state)))


@jobs.command()
@job_argument
@address_option
def logs(job: str, address: str | None) -> None:
    """Print what JOB has printed so far. How it ended is what `wanbatch jobs status` says.

    \b
    Example:
      wanbatch jobs logs wanbatch-0123456789abcdef-1
    """
    connected = _connect(address)
    _found(connected, job)
    click.echo(connected.logs(job), nl=False)


@jobs.command()
@job_argument
@address_option
def stop(job: str, address: str | None) -> None:
    """Ask JOB to stop. It finishes what its workers hold, for --drain-seconds at most; what is written is kept.

    Asking again changes nothing: the job ends when it would have ended.

    \b
    Example:
      wanbatch jobs stop wanbatch-0123456789abcdef-1
    """
    connected = _connect(address)
    state = _found(connected, job)
    if state.has_ended:
        click.echo(f"{job}: has ended before, as {state.status}")
        return
    connected.stop(job)
    within = "" if state.stop_seconds is None else f" and ends within {state.stop_seconds} s, also if asked again"
    click.echo(f"{job}: is asked to stop{within}; submitting the same again goes on with it")


def _connect(address: str | None) -> ClusterJobs:
    from wanbatch.jobs.cluster.job_client import ClusterJobs

    return ClusterJobs(address)


def _found(connected: ClusterJobs, job: str) -> JobState:
    state = connected.state(job)
    if state is None:
        raise UserError(f"{job}: the cluster knows no such job: `wanbatch jobs list` lists them")
    return state


def _line(state: JobState) -> str:
    since = "" if state.started is None else datetime.fromtimestamp(state.started, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return f"{state.id}  {state.status:9}  {since}  {state.metadata.get('out', '')}"


def _lines(state: JobState) -> list[str]:
    fields: dict[str, Any] = {"job": state.id, "status": state.status, "exit code": state.exit_code}
    fields |= {name: state.metadata.get(name) for name in ("manifest", "out")}
    return [f"{name:9} {value}" for name, value in fields.items() if value is not None]
