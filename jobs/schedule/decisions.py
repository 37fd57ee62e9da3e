"""What becomes of a tick: started, put off, skipped, missed. Pure: times come in, rows of the ledger go out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from wanbatch.errors import FolderHeldError, MachineryError
from wanbatch.jobs.schedule.definition import Schedule
from wanbatch.jobs.schedule.ledger import Tick, changed

GRACE = timedelta(seconds=60)
"""A tick that is looked at so long after its time still counts as on time."""

FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(minutes=15)
"""Before a run is started again: it doubles each time."""

MACHINERY, HELD = MachineryError.exit_code, FolderHeldError.exit_code
INTERRUPTED = 130
KILLED = 128
"""An exit code above it, or a negative one, is that of a process that a signal ended."""

ENDINGS = {
    0: "",
    1: "a bug: see its log",
    2: "bad usage, settings or manifest: see its log",
    3: "some rows could not be made: `wanbatch status` says how many, `wanbatch retry` makes them again",
    HELD: "another run held the output folder",
    5: "stopped by max_failures",
    6: "stopped, since images failed alike for a common cause: see its log",
    INTERRUPTED: "interrupted by somebody else; the next run goes on with its rows",
}
GOOD = (0, 3)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        exit_code: of the last command; negative: the signal that ended it.
        stopped: whether it was stopped by a signal to its own process, as the service does when it ends.
        ended: when.
    """

    exit_code: int
    stopped: bool
    ended: datetime


def shown(time: datetime, schedule: Schedule | None) -> str:
    """A time as people read it, in the schedule's time zone."""
    local = time.astimezone(schedule.zone) if schedule else time
    return local.strftime("%Y-%m-%d %H:%M %Z")


def pause_after(attempts: int) -> timedelta:
    """How long to wait before the next attempt."""
    return min(FIRST_PAUSE * 2 ** min(max(attempts - 1, 0), 10), LONGEST_PAUSE)


def admitted(
    schedule: Schedule,
    due: Sequence[datetime],
    known: Mapping[datetime, Tick],
    under_way: Sequence[Tick],
    now: datetime,
    cause: str,
) -> list[Tick]:
    """Decide about ticks whose time has come.

    Args:
        schedule: theirs.
        due: in order; all of them are past.
        known: the rows of those that the ledger has: the clock was set back, and their time comes again. What was
            decided stays, but a tick that was only missed may now run.
        under_way: ticks of the schedule that are not over, in order.
        now: UTC.
        cause: why nobody looked earlier, if it is late.

    Returns:
        One row for each tick about which there is something new.
    """
    new = [time for time in due if time not in known or known[time].state == "missed"]
    wanted = [time for time in new if now - time <= GRACE]
    late = [time for time in new if now - time > GRACE]
    caught_up = None
    if late and not wanted and schedule.catch_up == "latest" and now - late[-1] <= schedule.deadline:
        caught_up = late[-1]
    rows = [
        _missed(schedule, time, late[-1], caught_up, bool(wanted), now, cause) for time in late if time != caught_up
    ]
    busy = list(under_way)
    for time in [caught_up] if caught_up else wanted:
        reason = f"run late: {cause}" if time == caught_up else ""
        row = _row(schedule, time, "waiting", reason, now)
        if busy and schedule.overlap == "skip":
            row = changed(row, now, state="skipped", reason=_busy(busy[0], schedule))
        else:
            busy.append(row)
        rows.append(row)
    return [row for row in rows if known.get(row.time, row).state != row.state or row.time not in known]


def _missed(
    schedule: Schedule, time: datetime, newest: datetime, caught_up: datetime | None, on_time: bool, now: datetime,
    cause: str,
) -> Tick:  # fmt: skip
    if caught_up:
        more = f"; the run of {shown(caught_up, schedule)} was made in its place"
    elif on_time:
        more = "; the next one was on time"
    elif schedule.catch_up == "none":
        more = "; missed ones are not caught up"
    elif time == newest:
        more = "; its deadline had passed"
    else:
        more = "; its deadline, and that of all later ones, had passed"
    return _row(schedule, time, "missed", cause + more, now)


