"""Stopping a run: by signals in the main thread, by an event in any other; the real command, killed."""

from __future__ import annotations

import json
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import StringIO
from pathlib import Path

import faulty_models
import pytest
from command_line import invoke
from job_making import log_events, rows_by_id, write_jsonl

from wanbatch.jobs.driver.interruption import stop_on_signals
from wanbatch.jobs.driver.run import run
from wanbatch.jobs.reporting.progress import JsonLines
from wanbatch.manifests.dataset.status import status


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


class StopTwice(JsonLines):
    """Progress that interrupts the run twice once images are made after the first commit and not committed."""

    def __init__(self, total: int, before: int, out: Path, stream: StringIO):
        super().__init__(total, before, stream)
        self._out = out

    def update(self, made: int, failed: int) -> None:
        super().update(made, failed)
        if made > status(self._out)["done"] > 0:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_two_signals_drop_what_is_in_hand_and_say_so(local_ray, settings, tmp_path, monkeypatch):
    """Through the command line: the last progress, the message and `status` have the same number."""
    rows = [{"id": f"row-{number}", "prompt": "x"} for number in range(18)]
    manifest, out, shown = write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "out", StringIO()
    slow_disk = partial(faulty_models.load_with_slow_disk, 2.0)
    watched = partial(run, progress=lambda rows, before: StopTwice(rows, before, out, shown), load=slow_disk)
    monkeypatch.setattr("wanbatch.jobs.driver.run.run", watched)
    flags = ["--model", settings().model, "--width", 32, "--height", 32, "--steps", 2, "--unit-rows", 6]
    ended = invoke("run", manifest, "--out", out, *flags)
    kept = status(out)["done"]
    assert ended.exit_code == 130, ended.output
    told = re.search(
        r"interrupted: (\d+) of 18 pictures made and kept, (\d+) more made and dropped; run", ended.stderr
    )
    assert told is not None, ended.stderr
    assert (int(told[1]), int(told[2]) > 0) == (kept, True)
    assert json.loads(shown.getvalue().splitlines()[-1])["made"] == kept
    monkeypatch.setattr("wanbatch.jobs.driver.run.run", run)
    again = invoke("run", manifest, "--out", out, *flags, "--json")
    assert (again.exit_code, json.loads(again.stdout)["made_now"]) == (0, 18 - kept)


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
