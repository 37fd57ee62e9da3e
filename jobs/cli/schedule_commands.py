"""`wanbatch schedule`: runs at set times, by the schedules of a settings file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanbatch.jobs.cli.options import json_option
from wanbatch.jobs.config.settings import FILE

if TYPE_CHECKING:
    from wanbatch.jobs.schedule.definition import Schedule

STATE = "schedule-state"

file_option = click.option(
    "--file",
    type=click.Path(path_type=Path),
    default=FILE,
    show_default=True,
    help="settings file with the schedules",
)
state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help=f"folder of the ledger and the logs; default: {STATE} beside the file",
)


@click.group()
def schedule() -> None:
    """Run manifests and recipes at set times.

    Schedules are tables [schedule.NAME] of wanbatch.toml. A ledger has one row for each time at which one was due,
    and says what became of it.

    \b
    Example:
      wanbatch schedule check
      wanbatch schedule run
    """


def _options(command: Callable) -> Callable:
    return file_option(state_option(command))


def _read(file: Path, state: Path | None) -> tuple[list[Schedule], Path]:
    """The schedules and the state folder. Raises UserError."""
    from wanbatch.jobs.schedule.definition import read_schedules

    return read_schedules(file), state or file.absolute().parent / STATE


@schedule.command()
@_options
@click.option(
    "--parallel", default=1, show_default=True, type=click.IntRange(1, 64), help="runs at once on this machine"
)
def run(file: Path, state: Path | None, parallel: int) -> None:
    """Run the schedules until SIGTERM or Ctrl-C; then runs end what they hold, and go on at the next start.

    Exit codes: 0 stopped; 2 something is wrong with the schedules; 4 another one runs; 75 the ledger cannot be used.

    \b
    Example:
      wanbatch schedule run
    """
    schedules, folder = _read(file, state)
    from wanbatch.jobs.schedule.definition import missing_sources
    from wanbatch.jobs.schedule.service import serve

    for problem in missing_sources(schedules):
        click.echo(f"wanbatch: warning: {problem}", err=True)
    serve(schedules, folder, file.absolute().parent, parallel=parallel)


@schedule.command()
@click.argument("name")
@_options
@json_option
@click.pass_context
def tick(ctx: click.Context, name: str, file: Path, state: Path | None, as_json: bool) -> None:
    """Run the schedule NAME as of the time at which it was due last, once; for cron, systemd and the like.

    An earlier tick that was interrupted is resumed first, within its deadline. Exit codes are those of `wanbatch
    run`, of the last tick that was run; 0 also if it ran before, or was skipped since another command runs the last
    one; 4 a service runs the schedules; 75 also if the tick could not start before its deadline.

    \b
    Example:
      wanbatch schedule tick nightly
    """
    schedules, folder = _read(file, state)
    from wanbatch.jobs.schedule.definition import chosen
    from wanbatch.jobs.schedule.listing import tick_values
    from wanbatch.jobs.schedule.one_tick import exit_code, run_tick

    one = chosen(schedules, name)
    done = run_tick(schedules, name, folder, file.absolute().parent)
    if as_json:
        ticks = [tick_values(each, one, folder) for each in done.ticks]
        click.echo(json.dumps({**tick_values(done.last, one, folder), "ticks": ticks}))
    ctx.exit(exit_code(done.last))


@schedule.command()
@_options
@click.pass_context
def check(ctx: click.Context, file: Path, state: Path | None) -> None:
    """Check the schedules and say when each is due next.

    \b
    Example:
      wanbatch schedule check
    """
    schedules, _ = _read(file, state)
    from datetime import UTC, datetime
    from itertools import islice

    from wanbatch.jobs.schedule.decisions import shown
    from wanbatch.jobs.schedule.definition import missing_sources
    from wanbatch.jobs.schedule.ticks import ticks

    problems = list(missing_sources(schedules))
    for problem in problems:
        click.echo(f"wanbatch: {file}: {problem}", err=True)
    if problems:
        ctx.exit(2)
    for one in schedules:
        coming = islice(ticks(one.cron, one.zone, datetime.now(UTC)), 3)
        click.echo(f"{one.name}: next at {', '.join(shown(time, one) for time in coming)}")


@schedule.command("list")
@_options
@json_option
def list_schedules(file: Path, state: Path | None, as_json: bool) -> None:
    """Show the schedules with their next and last runs.

    \b
    Example:
      wanbatch schedule list
    """
    schedules, folder = _read(file, state)
    from datetime import UTC, datetime

    from wanbatch.jobs.schedule.listing import list_lines, listed
    from wanbatch.jobs.schedule.state_folder import opened_ledger

    with opened_ledger(folder, read_only=True) as ledger:
        found = listed(schedules, ledger, datetime.now(UTC), folder)
    click.echo(json.dumps(found) if as_json else "\n".join(list_lines(schedules, found)))


@schedule.command()
@click.argument("name", required=False)
@_options
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="ticks at most")
@json_option
def history(name: str | None, file: Path, state: Path | None, limit: int, as_json: bool) -> None:
    """Show what became of the latest ticks, of the schedule NAME alone or of all; the newest come first.

    \b
    Example:
      wanbatch schedule history nightly --limit 5
    """
    schedules, folder = _read(file, state)
    from wanbatch.jobs.schedule.definition import chosen
    from wanbatch.jobs.schedule.listing import history_lines, tick_values
    from wanbatch.jobs.schedule.state_folder import opened_ledger

    if name is not None:
        chosen(schedules, name)
    named = {one.name: one for one in schedules}
    with opened_ledger(folder, read_only=True) as ledger:
        rows = [tick_values(row, named.get(row.schedule), folder) for row in ledger.latest(name, limit)]
    lines = list(history_lines(named, rows)) or ["no tick yet"]
    click.echo(json.dumps(rows) if as_json else "\n".join(lines))


@schedule.command()
@click.argument("name", required=False)
@_options
@click.option(
    "--format",
    "kind",
    type=click.Choice(("cron", "systemd", "kubernetes")),
    required=True,
    help="for which scheduler",
)
@click.option(
    "--to", type=click.Path(path_type=Path, file_okay=False), help="folder to write files to, not the terminal"
)
@click.option("--image", help="kubernetes: image of the container, with wanbatch in it")
@click.option("--claim", metavar="NAME:PATH", help="kubernetes: a volume claim, and where local paths are on it")
@click.option("--gpus", default=0, type=click.IntRange(0, 64), help="kubernetes: GPUs of the container")
def export(name: str | None, file: Path, state: Path | None, kind: str, to: Path | None, **cluster: Any) -> None:
    """Print the schedule NAME, or all of them, for a scheduler that you have: a crontab, systemd units or CronJobs.

    Crontabs and units run `wanbatch schedule tick`, which keeps the ledger; CronJobs run `wanbatch run` or `submit`.

    \b
    Example:
      wanbatch schedule export nightly --format systemd --to units
      wanbatch schedule export --format kubernetes --image registry/wanbatch:1 --claim shop-data:/srv/shop
    """
    schedules, folder = _read(file, state)
    from wanbatch.jobs.schedule.definition import chosen
    from wanbatch.jobs.schedule.export import exported, write_files

    wanted = schedules if name is None else [chosen(schedules, name)]
    files, warnings = exported(kind, wanted, file.absolute(), folder.absolute(), **cluster)
    for warning in warnings:
        click.echo(f"wanbatch: warning: {warning}", err=True)
    if to is None:
        click.echo(
            "\n".join(f"# {title}\n{text}" if len(files) > 1 else text for title, text in files.items()), nl=False
        )
        return
    for path in write_files(to, files):
        click.echo(str(path))
