"""`wanbatch status` and `wanbatch repair`: what an output folder holds and whether it is whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanbatch.counting import number_of
from wanbatch.jobs.cli.flag_types import NumberRange
from wanbatch.jobs.cli.options import folder_argument, json_option

if TYPE_CHECKING:
    from wanbatch.manifests.dataset.repair import RepairReport


@click.command()
@folder_argument
@click.option("--watch", is_flag=True, help="show it anew until the run ends, with its last pictures where possible")
@click.option(
    "--interval",
    type=NumberRange(0.2, 3600),
    help="seconds between two looks, with --watch [default: 2]",
)
@json_option
def status(out: str | Path, watch: bool, interval: float | None, as_json: bool) -> None:
    """Say how far the output folder OUT is; also while a run goes on.

    \b
    Example:
      wanbatch status out/quickstart
      wanbatch status out/quickstart --watch
    """
    if watch:
        _watch(out, interval or 2.0, as_json)
        return
    if interval is not None:
        raise click.UsageError("--interval is of --watch: give both")
    click.echo(_told(out, as_json))


def _watch(out: str | Path, interval: float, as_json: bool) -> None:
    """Show the folder until its run ends: on a terminal in place, elsewhere a text, or a line of JSON, each time."""
    from wanbatch.jobs.reporting.terminal_view import picture_drawing, show
    from wanbatch.jobs.reporting.watch import looks

    if as_json or not sys.stdout.isatty():
        for _ in looks(out, interval):
            click.echo(_told(out, as_json))
        return
    draw = picture_drawing()
    show(looks(out, interval, with_pictures=draw is not None), out, draw)


def _told(out: str | Path, as_json: bool) -> str:
    from wanbatch.jobs.reporting.run_log import events_of_last_run
    from wanbatch.manifests.dataset.event_log import cause_of, end_of, speed_of_run
    from wanbatch.manifests.dataset.status import status as read_status

    found = read_status(out)
    run = events_of_last_run(out)
    rate, end = speed_of_run(run), None if found["holder"] else end_of(run)
    found["ended"], found["cause"] = end and end["event"], cause_of(end)
    found["pictures_per_second"] = rate and rate.made
    found["seconds_left"] = (
        found["pending"] / rate.ended if rate and found["holder"] and found["pending"] is not None else None
    )
    return json.dumps(found) if as_json else "\n".join(_lines(out, found))


def _lines(out: str | Path, found: dict[str, Any]) -> Iterator[str]:
    total = "? pictures" if found["rows"] is None else number_of(found["rows"], "pictures")
    yield f"{out}: {found['done']} of {total} made, {found['quarantined']} failed, {found['pending']} left"
    for name, count in found["failures"].items():
        yield f"  failed    {count} {name}"
    holder = found["holder"]
    state = f"a run goes on (pid {holder['pid']} on {holder['host']} since {holder['since']})" if holder else "no run"
    last = f"; the last one {found['ended']}: {found['cause']}" if found["cause"] is not None else ""
    yield f"  state     {state}{last}"
    if (rate := found["pictures_per_second"]) is not None:
        left = f", {found['seconds_left']:.0f} s left" if found["seconds_left"] is not None else ""
        yield f"  speed     {rate:.2f} pictures/s{left}"


@click.command()
@folder_argument
@json_option
def repair(out: str | Path, as_json: bool) -> None:
    """Check every file of the output folder OUT; what is lost or damaged leaves the dataset, to be made again.

    Files are compared with the sizes and SHA-256 that were committed. The next run of the same command makes the
    rows of lost and damaged ones again, and no others. Damaged files are kept in OUT/_wanbatch/orphans.

    \b
    Example:
      wanbatch repair out/quickstart
    """
    from wanbatch.manifests.dataset.repair import repair as repair_folder

    report = repair_folder(out)
    click.echo(json.dumps({**asdict(report), "whole": report.whole}) if as_json else "\n".join(_repair_lines(report)))


def _repair_lines(report: RepairReport) -> Iterator[str]:
    if report.whole:
        parts = "its 1 part is" if report.parts == 1 else f"all {report.parts} parts are"
        yield f"{report.folder}: {parts} whole"
        return
    bad = len(report.lost) + len(report.damaged)
    good = report.parts - bad
    yield f"{report.folder}: {good} of {number_of(report.parts, 'parts')} {'is' if good == 1 else 'are'} whole"
    for state, names in (
        ("lost", report.lost),
        ("damaged", report.damaged),
        ("left with it", report.with_them),
        ("bad commit", report.commits),
        ("uncommitted", report.uncommitted),
    ):
        for name in names:
            moved = f", now {report.orphans[name]}" if name in report.orphans else ""
            yield f"  {state:<13}{name}{moved}"
    yield f"  to be made   {number_of(len(report.ids), 'rows')} of these parts: run the same command again"
