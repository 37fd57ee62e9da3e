"""What a worker pool makes of what its workers report."""

from __future__ import annotations

import faulty_models
import numpy as np
from job_making import picture, write_jsonl

from wanbatch.jobs.driver.events import Event
from wanbatch.jobs.driver.ray_session import workers_on_a_host
from wanbatch.jobs.driver.worker_pool import WorkerPool
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.planning.units import Unit
from wanbatch.jobs.worker.messages import WorkerSetup


def until(pool: WorkerPool, number: int) -> list[Event]:
    """Poll until so many events have come."""
    events: list[Event] = []
    for _ in range(600):
        events += pool.poll(0.5)
        if len(events) >= number:
            return events
    raise TimeoutError(f"only {events}")


def test_a_worker_is_trusted_once_it_has_made_an_image(local_ray, model, settings, tmp_path):
    """A unit of missing images never sees the model: coming back with it shows nothing of the device."""
    (tmp_path / "out" / "_wanbatch" / "tmp").mkdir(parents=True)
    picture(tmp_path / "a.png", 32, 32)
    rows = [{"image": "nowhere.png", "width": 32, "height": 32}, {"image": "a.png", "width": 32, "height": 32}]
    plan, _ = prepare(write_jsonl(tmp_path / "m.jsonl", rows), settings())
    setup = WorkerSetup(model, str(tmp_path / "out"), str(tmp_path), False, "cpu", "float32", slots=2, threads=1)
    pool = WorkerPool(setup, 1, faulty_models.load)
    try:
        until(pool, 1)
        assert list((tmp_path / "out" / "_wanbatch" / "tmp").iterdir()) == [], "its mark is taken away again"
        for place, trusted in ((0, False), (1, True)):
            pool.give(0, Unit(place, np.array([place])), plan.task(place, 1, f"t{place}", [place]), 100.0)
            [finished] = until(pool, 1)
            assert bool(finished.made) is trusted
            assert pool.idle() == [(0, trusted)]
    finally:
        pool.close()


def test_workers_on_a_cpu_share_one_host(local_ray):
    assert workers_on_a_host(3, "cpu") == 3
    assert workers_on_a_host(3, "cuda") == 1, "there is no GPU here that two could share"
