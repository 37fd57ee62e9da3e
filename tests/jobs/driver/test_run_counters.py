"""What a run counts."""

from __future__ import annotations

from wanbatch.jobs.driver.run_counters import RunCounters


def test_images_of_this_run_and_of_earlier_ones():
    counters = RunCounters(rows=10, made_before=3, quarantined_before=1)
    assert (counters.made, counters.quarantined, counters.pending) == (3, 1, 6)
    counters.unit_published(made=4, quarantined=1)
    assert (counters.made, counters.made_now) == (7, 4)
    assert (counters.quarantined, counters.quarantined_now, counters.pending) == (2, 1, 1)


def test_how_busy_the_model_was_counts_from_when_each_worker_was_first_ready():
    now = [0.0]
    counters = RunCounters(10, 0, 0, clock=lambda: now[0])
    assert counters.model_busy is None
    counters.worker_ready(0, warm_up_seconds=2.0)
    now[0] = 5.0
    counters.worker_ready(1, warm_up_seconds=1.0)
    counters.worker_ready(0, warm_up_seconds=0.5)  # replaced; the time without it counts
    counters.unit_published(made=1, quarantined=0, model_seconds=3.0)
    now[0] = 10.0
    assert counters.model_busy == round(3 / (10 + 5), 4)
    assert counters.warm_up_seconds == 2.0
