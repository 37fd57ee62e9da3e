"""`wanbatch schedule`, as it is typed: what is refused before anything starts, and every example of its page."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command_line import invoke, refused
from job_making import environment, rows_by_id, start, table, wait_until

from wanbatch.jobs.schedule.decisions import shown
from wanbatch.jobs.schedule.definition import KEYS, REQUIRED, read_schedules
from wanbatch.jobs.schedule.launcher import ProcessLauncher
from wanbatch.jobs.schedule.ledger import MOST_ROWS, Ledger, Tick, stamp
from wanbatch.jobs.schedule.one_tick import run_tick
from wanbatch.jobs.schedule.state_folder import opened_ledger

PAGE = (Path(__file__).parents[3] / "docs" / "schedules.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:^`([\w./-]+)`:\n\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ALWAYS = """
[schedule.always]
cron = "* * * * *"
timezone = "Europe/Berlin"
manifest = "shop.jsonl"
output = "out"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The files of the page, in the current folder."""
    for name, _, text in BLOCK.findall(PAGE):
        if name and not name.startswith("/"):
            (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_of_the_page_that_only_look(folder):
    commands = [line for _, kind, text in BLOCK.findall(PAGE) if kind == "sh" for line in text.splitlines()]
    assert len(commands) >= 4
    for line in commands:
        result = invoke(*shlex.split(line, comments=True)[1:])
        assert result.exit_code == 0, result.output
    assert not (folder / "schedule-state").exists()
    assert re.fullmatch(
        r"nightly: next at (\d{4}-\d\d-\d\d 0[23]:\d\d CES?T(, |\n)){3}", invoke("schedule", "check").stdout
    )
    [listed] = json.loads(invoke("schedule", "list", "--json").stdout)
    assert (listed["name"], listed["timezone"], listed["last"], listed["last_run"]) == (
        "nightly", "Europe/Berlin", None, None,
    )  # fmt: skip
    assert datetime.fromisoformat(listed["next"]) == datetime.fromisoformat(listed["next_local"])
    assert invoke("schedule", "history").stdout == "no tick yet\n"


def test_the_page_names_the_keys_as_the_code_does():
    for name, meaning in KEYS.items():
        either = "one of the two" if name in ("manifest", "recipe") else ""
        required = "yes" if name in REQUIRED else either
        assert f"| `{name}` | {required} | {meaning} |".replace("|  |", "| |") in PAGE
    assert f"{MOST_ROWS:,} rows" in PAGE


def test_list_and_history_of_a_ledger(folder):
    ledger = Ledger(folder / "schedule-state")
    first = datetime(2026, 5, 1, 0, 30, tzinfo=UTC)
    rows = [
        Tick("nightly", first, "ran", "", first, 2, first, first + timedelta(minutes=9), 3),
        Tick("nightly", first + timedelta(days=1), "missed", "the service was not running", first),
    ]
    with ledger.changes():
        ledger.write(rows)
    ledger.close()
    assert invoke("schedule", "history").stdout.splitlines() == [
        "nightly  2026-05-02 02:30 CEST  missed: the service was not running",
        "nightly  2026-05-01 02:30 CEST  ran, exit code 3, 2 attempts",
    ]
    told = invoke("schedule", "list").stdout.splitlines()
    assert told[2:] == [
        "  last   2026-05-01 02:30 CEST  ran, exit code 3, 2 attempts",
        "  since  2026-05-02 02:30 CEST  missed: the service was not running",
    ]
    [newest] = json.loads(invoke("schedule", "history", "nightly", "--limit", 1, "--json").stdout)
    assert (newest["run_id"], newest["local"]) == ("nightly-20260502T003000Z", "2026-05-02T02:30:00+02:00")


@pytest.mark.parametrize("command", [["run"], ["tick", "nightly"], ["list"], ["history"], ["check"]])
def test_what_is_wrong_is_told_by_each_command(folder, command):
    (folder / "wanbatch.toml").write_text(ALWAYS.replace("Europe/Berlin", "Europe/Berln"))
    [told] = refused(invoke("schedule", *command))
    assert told.startswith("wanbatch.toml: schedule always: timezone 'Europe/Berln': there is none of this name")
    assert not (folder / "schedule-state").exists()


def test_other_refusals(folder):
    [told] = refused(invoke("schedule", "tick", "nightli"))
    assert told == "schedule nightli: there is none of this name; known: nightly; did you mean nightly?"
    (folder / "shop.jsonl").unlink()
    result = invoke("schedule", "check")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "shop.jsonl: there is no such manifest: create it, or correct `manifest`" in result.stderr
    yearly = ALWAYS.replace("* * * * *", _not_now())
    (folder / "wanbatch.toml").write_text(yearly)
    [told] = refused(invoke("schedule", "tick", "always"))
    assert "schedule always: was not due within its deadline, is due next at " in told


def _not_now() -> str:
    away = datetime.now(UTC) + timedelta(days=90)
    return f"0 0 {min(away.day, 28)} {away.month} *"


def test_a_damaged_ledger(folder):
    (folder / "schedule-state").mkdir()
    (folder / "schedule-state" / "ledger.sqlite").write_bytes(b"not a ledger" * 500)
    for command in (["run"], ["list"]):
        [told] = refused(invoke("schedule", *command))
        assert "ledger.sqlite: is damaged, or no ledger" in told
        assert "move it away" in told


def test_a_tick_that_failed_says_why_and_where_its_log_is_and_is_not_run_again(folder, capsys):
    """The command is a stand-in that ends as the real one does: its last line says what is wrong."""
    (folder / "wanbatch.toml").write_text(ALWAYS.replace("* * * * *", _hourly()))
    (folder / "failing.py").write_text(
        "import sys\nprint('begun')\nprint('wanbatch: shop.jsonl: bad')\nsys.exit(2)\n"
    )
    state, schedules = folder / "schedule-state", read_schedules(Path("wanbatch.toml"))
    words = (sys.executable, "-S", str(folder / "failing.py"))
    row = run_tick(schedules, "always", state, folder, wanbatch=words).last
    reason = "bad usage, settings or manifest: see its log, which ends with: wanbatch: shop.jsonl: bad"
    assert (row.state, row.exit_code, row.reason) == ("failed", 2, reason)
    [log] = (state / "always").glob("*.log")
    assert "begun" in log.read_text()
    said = capsys.readouterr().err.splitlines()[-1]
    assert f": failed at {shown(row.ended, schedules[0])} with exit code 2 ({reason}); its log is {log}" in said

    history = invoke("schedule", "history").stdout.splitlines()
    assert history[0].endswith(f"failed, exit code 2: {reason}")
    assert history[1].strip() == f"log: {log}"
    assert json.loads(invoke("schedule", "history", "--json").stdout)[0]["log"] == str(log)

    before = log.read_bytes()
    assert run_tick(schedules, "always", state, folder, wanbatch=words) == (row, (row,))
    (said,) = capsys.readouterr().err.splitlines()
    assert (
        f": failed at {shown(row.ended, schedules[0])} with exit code 2 ({reason}); its log is {log}: it is not"
        in said
    )
    assert re.search(r": it is not run again; next at \d{4}-\d\d-\d\d \d\d:\d\d CES?T$", said)
    assert log.read_bytes() == before
    log.unlink()
    assert len(invoke("schedule", "history").stdout.splitlines()) == 1


@pytest.mark.slow
def test_a_tick_that_makes_pictures_once(folder, model_folder):
    """The whole way with the real run: started by hand, recorded, and not run again."""
    text = ALWAYS + f'[schedule.always.settings]\nmodel = "{model_folder}"\nsteps = 2\nwidth = 64\nheight = 64\n'
    (folder / "wanbatch.toml").write_text(text.replace("* * * * *", _hourly()))
    (folder / "shop.jsonl").write_text('{"id": "owl", "prompt": "an owl", "creativity": 1}\n')
    command = [sys.executable, "-m", "wanbatch.jobs.cli", "schedule", "tick", "always", "--json"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=280)
    [log] = (folder / "schedule-state" / "always").glob("*.log")
    assert done.returncode == 0, done.stderr + log.read_text()
    row = json.loads(done.stdout)
    assert (row["state"], row["exit_code"], row["attempts"]) == ("ran", 0, 1)
    assert log.name == f"{stamp(datetime.fromisoformat(row['time']))}.log"
    assert "1 pictures" in log.read_text() or "1 picture" in log.read_text()
    again = json.loads(subprocess.run(command, cwd=folder, env=environment(), capture_output=True).stdout)
    assert again == row


def _hourly() -> str:
    """A cron that was due some minutes ago and will not be for some."""
    return f"{(datetime.now(UTC) - timedelta(minutes=5)).minute} * * * *"


@pytest.mark.slow
def test_every_minute_with_a_kill_in_the_middle(folder, model_folder):
    """The real service with the real run; the service is killed while a run goes on, then the run, too."""
    text = ALWAYS + f'[schedule.always.settings]\nmodel = "{model_folder}"\nsteps = 30\nwidth = 64\nheight = 64\n'
    (folder / "wanbatch.toml").write_text(text + "unit_rows = 1\n")
    rows = "".join(f'{{"id": "r{number}", "prompt": "an owl", "seed": {number}}}\n' for number in range(60))
    (folder / "shop.jsonl").write_text(rows)

    def states() -> list[tuple[str, int]]:
        found = json.loads(invoke("schedule", "history", "--json").stdout)
        return [(row["state"], row["attempts"]) for row in reversed(found)]

    first = start("schedule", "run", cwd=folder)
    wait_until(lambda: list((folder / "out").glob("data/part-*")), 200, what="a picture")
    launcher = ProcessLauncher(folder / "schedule-state", folder)
    processes = list(launcher._holders(open_tick(folder)))
    for process in processes:
        process.suspend()  # however long what follows takes, the run is in its middle
    first.kill()
    first.communicate(timeout=30)  # its run does not keep its output open
    assert states()[0] == ("running", 1)
    second = start("schedule", "run", cwd=folder)
    for process in processes:
        process.kill()
    wait_until(lambda: [state for state in states() if state[0] == "ran"], 280, what="a tick that ran")
    state, attempts = states()[0]
    assert (state, attempts >= 2) == ("ran", True), logs(folder)
    made = rows_by_id(folder / "out")
    assert made.keys() == {f"r{number}" for number in range(60)}
    with open(folder / "shop.jsonl", "a") as file:
        file.write('{"id": "new", "prompt": "a sailboat", "seed": 1}\n')
    wait_until(lambda: status_of("out")["done"] == 61, 280, what="the next tick")
    wait_until(lambda: states()[-1][0] != "running", 200, what="its end")
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=120)
    assert second.returncode == 0
    status = status_of("out")
    assert (status["done"], status["quarantined"], status["pending"]) == (61, 0, 0)
    after = rows_by_id(folder / "out")
    assert after.keys() == {*made, "new"}
    assert all(after[name]["sha256"] == row["sha256"] for name, row in made.items())
    assert len(table(folder / "out", "data")) == 61
    times = [row["time"] for row in json.loads(invoke("schedule", "history", "--json").stdout)]
    assert len(times) == len(set(times))
    *before, last = [state for state, _ in states()]
    assert {*before} <= {"ran", "skipped", "missed"}, logs(folder)
    assert last in {"ran", "skipped", "interrupted"}, logs(folder)  # another one may have begun just then


def status_of(out: str) -> dict[str, int]:
    """What `wanbatch status` says of a folder."""
    return json.loads(invoke("status", out, "--json").stdout)


def logs(folder: Path) -> str:
    """What the commands of all ticks printed."""
    return "\n".join(log.read_text() for log in sorted((folder / "schedule-state" / "always").glob("*.log")))


def open_tick(folder: Path) -> Tick:
    """The one tick that is not over."""
    with opened_ledger(folder / "schedule-state", read_only=True) as ledger:
        [tick] = [tick for tick in ledger.latest(count=10) if tick.is_open]
    return tick
