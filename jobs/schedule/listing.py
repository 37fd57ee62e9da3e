"""What `wanbatch schedule list` and `history` show: schedules and ticks as values and as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from wanbatch.jobs.schedule.decisions import shown
from wanbatch.jobs.schedule.definition import Schedule
from wanbatch.jobs.schedule.launcher import log_of
from wanbatch.jobs.schedule.ledger import Ledger, Tick
from wanbatch.jobs.schedule.ticks import next_tick


def listed(schedules: Sequence[Schedule], ledger: Ledger, now: datetime, state: Path) -> list[dict[str, Any]]:
    """Each schedule as JSON values: what it is, when it is due next, and the last ticks of it.

    Args:
        schedules: those of the file.
        ledger: of their service; it may be empty.
        now: UTC.
        state: the folder of the ledger.
    """
    found = []
    for one in schedules:
        coming = next_tick(one.cron, one.zone, now)
        newest, started = ledger.latest(one.name, 1), ledger.last_started(one.name)
        found.append(
            {
                "name": one.name,
                "cron": one.cron,
                "timezone": one.zone.key,
                "recipe" if one.is_recipe else "manifest": one.source,
                "output": one.output,
                "next": _text(coming),
                "next_local": _local(coming, one),
                "last": tick_values(newest[0], one, state) if newest else None,
                "last_run": tick_values(started, one, state) if started else None,
            }
        )
    return found


def tick_values(tick: Tick, schedule: Schedule | None, state: Path) -> dict[str, Any]:
    """A row of the ledger as JSON values; times are UTC, but for `local`; `log` is the path of its log, if kept.

    Args:
        tick: the row.
        schedule: its own; None: it is no longer in the file.
        state: the folder of the ledger.
    """
    log = log_of(state.absolute(), tick)
    return {
        "run_id": tick.run_id,
        "schedule": tick.schedule,
        "time": _text(tick.time),
        "local": _local(tick.time, schedule),
        "state": tick.state,
        "reason": tick.reason,
        "attempts": tick.attempts,
        "exit_code": tick.exit_code,
        "started": _text(tick.started),
        "ended": _text(tick.ended),
        "not_before": _text(tick.not_before),
        "noted": _text(tick.noted),
        "log": str(log) if log.exists() else None,
    }


def list_lines(schedules: Sequence[Schedule], values: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What `list` prints of what `listed` found: two or three lines a schedule."""
    for one, found in zip(schedules, values, strict=True):
        yield f"{one.name}: {one.cron} {one.zone.key}, {one.source} -> {one.output}"
        yield f"  next   {_readable(found['next'], one) if found['next'] else 'never'}"
        if started := found["last_run"]:
            yield f"  last   {_line(started, one)}"
        if (last := found["last"]) and last != started:
            yield f"  since  {_line(last, one)}"


def history_lines(schedules: Mapping[str, Schedule], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What `history` prints: a line a tick, the newest first, and the log of one that failed."""
    width = max((len(row["schedule"]) for row in rows), default=0)
    for row in rows:
        yield f"{row['schedule']:<{width}}  {_line(row, schedules.get(row['schedule']))}"
        if row["state"] == "failed" and row["log"]:
            yield f"{'':<{width}}  log: {row['log']}"


def _line(row: Mapping[str, Any], schedule: Schedule | None) -> str:
    code = "" if row["exit_code"] is None else f", exit code {row['exit_code']}"
    attempts = f", {row['attempts']} attempts" if row["attempts"] > 1 else ""
    reason = f": {row['reason']}" if row["reason"] else ""
    return f"{_readable(row['time'], schedule)}  {row['state']}{code}{attempts}{reason}"


def _readable(text: str, schedule: Schedule | None) -> str:
    return shown(datetime.fromisoformat(text), schedule)


def _text(time: datetime | None) -> str | None:
    return time.isoformat(timespec="seconds").replace("+00:00", "Z") if time else None


def _local(time: datetime | None, schedule: Schedule | None) -> str | None:
    return time.astimezone(schedule.zone).isoformat(timespec="seconds") if time and schedule else None
