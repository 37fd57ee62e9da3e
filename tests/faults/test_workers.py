"""Workers that die, stop, hang, or are all lost at once."""

from __future__ import annotations

import functools
import os
import signal
import time

import fake_pipelines
import pytest
import ray
from fault_making import require_whole
from job_making import commits, gone, log_events, rows_by_id, table, workers_of

from wanbatch.errors import MachineryError
from wanbatch.jobs.driver import retry_policy, worker_slot


def rows(*names: str, prompt: object = "x") -> list[dict]:
    return [{"id": name, "prompt": str(prompt)} for name in names]


@pytest.mark.parametrize("index", [pytest.param(0, marks=pytest.mark.slow), 6])
def test_a_row_that_kills_its_worker_among_eight(run_rows, tmp_path, index):
    """Fault 4. Its unit of eight is tried twice and halved, each half once, and the row alone four times."""
    names = ["kill-me" if number == index else f"r{number}" for number in range(8)]
    summary = run_rows(rows(*names), unit_rows=8)
    assert summary.exit_code == 3
    require_whole(tmp_path / "out", set(names) - {"kill-me"}, {"kill-me"})
    [failure] = rows_by_id(tmp_path / "out", "failures").values()
    assert (failure["error_class"], failure["attempts"], failure["manifest_row"]) == ("worker_died", 4, index)
    lost = [event["rows"] for event in log_events(tmp_path / "out", "unit_lost")]
    assert sorted(lost, reverse=True) == [8, 8, 4, 2, 1, 1, 1, 1]


def test_workers_are_replaced_after_pauses_that_grow(run_rows, tmp_path, monkeypatch):
    """All die, also those who are given what was made before: the run ends, and no row is blamed."""
    asked: list[int] = []
    monkeypatch.setattr(worker_slot, "pause_after", lambda losses: asked.append(losses) or 0.0)
    monkeypatch.setattr(retry_policy, "MAX_LOSSES_IN_A_ROW", 3)
    monkeypatch.setattr(retry_policy, "MAX_LOSSES_IN_A_ROW_PER_WORKER", 1)
    run_rows(rows("a"))
    with pytest.raises(MachineryError, match="4 workers were lost one after the other"):
        run_rows(rows("a", "b", "c"), load=fake_pipelines.load_that_kills, workers=1)
    require_whole(tmp_path / "out", {"a"})
    assert asked == [0, 1, 2, 3]
    assert run_rows(rows("a", "b", "c")).exit_code == 0
    require_whole(tmp_path / "out", {"a", "b", "c"})


def test_pauses_double_up_to_half_a_minute():
    pauses = [worker_slot.pause_after(losses) for losses in range(10)]
    assert pauses[:4] == [0.2, 0.4, 0.8, 1.6]
    assert pauses[8:] == [30.0, 30.0]


@pytest.mark.slow
def test_a_worker_that_always_dies_beside_one_that_works(run_rows, tmp_path):
    """A broken device, as it were: what it loses is made by the other one, and no row is blamed."""
    names = [f"slow-{index}" for index in range(20)]
    load = functools.partial(fake_pipelines.load_broken_but_one, tmp_path / "lock")
    assert run_rows(rows(*names), load=load, workers=2).exit_code == 0
    require_whole(tmp_path / "out", set(names))
    lost = log_events(tmp_path / "out", "unit_lost")
    assert len(lost) >= 3
    assert len({event["worker"] for event in lost}) == 1


@pytest.mark.slow
def test_a_manifest_of_nothing_but_rows_that_kill(run_rows, tmp_path):
    """Nothing shows that anything can be made, and yet it ends."""
    summary = run_rows(rows("kill-a", "kill-b"), workers=2)
    assert (summary.exit_code, summary.failures) == (3, {"worker_died": 2})
    require_whole(tmp_path / "out", set(), {"kill-a", "kill-b"})


