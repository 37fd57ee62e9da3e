"""Real processes: the service is killed or stopped while a run goes on, its run too, and nothing is made twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import psutil
import pytest
from job_making import wait_until
from schedule_folder import SERVICE, ScheduleFolder, Started

from wanbatch.jobs.schedule.launcher import ProcessLauncher
from wanbatch.jobs.schedule.ledger import Tick


class Place(ScheduleFolder):
    """A folder with a schedule that is due some seconds after the first service begins."""

    CRON = "0 2 * * *"

    def service(self) -> Started:
        return self.start(SERVICE)

    def row(self) -> Tick | None:
        rows = self.ticks()
        assert len(rows) <= 1
        return rows[0] if rows else None

    def wait_for(self, state: str) -> Tick:
        return wait_until(lambda: (row := self.row()) is not None and row.state == state and row, what=state)


@pytest.fixture
def place(tmp_path) -> Iterator[Place]:
    with Place.open(tmp_path) as found:
        yield found


def started(place: Place) -> Started:
    service = place.service()
    place.started(1)
    wait_until(lambda: len(place.of_tick(place.row())) == 2, what="both processes")
    return service


def test_a_killed_service_whose_run_goes_on(place):
    service = started(place)
    service.kill()
    again = place.service()
    other = place.service()
    wait_until(lambda: again.poll() is not None or other.poll() is not None, what="the second copy to refuse")
    place.let_it_end()
    row = place.wait_for("ran")
    assert (row.attempts, row.exit_code, row.reason) == (1, 0, "")
    [call] = place.calls("ended")
    assert call["arguments"] == ["run", str(place.folder / "shop.jsonl"), "--out", str(place.folder / "out"),
                                 "--rerun-changed"]  # fmt: skip
    assert call["WANBATCH_SCHEDULED_TIME"] == "2026-05-01T02:00:00+00:00"
    assert call["WANBATCH_SCHEDULED_RUN"] == "nightly-20260501T020000Z"
    losers = [one for one in (again, other) if one.poll() is not None]
    assert [one.returncode for one in losers] == [4]
    assert "another `wanbatch schedule run`" in losers[0].communicate(timeout=30)[1]


@pytest.mark.parametrize(("off", "code"), [(1.0, -signal.SIGTERM), (10.0, 0)])
def test_a_process_is_known_again_if_the_hosts_clock_moved_and_another_with_its_number_is_not(tmp_path, off, code):
    launcher, now = ProcessLauncher(tmp_path, tmp_path), datetime(2026, 5, 1, 2, tzinfo=UTC)
    tick = Tick("nightly", now, "running", "", now)
    lock = launcher.log_of(tick).with_suffix(".lock")
    lock.parent.mkdir()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = {"pid": process.pid, "started": psutil.Process(process.pid).create_time() + off}
    lock.write_text(json.dumps([holder]))
    launcher.stop(tick)
    if code == 0:
        process.communicate(b"\n", timeout=30)  # it lives, and ends by itself
    assert process.wait(timeout=30) == code


@pytest.mark.parametrize("killed", ["both", "the one that runs the command"])
def test_a_killed_service_whose_run_is_killed_too(place, killed):
    service = started(place)
    service.kill()
    parent, command = place.of_tick(place.row())
    parent.kill()
    if killed == "both":
        command.kill()
        command.wait(timeout=30)
    place.service()
    if killed != "both":
        time.sleep(0.5)
        assert place.row().state == "running", "the command still holds the lock"
    place.let_it_end()
    row = place.wait_for("ran")
    assert (row.attempts, row.exit_code, row.reason) == (2, 0, "resumed: 2 attempts")
    assert len(place.calls("started")) == 2
    assert len(place.calls("ended")) == (1 if killed == "both" else 2)


def test_a_service_that_is_told_to_stop_and_goes_on_later(place):
    service = started(place)
    service.send_signal(signal.SIGTERM)
    told = service.communicate(timeout=60)[1]
    assert service.returncode == 0
    assert "stopping: nightly-20260501T020000Z may end what they hold" in told
    assert len(place.calls("drained")) == 1
    row = place.row()
    assert (row.state, row.exit_code, row.reason) == ("interrupted", 130, "stopped with its scheduler")
    place.let_it_end(3)
    place.service()
    row = place.wait_for("ran")
    assert (row.attempts, row.exit_code) == (2, 3)
    service = psutil.Process(place.processes[-1].pid)
    wait_until(lambda: not service.children(), 20, what="no process that is left over")
    log = (place.folder / "state/nightly/20260501T020000Z.log").read_text()
    assert log.count("hello from the run") == 2
    assert "attempt 1: " in log
    assert "attempt 2: " in log
    assert "ended with exit code 130" in log
    left = place.folder / "state/nightly"
    wait_until(lambda: [path.name for path in left.iterdir()] == ["20260501T020000Z.log"], 20, what="the log alone")


@pytest.mark.parametrize("ending", [75, 4, "cut 1"])
def test_the_machinery_fails_and_is_tried_again(place, ending):
    """Also where another run holds the folder, and where Ray ends the run, with the exit code of a bug."""
    place.let_it_end(ending)
    place.service()
    wait_until(lambda: len(place.calls("ended")) == 2, what="a second attempt")
    place.let_it_end(0)
    row = place.wait_for("ran")
    assert row.attempts >= 3
    assert row.attempts == len(place.calls("ended"))
