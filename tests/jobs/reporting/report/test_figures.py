"""The arithmetic of the report: curves, shares, slots, samples, alike messages."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from report_folders import event, timing_of

from wanbatch.jobs.reporting.report import charts, work
from wanbatch.jobs.reporting.report.cards import Card
from wanbatch.jobs.reporting.report.failures import failure_classes
from wanbatch.jobs.reporting.report.groups import classes_before_and_after, counted
from wanbatch.jobs.reporting.report.history import sessions_of, timeline_of
from wanbatch.jobs.reporting.report.page import arranged
from wanbatch.jobs.reporting.report.sampling import stratified
from wanbatch.manifests.dataset.event_log import parsed_events
from wanbatch.manifests.records import timing_table


def unit(seconds: float, worker: str = "w0", made: int = 6, busy: float = 10.0) -> bytes:
    return event("unit", seconds, worker=worker, made=made, failed=0, busy_seconds=busy)


def test_images_of_the_curve_are_those_that_were_made():
    log = event("started", 0) + unit(20) + unit(25, "w1") + unit(30) + event("interrupted", 31)
    log += event("started", 9000) + unit(9020, made=12, busy=15) + event("finished", 9021) + b'{"time": "cut'
    events = parsed_events(log)
    timeline = timeline_of(events, bins=40)
    assert timeline is not None
    assert sum(timeline.images_per_second) * timeline.bin_seconds == pytest.approx(30, rel=1e-3)
    assert max(timeline.workers) == 2
    assert timeline.bin_seconds * 40 == pytest.approx(20 + 15), "the hours between the two runs are left out"
    assert timeline.run_starts == [0, 20]
    sessions = sessions_of(events)
    assert [(one.ended, one.made) for one in sessions] == [("interrupted", 18), ("finished", 12)]
    assert [one.making_seconds for one in sessions] == [20, 15], "without the start of a run and its end"


def test_units_that_overlap_begin_when_their_worker_is_ready():
    """Two units leave at once, of which the first had the worker's first 16 seconds, also while it did other work."""
    log = event("started", 0) + event("worker_ready", 4, worker="w0") + event("start", 4)
    log += unit(20, made=10, busy=7) + unit(20, made=5, busy=9) + unit(24, made=5, busy=4) + event("finished", 30)
    events = parsed_events(log)
    [session] = sessions_of(events)
    assert session.making_seconds == 20
    timeline = timeline_of(events, bins=20)
    assert timeline is not None
    assert timeline.bin_seconds == 1
    assert min(timeline.images_per_second) > 0, "it made pictures all the time"
    assert timeline.workers == [1] * 20
    assert sum(timeline.images_per_second) == pytest.approx(20, rel=1e-3)


def test_no_log_is_no_curve():
    assert timeline_of(parsed_events(None)) is None
    assert timeline_of(parsed_events(event("started", 0))) is None


@pytest.mark.parametrize("values", [[1, 1, 1], [1e-9, 5, 7.3], [3], [1] * 7, [0.1, 99.9]])
def test_shares_add_up(values):
    for digits in (0, 1):
        found = charts.shares({str(index): value for index, value in enumerate(values)}, digits)
        assert sum(found.values()) == pytest.approx(100, abs=1e-9)
        for index, value in enumerate(values):
            assert abs(found[str(index)] - value / sum(values) * 100) <= 10**-digits


def test_shares_of_nothing():
    assert charts.shares({"a": 0.0}) == {"a": 0.0}


def test_slot_use_counts_what_a_unit_leaves_empty():
    full = timing_table([timing_of(number, 0, slots=4) for number in range(8)])
    assert work.slot_use(full) == 1
    assert work.slot_use(timing_table([timing_of(0, 0, slots=4)])) == 0.25


def test_slot_use_is_what_workers_counted_where_records_have_it_of_all_images():
    counted = [replace(timing_of(number, 0, slots=4), slot_steps=40.0) for number in range(2)]
    used = sum(one.steps_full + one.steps_cached for one in counted)
    assert work.slot_use(timing_table(counted)) == pytest.approx(used / 80, abs=1e-4)
    before = timing_of(2, 0, slots=4)
    some = timing_table([*counted, before])
    without = timing_table([replace(one, slot_steps=None) for one in (*counted, before)])
    assert (
        work.slot_use(some) == work.slot_use(without) == work.slot_use(without.drop_columns(["slot_steps"])) == 0.75
    )


