"""`wanbatch status --watch`: what it looks at, what it shows, when it ends, and what terminals are sent."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from picture_folders import fill
from PIL import Image, ImageColor
from report_folders import BEGIN, event, fill_folder
from rich.console import Console

from wanbatch.jobs.cli.main import main
from wanbatch.jobs.reporting import contact_sheet, watch
from wanbatch.jobs.reporting.run_log import events_of_last_run
from wanbatch.jobs.reporting.terminal_view import sheet, view
from wanbatch.jobs.reporting.watch import Look, look, looks, recent_speed, workers_of
from wanbatch.manifests.dataset.event_log import parsed_events, speed_of_run


def at(seconds: float):
    return BEGIN + timedelta(seconds=seconds)


def unit(seconds: float, worker: str = "w0", made: int = 10) -> bytes:
    return event("unit", seconds, worker=worker, made=made, failed=0, busy_seconds=10.0)


def shown(seen: Look, out: str = "out") -> str:
    console = Console(width=90, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(view(out, seen))
    return console.export_text()


@pytest.fixture(scope="module")
def half(tmp_path_factory) -> Path:
    """Half of a run that was killed."""
    out = tmp_path_factory.mktemp("watch") / "out"
    fill_folder(out, 2, 8, 2, left=16, ended=None)
    return out


def test_speed_is_that_of_the_last_minutes():
    slow = b"".join(unit(60 * minute, made=6) for minute in range(1, 61))
    fast = b"".join(unit(3600 + 60 * minute, made=60) for minute in range(1, 6))
    run = parsed_events(event("started", 0) + slow + fast)
    assert recent_speed(run, at(3900)) == pytest.approx((1.0, 1.0))
    assert recent_speed(run, at(4050)) == pytest.approx((0.6, 0.6), rel=0.35), "it falls while nothing comes"
    assert recent_speed(run, at(9000)) is None
    ended = [*run, *parsed_events(event("finished", 3900))]
    assert recent_speed(ended, at(9000)) == pytest.approx((1.0, 1.0)), "after the end it is that of the end"
    assert recent_speed(parsed_events(event("started", 0)), at(10)) is None


def test_speed_counts_from_when_the_first_worker_was_ready():
    """The first unit's own ten seconds are not all that it took, if another one was in the model meanwhile."""
    run = parsed_events(event("started", 0) + event("worker_ready", 5, worker="w0") + unit(25) + unit(25, made=30))
    assert recent_speed(run, at(25)) == pytest.approx((40 / 20, 40 / 20))


def test_workers_and_when_they_were_heard_of():
    run = parsed_events(event("started", 0) + unit(20, "a") + unit(30, "b") + unit(50, "a"))
    found = [(worker.name, worker.images, worker.seconds_ago) for worker in workers_of(run, at(60))]
    assert found == [("a", 20, 10), ("b", 10, 30)]


def test_a_look_at_a_run_that_was_killed(half):
    seen = look(half, with_pictures=True, now=at(100))
    assert (seen.running, seen.ended, seen.seconds_left) == (False, None, None)
    assert [picture.size for picture in seen.pictures] == [(64, 64)] * 6
    text = shown(seen)
    assert "no run goes on" in text
    assert "14 of 32 made, 2 failed, 16 left" in text
    assert "2 missing_image" in text
    assert re.search(r"worker +pictures +last unit +\n0 +8 ", text)
    assert sheet(seen.pictures).size == (6 * 64 + 5 * 6, 64)


def test_it_goes_on_until_the_run_ends(half, monkeypatch):
    holders = [{"host": "box", "pid": 7}, {"host": "box", "pid": 7}, None]

    def status(out):
        found = {"rows": 32, "done": 14, "quarantined": 2, "pending": 16, "failures": {}}
        return {**found, "holder": holders.pop(0)}

    monkeypatch.setattr(watch, "status", status)
    slept: list[float] = []
    ticks = iter([0.0, 0.5, 10.0, 10.01, 20.0])
    seen = list(looks(half, 2.0, sleep=slept.append, clock=lambda: next(ticks)))
    assert [one.running for one in seen] == [True, True, False]
    assert slept == pytest.approx([5.0, 2.0]), "a look that takes long is followed by a longer pause"
    assert "running on box (pid 7)" in shown(seen[0])


