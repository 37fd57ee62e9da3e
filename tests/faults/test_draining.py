"""The first signal lets workers finish what they hold, for a while; the second ends the run at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import pytest
from fault_making import require_whole
from job_making import commit_records, commits, log_events, rows_by_id, wait_until

NAMES = [f"slow-{index:02d}" for index in range(60)]
ROWS = [{"id": name, "prompt": "x"} for name in NAMES]


def committed(out) -> int:
    return sum(len(record["ids"]) for record in commit_records(out))


def signalled(process: subprocess.Popen, out, number: int, group: bool = False) -> tuple[int, str, str]:
    """Send a signal in the middle of a unit; returns how many images were committed then, and what was printed."""
    wait_until(lambda: committed(out) >= 2, what="the first unit")
    before = committed(out)
    os.killpg(process.pid, number) if group else process.send_signal(number)
    told, err = process.communicate(timeout=120)
    return before, told, err


def drained(told: str) -> int:
    return int(re.search(r"drained +(\d+) pictures", told)[1])


@pytest.mark.parametrize(
    "group",
    [
        pytest.param(False, id="SIGTERM to the command"),
        pytest.param(True, id="Ctrl-C to its group", marks=pytest.mark.slow),
    ],
)
def test_what_workers_hold_is_finished(start_command, shared_ray, tmp_path, group):
    """Before, up to four units of each worker were thrown away, with 30 to 120 seconds to spare."""
    out = tmp_path / "out"
    process = start_command(ROWS, "--unit-rows", 2, "--drain-seconds", 60, WANBATCH_TEST_RAY=shared_ray)
    number = signal.SIGINT if group else signal.SIGTERM
    before, told, err = signalled(process, out, number, group)
    assert process.returncode == 130, err
    assert 1 <= drained(told) <= 8
    assert committed(out) == before + drained(told)
    assert committed(out) % 2 == 0, "whole units"
    assert "dropped" not in told
    [event] = log_events(out, "interrupted")
    assert event["drained"] == drained(told)
    assert log_events(out, "unit_lost") == []
    require_whole(out, set(rows_by_id(out)))


def test_a_unit_that_takes_too_long_is_cut_off_and_what_is_made_of_it_is_kept(start_command, shared_ray, tmp_path):
    """A unit of 12 seconds, and 5 to spare: a part of it is committed, and the rest is made by the next run."""
    out, options = tmp_path / "out", ("--unit-rows", 12, "--drain-seconds", 5)
    rows = [{"id": f"quick-{index:02d}", "prompt": "x"} for index in range(12)] + ROWS[:12]
    process = start_command(rows, *options, WANBATCH_TEST_RAY=shared_ray)
    before, told, err = signalled(process, out, signal.SIGTERM)
    assert process.returncode == 130, err
    assert (before, 1 <= drained(told) < 12) == (12, True), told
    assert committed(out) == before + drained(told)
    require_whole(out, set(rows_by_id(out)))
    again = start_command(rows, *options, WANBATCH_TEST_RAY=shared_ray, pipeline="load_mended")
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    require_whole(out, {row["id"] for row in rows})


def test_the_second_signal_ends_at_once(start_command, shared_ray, tmp_path):
    out = tmp_path / "out"
    rows = [{"id": "a", "prompt": "x"}, {"id": "wait-b", "prompt": str(tmp_path / "never")}]
    process = start_command(rows, "--drain-seconds", 100, WANBATCH_TEST_RAY=shared_ray)
    wait_until(lambda: commits(out), what="the first commit")
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    for line in process.stderr:
        if '"draining"' in line:
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130
    require_whole(out, {"a"})


def test_no_time_to_drain_ends_at_once(start_command, shared_ray, tmp_path):
    out = tmp_path / "out"
    rows = [{"id": "a", "prompt": "x"}, {"id": "wait-b", "prompt": str(tmp_path / "never")}]
    process = start_command(rows, "--drain-seconds", 0, WANBATCH_TEST_RAY=shared_ray)
    wait_until(lambda: commits(out), what="the first commit")
    process.send_signal(signal.SIGTERM)
    told, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "drained" not in told
    require_whole(out, {"a"})
