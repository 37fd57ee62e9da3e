"""Stopping a run: by signals in the main thread, by an event in any other; the real command, killed."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from io import StringIO

import faulty_models
import pytest
from job_making import log_events, rows_by_id, write_jsonl

from wanbatch.jobs.driver.interruption import stop_on_signals
from wanbatch.jobs.driver.run import run
from wanbatch.jobs.reporting.progress import JsonLines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_raises(number):
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_an_event_asks_too():
    event = threading.Event()
    with stop_on_signals(event) as stop:
        assert not stop()
        event.set()
        assert stop()
        signal.raise_signal(signal.SIGINT)  # the first signal: no exception


def test_another_thread_leaves_signals_as_they_are():
    before = signal.getsignal(signal.SIGINT)

    def look() -> tuple:
        with stop_on_signals(event := threading.Event()) as stop:
            event.set()
            return signal.getsignal(signal.SIGINT), stop()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(look).result() == (before, True)
    assert signal.getsignal(signal.SIGINT) is before


class StopAfter(JsonLines):
    """Progress that sets an event once some images are made."""

    def __init__(self, total: int, before: int, made: int, stop: threading.Event):
        super().__init__(total, before, StringIO())
        self._after, self._stop = made, stop

    def update(self, made: int, failed: int) -> None:
        super().update(made, failed)
        if made >= self._after:
            self._stop.set()


@pytest.mark.slow
def test_a_run_in_a_thread_is_stopped_and_gone_on_with(local_ray, settings, tmp_path):
    rows = [{"id": f"slow-{number}", "prompt": "x"} for number in range(12)]
    manifest, out = write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "out"
    stop, chosen = threading.Event(), settings(unit_rows=1)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(
            run, manifest, out, chosen, lambda n, done: StopAfter(n, done, 2, stop), faulty_models.load, stop=stop
        ).result()
        assert (first.interrupted, first.exit_code) == (True, 130)
        assert 0 < first.made < 12
        assert len(log_events(out, "interrupted")) == 1
        quiet = thread.submit(run, manifest, out, chosen, lambda n, done: JsonLines(n, done, StringIO())).result()
    assert (quiet.exit_code, quiet.made, quiet.made_now) == (0, 12, 12 - first.made)
    assert sorted(rows_by_id(out)) == sorted(row["id"] for row in rows)