def test_stratified_takes_all_kinds_and_the_cheapest_of_each():
    strata = [("common",)] * 50 + [("rare",)]
    chosen = stratified(strata, [index % 10 for index in range(51)], [str(index) for index in range(51)], 6)
    assert 50 in chosen
    assert len(chosen) == 6
    assert all(index % 10 == 0 for index in chosen if index != 50)
    many = [(index,) for index in range(1000)]
    spread = stratified(many, [0] * 1000, [str(index) for index in range(1000)], 10)
    assert len(spread) == 10
    assert spread[0] < 200
    assert spread[-1] > 800


def test_messages_that_differ_by_row_are_one():
    failures = [
        {"id": str(number), "error_class": "missing_image", "stage": "source", "message": f"a/{number}.png is gone"}
        for number in range(30)
    ] + [{"id": "x", "error_class": "nan", "stage": "denoise", "message": "contains NaN"}]
    first, second = failure_classes(failures, "out folder")
    assert (first["class"], first["images"], len(first["messages"]), len(first["messages"][0]["ids"])) == (
        "missing_image",
        30,
        1,
        10,
    )
    assert second["retry"] == "wanbatch retry 'out folder' --class nan"


def test_counts_beyond_the_limit_are_summed_up():
    found = counted([str(index) for index in range(10)] + ["0"], most=3)
    assert found[0] == {"value": "0", "images": 2}
    assert found[-1] == {"value": "7 others", "images": 7}


def test_classes_count_different_sources_once():
    made = ["a", "a", "b"], [("x",), ("x", "y"), ()], [False, True, False]
    assert classes_before_and_after(*made, failed=["b", "c"]) == [
        {"class": "a", "sources": 2, "made": 2, "failed": 0, "rejected": 1, "after": 3},
        {"class": "b", "sources": 0, "made": 1, "failed": 1, "rejected": 0, "after": 1},
        {"class": "c", "sources": 0, "made": 0, "failed": 1, "rejected": 0, "after": 0},
    ]
    assert [row["failed"] for row in classes_before_and_after(*made)] == [None, None]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (75, "1 min 15 s"), (3600 * 5 + 720, "5 h 12 min"), (200000, "2 d 7 h")]
)
def test_durations(seconds, words):
    assert charts.duration(seconds) == words


def card(number: int, creativity: str) -> Card:
    return Card(f"{number}", None, "", {"creativity": creativity}, (), (), 0, (), number)


def test_groups_of_pictures_stand_under_headings_and_single_ones_side_by_side():
    sweep = [card(number, f"{1 - number / 10:g}") for number in range(5)]
    [(heading, of)] = arranged(sweep, "creativity")
    assert heading is None
    assert [one.kinds["creativity"] for one in of] == ["0.6", "0.7", "0.8", "0.9", "1"], "in the order of groups"

    groups = arranged([card(number, "0.3" if number % 2 else "none") for number in range(6)], "creativity")
    assert [(heading, [one.number for one in of]) for heading, of in groups] == [
        ("0.3", [1, 3, 5]),
        ("none", [0, 2, 4]),
    ]


def test_what_comes_to_a_folder_after_its_run_is_no_part_of_it():
    def at(day: int, second: int, name: str, **said) -> dict:
        return {"time": datetime(2026, 11, day, 10, 0, second, tzinfo=UTC), "event": name, **said}

    unit = {"made": 2, "failed": 0, "busy_seconds": 3.0, "worker": "w"}
    finished = [at(1, 0, "started"), at(1, 9, "unit", **unit), at(1, 10, "finished")]
    killed = [at(3, 0, "started"), at(3, 7, "unit", **unit)]
    events = [*finished, at(2, 0, "repaired"), *killed, at(4, 0, "set_aside"), at(4, 1, "started")]
    assert [one.seconds for one in sessions_of(events)] == [10.0, 7.0, 0.0]
    assert [one.ended for one in sessions_of(events)] == ["finished", None, None]
