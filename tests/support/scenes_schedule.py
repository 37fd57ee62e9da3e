"""Remedies for schedules: their tables, their ledger, and what other schedulers cannot say."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from remedy_scenes import At, raised, scene
from schedule_world import schedule

from wanbatch.jobs.schedule.decisions import Outcome, ended
from wanbatch.jobs.schedule.definition import read_schedules
from wanbatch.jobs.schedule.export import exported
from wanbatch.jobs.schedule.export_kubernetes import cron_job
from wanbatch.jobs.schedule.launcher import ProcessLauncher
from wanbatch.jobs.schedule.ledger import Ledger, Tick
from wanbatch.jobs.schedule.one_tick import due_time, run_tick
from wanbatch.jobs.schedule.state_folder import opened_ledger, state_lock

GOOD = {
    "cron": '"30 2 * * *"',
    "timezone": '"Europe/Berlin"',
    "manifest": '"m.jsonl"',
    "output": '"out"',
}


def table(name: str = "schedule.nightly", more: str = "", **changes: str | None) -> str:
    """A schedule as the settings file has it; None: without this key."""
    values = {**GOOD, **changes}
    return "\n".join([f"[{name}]", *(f"{key} = {value}" for key, value in values.items() if value), more, ""])


def checked(at: At, text: str) -> None:
    at.write("wanbatch.toml", text)
    at.works("schedule", "check")


@scene
def tables_of_schedules(at: At) -> Iterator[str]:
    at.rows({"prompt": "x"})
    at.write("recipe.toml", "")
    settings = "[schedule.nightly.settings]\n"
    recipe = {"manifest": None, "recipe": '"recipe.toml"'}
    wrong = {
        table(timezone=None): [table()],
        table(output=None): [table()],
        table(manifest=None): [table(), table(**recipe)],
        table(**recipe, more=settings + "seed = 3"): [table(**recipe), table(**recipe, more=settings + "steps = 3")],
        table(more=settings + "strict = false"): [table(), table(more=settings + "strict = true")],
        table() + table("schedules.nightly"): [table(), table("schedules.nightly")],
        table() + table("schedule.daily"): [table() + table("schedule.daily", output='"other"')],
        table() + table("schedule.daily", output='"out/deeper"'): [
            table() + table("schedule.daily", output='"other"')
        ],
        table(cron='"0 0 30 2 *"'): [table(cron='"0 0 28 2 *"'), table(cron='"0 0 30 3 *"')],
        table(cron='"77 2 * * *"'): [table(cron='"59 2 * * *"')],
        'schedule = "karras"\n' + table(): ['schedule = "karras"\n' + table("schedules.nightly")],
        "steps = 4\n": [table()],
    }
    for text, ways in wrong.items():
        at.write("wanbatch.toml", text)
        yield at.refused("schedule", "check")
        for way in ways:
            checked(at, way)
    for deadline, said in (("90", r"did you mean (\w+)\?"), ('"10s"', r"the nearest is (\w+)")):
        at.write("wanbatch.toml", table(deadline=deadline))
        told = at.refused("schedule", "check")
        yield told
        checked(at, table(deadline=f'"{re.search(said, told)[1]}"'))  # type: ignore[index]
    at.write("wanbatch.toml", table(manifest='"others.jsonl"'))
    told = at.refused("schedule", "check")
    yield told
    checked(at, table(**{re.search(r"or correct `(\w+)`", told)[1]: '"m.jsonl"'}))  # type: ignore[index]
    at.rows({"prompt": "x"}, name="others.jsonl")
    checked(at, table(manifest='"others.jsonl"'))


@scene
def files_of_schedules(at: At) -> Iterator[str]:
    at.rows({"prompt": "x"})
    yield at.refused("schedule", "check")
    at.write("other.toml", table())
    at.works("schedule", "check", "--file", "other.toml")
    at.write("wanbatch.toml", f"# für alle\n{table()}".encode("cp1252"))
    yield at.refused("schedule", "check")
    checked(at, f"# für alle\n{table()}")


@scene
def ledgers_of_schedules(at: At) -> Iterator[str]:
    at.rows({"prompt": "x"})
    checked(at, table())
    state = at.folder / "schedule-state"
    yield at.refused("schedule", "run", "--state", "a.png/state", code=75)
    yield raised(lambda: Ledger(at.folder / "a.png/state"))
    with state_lock(state, shared=False):
        yield at.refused("schedule", "run", code=4)
        with state_lock(at.folder / "other-state", shared=False):
            Ledger(at.folder / "other-state").close()
    with state_lock(state, shared=False):
        pass
    at.write("schedule-state/ledger.sqlite", b"not a ledger" * 500)
    yield at.refused("schedule", "list")
    (state / "ledger.sqlite").rename(at.folder / "damaged.sqlite")
    at.works("schedule", "list")
    ledger = Ledger(state)
    with ledger.changes():
        ledger._base.execute("PRAGMA user_version = 7")
    ledger.close()
    yield at.refused("schedule", "list")


@scene
def schedules_that_are_not_due(at: At) -> Iterator[str]:
    away = datetime.now(UTC) + timedelta(days=60)
    at.rows({"prompt": "x"})
    checked(at, table(cron=f'"0 0 {min(away.day, 28)} {away.month} *"', timezone='"UTC"'))
    told = at.refused("schedule", "tick", "nightly")
    yield told
    then = datetime.strptime(re.search(r"due next at (\S+ \S+) UTC: start it then", told)[1], "%Y-%m-%d %H:%M")  # type: ignore[index]
    [one] = read_schedules(Path("wanbatch.toml"))
    assert due_time(one, then.replace(tzinfo=UTC)) == then.replace(tzinfo=UTC)


@scene
def runs_of_schedules_that_fail(at: At) -> Iterator[str]:
    """Of a stand-in for wanbatch, which says why in its log."""
    at.write("failing.py", "import sys\nprint('the reason of it')\nsys.exit(2)\n")
    one = schedule(cron="* * * * *", output=str(at.folder / "out"))
    command = (sys.executable, "-S", str(at.folder / "failing.py"))
    row = run_tick([one], one.name, at.folder / "state", at.folder, wanbatch=command).last
    yield row.reason
    assert "the reason of it" in ProcessLauncher(at.folder / "state", at.folder).log_of(row).read_text()
    now = datetime.now(UTC)
    for code in (1, 6, 99):
        yield ended(row, one, Outcome(code, False, now), now).reason


@scene
def other_schedulers(at: At) -> Iterator[str]:
    at.rows({"prompt": "x"})
    (at.folder / "volume").mkdir()
    own = {"manifest": f'"{at.folder}/volume/m.jsonl"', "output": f'"{at.folder}/volume/out"'}
    at.rows({"prompt": "x"}, name="volume/m.jsonl")
    checked(at, table(**own))
    common = ("schedule", "export", "--format")
    yield at.refused(*common, "kubernetes")
    image = ("kubernetes", "--image", "registry/wanbatch:1")
    yield at.refused(*common, *image)
    yield at.refused(*common, *image, "--claim", "Data:volume")
    at.works(*common, *image, "--claim", f"shop-data:{at.folder}/volume")
    yield at.refused(*common, "cron", "--image", "registry/wanbatch:1")
    at.works(*common, "cron")
    yield at.refused(*common, "systemd", "--to", "a.png/units", code=2)
    at.works(*common, "systemd", "--to", "units")
    stored = {"manifest": '"s3://shop/m.jsonl"', "output": '"s3://shop/out"'}
    checked(at, table(**stored))
    at.works(*common, *image)

    checked(at, table(**stored, cron='"0 6 L * *"'))
    yield at.refused(*common, "cron")
    at.works(*common, "systemd")
    yield at.refused(*common, *image)
    checked(at, table(**stored, cron='"0 6 28 * *"'))
    at.works(*common, *image)
    at.works(*common, "cron")


@scene
def names_that_other_schedulers_do_not_take(at: At) -> Iterator[str]:
    address = {"source": "s3://shop/m.jsonl", "output": "s3://shop/out"}
    for name in ("n" * 52, "n" * 40):
        one = schedule(name, **address)
        if name == "n" * 52:
            yield raised(lambda one=one: cron_job(one, "image"))
        else:
            cron_job(one, "image")
    cron_job(schedule("nightly", address="http://head:8265", **address), "image")
    none = {"image": None, "claim": None, "gpus": 0}
    for kind in ("cron", "systemd"):
        for folder in ("a\nb", "ab"):
            file = at.folder / folder / "wanbatch.toml"
            if "\n" in folder:
                yield raised(lambda kind=kind, file=file: exported(kind, [schedule()], file, file.parent, **none))
            else:
                exported(kind, [schedule()], file, file.parent, **none)


@scene
def times_that_no_timer_says(at: At) -> Iterator[str]:
    at.rows({"prompt": "x"})
    for cron in ("0 6 LW * *", "0 6 */2 * MON#1"):
        checked(at, table(cron=f'"{cron}"'))  # what `wanbatch schedule run` takes
        yield at.refused("schedule", "export", "--format", "systemd")


@scene
def a_disk_for_the_ledger(at: At) -> Iterator[str]:
    """It is full, and then it is not."""
    state = at.folder / "state"
    tick = Tick("nightly", datetime(2026, 5, 1, tzinfo=UTC), "waiting", "", datetime(2026, 5, 1, tzinfo=UTC))
    with opened_ledger(state) as ledger:
        ledger._base.execute("PRAGMA max_page_count = 1")

        def note() -> None:
            with ledger.changes():
                ledger.write([Tick("x" * 9000, tick.time, "waiting", "", tick.noted)])

        yield raised(note)
        ledger._base.execute("PRAGMA max_page_count = 100000")
        note()
    (state / "nightly").write_text("in the way")
    launcher = ProcessLauncher(state, at.folder)
    yield raised(lambda: launcher.reserve(tick))
    (state / "nightly").unlink()
    assert launcher.reserve(tick)
    launcher.release(tick)