@pytest.mark.slow
def test_more_rows_that_kill_than_losses_are_allowed_in_a_row(run_rows, tmp_path, monkeypatch):
    """They come one after the other, with nothing else left: probes show that it is they."""
    monkeypatch.setattr(retry_policy, "LOSSES_BEFORE_PROBES", 2)
    monkeypatch.setattr(retry_policy, "MAX_LOSSES_IN_A_ROW", 4)
    monkeypatch.setattr(retry_policy, "MAX_LOSSES_IN_A_ROW_PER_WORKER", 2)
    names = {f"kill-{index}" for index in range(6)}
    assert run_rows(rows("a", *sorted(names)), workers=2).exit_code == 3
    require_whole(tmp_path / "out", {"a"}, names)
    assert 6 * 4 <= len(log_events(tmp_path / "out", "unit_lost")) <= 6 * 5


def test_all_workers_die_with_work_queued(run_rows, tmp_path):
    """Fault 5. Twice all of them are killed at once, in the middle of units, with others in hand."""
    names = [f"slow-{index}" for index in range(8)]
    seen: list[set[int]] = []

    def kill_all() -> None:
        found = workers_of(os.getpid())
        if (
            len(found) == 2
            and len(seen) < 2
            and commits(tmp_path / "out")
            and not any({p.pid for p in found} & old for old in seen)
        ):
            seen.append({process.pid for process in found})
            for process in found:
                process.send_signal(signal.SIGKILL)

    assert run_rows(rows(*names), hook=kill_all, workers=2).exit_code == 0
    assert len(seen) == 2
    require_whole(tmp_path / "out", set(names))
    assert {row["attempt"] for row in table(tmp_path / "out", "timings").to_pylist()} > {1}


def test_a_stopped_worker_is_replaced_after_its_deadline(run_rows, tmp_path):
    """Fault 6, by SIGSTOP: the process says nothing and does not end."""
    stopped = tmp_path / "was-stopped"
    summary = run_rows([*rows("a", "b"), *rows("stop-c", prompt=stopped)], unit_timeout=4)
    assert stopped.exists()
    assert summary.exit_code == 0
    require_whole(tmp_path / "out", {"a", "b", "stop-c"})
    [event] = log_events(tmp_path / "out", "unit_lost")
    assert event["cause"] == "it was not done after 4 s"
    assert gone(process for process in workers_of(os.getpid()) if process.status() == "stopped") == []


def test_a_row_that_hangs_is_quarantined(run_rows, tmp_path):
    """Fault 6, by a sleep without end, beside one that only dies once."""
    died = tmp_path / "has-died"
    summary = run_rows([*rows("hang-a", "b"), *rows("killonce-c", prompt=died)], unit_timeout=1, workers=2)
    assert summary.exit_code == 3
    require_whole(tmp_path / "out", {"b", "killonce-c"}, {"hang-a"})


def test_a_driver_that_is_held_up_blames_nobody(run_rows, tmp_path):
    """It publishes to a slow store, as it were, for longer than a unit may take."""
    names = [f"slow-{index}" for index in range(8)]
    held_up_at: set[int] = set()

    def hold_up() -> None:
        count = len(commits(tmp_path / "out"))
        if count in (2, 4) and count not in held_up_at:
            held_up_at.add(count)
            time.sleep(7)

    assert run_rows(rows(*names), hook=hold_up, workers=2, unit_timeout=5).exit_code == 0
    assert held_up_at == {2, 4}
    require_whole(tmp_path / "out", set(names))
    assert log_events(tmp_path / "out", "unit_lost") == []


def test_a_bug_in_a_worker_is_not_tried_again(run_rows, tmp_path):
    """What is wrong with our own code is no row's and no machine's fault: it ends the run as what it is."""
    with pytest.raises(ray.exceptions.RayTaskError, match="AttributeError"):
        run_rows(rows("a", "bug-b"), load=fake_pipelines.load_with_a_bug)
    assert log_events(tmp_path / "out", "unit_lost") == []


@pytest.mark.slow
def test_workers_that_never_get_ready(run_rows, monkeypatch):
    """A node of the cluster that is not there, or storage that does not answer: no waiting without end."""
    monkeypatch.setattr(worker_slot, "START_SECONDS", 1.0)
    with pytest.raises(MachineryError, match="it was not ready after 1 s"):
        run_rows(rows("a"), load=fake_pipelines.load_for_ever)