def _busy(tick: Tick, schedule: Schedule) -> str:
    doing = {"running": "still ran", "interrupted": "was about to be resumed"}.get(tick.state, "had not begun yet")
    if tick.state == "waiting" and tick.attempts:
        doing = "was about to be started again"
    return f"the run of {shown(tick.time, schedule)} {doing}"


def _row(schedule: Schedule, time: datetime, state: str, reason: str, now: datetime) -> Tick:
    return Tick(schedule.name, time, state, reason, now.replace(microsecond=0))  # type: ignore[arg-type]


def ended(tick: Tick, schedule: Schedule | None, outcome: Outcome, now: datetime) -> Tick:
    """What becomes of a tick whose attempt has ended.

    Args:
        tick: running.
        schedule: None: it is no longer in the file.
        outcome: of the attempt.
        now: UTC.
    """
    code = outcome.exit_code
    row = changed(tick, now, exit_code=code, ended=outcome.ended)
    if outcome.stopped and code not in GOOD:
        return changed(row, now, state="interrupted", reason="stopped with its scheduler", not_before=None)
    if code in GOOD:
        resumed = f"resumed: {tick.attempts} attempts" if tick.attempts > 1 else ""
        late = tick.reason if tick.reason.startswith("run late") else ""
        return changed(row, now, state="ran", reason="; ".join(filter(None, (late, resumed, ENDINGS[code]))))
    if what := _passing(code):
        return again(row, schedule, what, now)
    return changed(row, now, state="failed", reason=ENDINGS.get(code, "see its log"))


def _passing(code: int) -> str:
    """What an exit code says was the matter, if that may pass; else nothing.

    The folder may be held by a run that was killed, too: a store frees it after minutes only.
    """
    if code == MACHINERY:
        return "the machinery failed"
    if code == HELD:
        return ENDINGS[HELD]
    return f"killed by signal {_signal(code)}" if _was_killed(code) else ""


def with_last_line(reason: str, said: str) -> str:
    """Why a tick failed, with the last line that its commands printed. said: that line."""
    return f"{reason}, which ends with: {said}" if reason.endswith("see its log") else f"{reason}; it said: {said}"


def gone(tick: Tick, schedule: Schedule | None, now: datetime) -> Tick:
    """What becomes of a tick that was running and whose process is gone without a word."""
    what = "its process was gone: it was killed, or the machine stopped"
    row = again(tick, schedule, what, now)
    return changed(row, now, state="interrupted") if row.is_open else row


def again(tick: Tick, schedule: Schedule | None, what: str, now: datetime) -> Tick:
    """A tick that is to be started again after a pause, if that is within its deadline."""
    if schedule is None:
        return changed(tick, now, state="failed", reason=f"{what}; its schedule is no longer in the file")
    start = now.replace(microsecond=0) + pause_after(tick.attempts)
    if start > tick.time + schedule.deadline:
        return changed(tick, now, state="failed", reason=f"{what}; its deadline passed before it could run again")
    return changed(tick, now, state="waiting", reason=f"{what}; is started again", not_before=start)


def expired(tick: Tick, schedule: Schedule | None, now: datetime) -> Tick | None:
    """The row of a tick that waits and may no longer be started; None if it may."""
    if schedule is None:
        return changed(tick, now, state="expired", reason="its schedule is no longer in the file")
    if now <= tick.time + schedule.deadline:
        return None
    before = f"{tick.reason}; " if tick.reason else ""
    what = "was not resumed" if tick.attempts else "could not start"
    return changed(tick, now, state="expired", reason=f"{before}{what} before its deadline")


def pauses(tick: Tick, now: datetime) -> bool:
    """Whether a tick is not to be started yet. A pause that a clock with another time gave is none."""
    return tick.not_before is not None and now < tick.not_before <= now + LONGEST_PAUSE


def _was_killed(code: int) -> bool:
    return code != INTERRUPTED and (code < 0 or code > KILLED)


def _signal(code: int) -> int:
    return -code if code < 0 else code - KILLED
