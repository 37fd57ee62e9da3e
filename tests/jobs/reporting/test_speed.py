"""The speed of a run is that of the pictures that it made, wherever it is said."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from command_line import invoke
from report_folders import fill_folder

from wanbatch.jobs.reporting.report.collect import collect
from wanbatch.jobs.reporting.report.history import timeline_of
from wanbatch.jobs.reporting.watch import look
from wanbatch.manifests.dataset.event_log import LOG, making_seconds, parsed_events, speed_of
from wanbatch.manifests.storage.backend import open_backend


def test_all_say_the_same_speed(tmp_path):
    out = tmp_path / "out"
    fill_folder(out, units=2, rows=8, failed=6, left=16)
    events = parsed_events((out / "_wanbatch" / LOG).read_bytes())
    seconds = making_seconds(events)
    made = 10 / seconds
    told = json.loads(invoke("status", out, "--json").stdout)
    assert told["pictures_per_second"] == pytest.approx(made)
    assert collect(out).data["images_per_second"] == pytest.approx(made, abs=1e-4)
    seen = look(out, now=events[-1]["time"] + timedelta(seconds=1))
    assert seen.images_per_second == pytest.approx(made)
    timeline = timeline_of(events)
    assert timeline is not None
    assert sum(timeline.images_per_second) * timeline.bin_seconds == pytest.approx(10, rel=1e-2)


def test_what_is_left_takes_as_long_as_what_ended_took(tmp_path):
    out = tmp_path / "out"
    fill_folder(out, units=2, rows=8, failed=6, left=32, ended=None)
    events = parsed_events((out / "_wanbatch" / LOG).read_bytes())
    seconds = making_seconds(events)
    backend = open_backend(out)
    backend.acquire()
    try:
        told = json.loads(invoke("status", out, "--json").stdout)
        seen = look(out, now=events[-1]["time"])
    finally:
        backend.release()
    assert told["pending"] == 32
    assert told["seconds_left"] == pytest.approx(2 * seconds)
    assert seen.seconds_left == pytest.approx(2 * seconds, rel=0.5)


def test_without_images_or_time_there_is_no_speed():
    assert speed_of(0, 0, 10) is None
    assert speed_of(5, 0, 0) is None
    assert speed_of(0, 4, 2) == (0, 2)