def test_names_are_text_and_no_markup(half):
    seen = look(half)
    text = shown(seen, out="out[bold]x[/bold]")
    assert "out[bold]x[/bold]" in text


def test_elsewhere_than_on_a_terminal_it_is_text_or_json(half):
    result = CliRunner().invoke(main, ["status", str(half), "--watch"])
    assert (result.exit_code, result.stdout.splitlines()[0]) == (
        0,
        f"{half}: 14 of 32 pictures made, 2 failed, 16 left",
    )
    result = CliRunner().invoke(main, ["status", str(half), "--watch", "--json"])
    assert json.loads(result.stdout)["pending"] == 16
    result = CliRunner().invoke(main, ["status", str(half), "--interval", "1"])
    assert (result.exit_code, "--watch" in result.stderr) == (2, True)


@pytest.mark.parametrize(("attributes", "draws"), [(b"\x1b[?62;4;22c", True), (b"\x1b[?1;2c", False)])
def test_a_terminal_that_says_it_has_sixels_is_sent_pictures(half, attributes, draws):
    """A terminal is imitated: it answers when it is asked what it can do, and keeps what it is sent."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 90, 90 * 10, 40 * 20))
    command = [sys.executable, "-m", "wanbatch.jobs.cli", "status", str(half), "--watch"]
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    sent, asked, deadline = b"", 0, time.monotonic() + 120
    while time.monotonic() < deadline:
        if select.select([controller], [], [], 0.2)[0]:
            try:
                sent += os.read(controller, 65536)
            except OSError:  # its other end is closed
                break
        for _ in range(sent.count(b"\x1b[c") - asked):
            os.write(controller, attributes)
            asked += 1
    os.close(controller)
    assert process.wait(timeout=60) == 0, sent
    assert asked == 1
    assert b"14" in sent
    assert (b"\x1bP" in sent) is draws, "a sixel picture begins with a device control string"


def test_the_speed_of_a_run_begins_with_its_first_unit_and_not_with_the_first_one_that_ended(tmp_path):
    (tmp_path / "_wanbatch").mkdir()

    def unit(second: int, busy: int, worker: str) -> dict:
        time = f"2026-11-01T10:{second // 60:02}:{second % 60:02}+00:00"
        return {"time": time, "event": "unit", "made": 5, "failed": 0, "busy_seconds": busy, "worker": worker}

    began = {"time": "2026-11-01T10:00:00+00:00", "event": "started"}
    lines = [began, unit(60, 10, "late"), unit(100, 100, "slow")]
    (tmp_path / "_wanbatch" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert speed_of_run(events_of_last_run(tmp_path)) == pytest.approx((0.1, 0.1))  # 10 pictures in 100 s


def test_pictures_that_are_damaged_end_neither_a_look_nor_a_sheet(tmp_path, monkeypatch):
    out = fill(tmp_path / "out", ["a", "b", "c"])
    (part,) = (out / "data").glob("*.parquet")
    records = pq.read_table(part).to_pylist()
    records[1]["image"]["bytes"] = records[1]["image"]["bytes"][:60]
    monkeypatch.setattr(contact_sheet, "first_records", lambda *given: records)
    assert contact_sheet.contact_sheet(out, tmp_path / "sheet.png", cell=32) == 3
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.getpixel((12 + 44 + 2, 14)) == ImageColor.getrgb("lightgrey")
    monkeypatch.setattr(watch.CommittedParts, "rows", lambda self, wanted, made: [made(one) for one in records])
    assert len(watch.last_pictures(out)) == 2
