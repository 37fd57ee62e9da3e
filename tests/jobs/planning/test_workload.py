"""The work of an image: what its solver evaluates on its own schedule, guided or not, and what is coded."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from job_making import picture, write_jsonl

from wanbatch.jobs.planning.noise_schedule import schedules_of
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.planning.workload import most_evaluations, workload_of
from wanbatch.pipeline.sampling.schedules import SCHEDULES
from wanbatch.pipeline.sampling.solvers import SOLVERS, solve


def work_of(path, settings, *rows: dict):
    return workload_of(prepare(write_jsonl(path / "m.jsonl", rows), settings)[0])


def test_two_evaluations_of_a_solver_and_guidance_count(tmp_path, settings):
    kinds = [("euler", 1.0), ("euler", 5.0), ("heun", 1.0), ("heun", 5.0)]
    rows = [{"prompt": "x", "steps": 50, "sampler": sampler, "guidance": guidance} for sampler, guidance in kinds]
    work = work_of(tmp_path, settings(), *rows).denoising
    assert (work / work[0]).tolist() == [1, 2, 99 / 50, 2 * 99 / 50]


def test_creativity_cuts_what_is_evaluated_and_sources_are_coded(tmp_path, settings):
    picture(tmp_path / "a.png", 32, 32)
    images = ["a.png", "a.png", ["a.png", "a.png"]]
    rows = [
        {"image" if isinstance(image, str) else "images": image, "creativity": creativity, "steps": 50, "guidance": 1}
        for image, creativity in zip(images, (0.0, 0.3, 1.0), strict=True)
    ]
    work = work_of(tmp_path, settings(shift=5.0), *rows)
    shares = work.denoising / work.denoising[2]
    assert shares[0] == 0
    assert 0 < shares[1] < 0.1, "at shift 5 a creativity of 0.3 leaves four levels of 50"
    assert (work.coding / 32**2).tolist() == [2, 2, 3]


def test_web_sources_are_told_from_others(tmp_path, settings):
    rows = [{"images": ["http://a.example/a.png", "b.png"], "width": 32, "height": 32}, {"prompt": "x"}]
    assert work_of(tmp_path, settings(allow_http=True), *rows).web_sources.tolist() == [1, 0]


def test_no_row_is_evaluated_more_often_than_counted():
    """Every solver and schedule at many creativities, against the solver's own table."""
    chance = np.random.default_rng(0)
    count = 600
    sigmas = [[0.9, 0.5, 0.25] if index % 7 == 0 else None for index in range(count)]
    images = pa.table(
        {
            "sampler": chance.choice(list(SOLVERS), count),
            "steps": pa.array([3 if one else int(chance.integers(2, 60)) for one in sigmas]),
            "shift": pa.array([None if one else float(chance.choice([1.0, 3.0, 5.0])) for one in sigmas]),
            "schedule": pa.array([None if one else str(chance.choice(list(SCHEDULES))) for one in sigmas]),
            "sigmas": pa.array(sigmas, pa.list_(pa.float64())),
            "creativity": np.where(chance.random(count) < 0.3, 1.0, chance.uniform(0.3, 1.0, count)),
        }
    )
    rows = zip(images["sampler"].to_pylist(), images["creativity"].to_pylist(), schedules_of(images), strict=True)
    exact = np.array(
        [
            solve(sampler, steps, shift, creativity, schedule, sigmas).steps
            for sampler, creativity, (steps, shift, schedule, sigmas) in rows
        ]
    )
    counted = most_evaluations(images)
    assert (counted >= exact).all()
    whole = images["creativity"].to_numpy() == 1
    assert (counted[whole] == exact[whole]).all()
    assert (counted - exact).max() <= 4, "rounding creativity up adds a level or two, of two evaluations each"


def test_a_start_above_the_first_level_is_a_step_more_than_the_whole_schedule_has():
    """Rounded up to 1 it would be the whole schedule's steps, one too few."""
    one = {"sampler": ["euler"], "steps": [2], "shift": [None], "schedule": [None], "creativity": [0.999]}
    images = pa.table({**one, "sigmas": pa.array([[0.9, 0.5]], pa.list_(pa.float64()))})
    assert most_evaluations(images).tolist() == [solve("euler", 2, None, 0.999, None, [0.9, 0.5]).steps] == [3]


@pytest.mark.timeout(60)
def test_a_million_rows_are_counted_by_their_kinds(monkeypatch):
    """Schedules are made once a kind, though every row has a creativity of its own."""
    from wanbatch.jobs.planning import workload

    made = []
    levels = workload.levels
    monkeypatch.setattr(workload, "levels", lambda *what: made.append(what) or levels(*what))
    count = 1_000_000
    images = pa.table(
        {
            "sampler": pa.array(["unipc"] * count),
            "steps": pa.array(np.full(count, 50)),
            "shift": pa.array(np.full(count, 5.0)),
            "schedule": pa.array(["linear"] * count),
            "sigmas": pa.nulls(count, pa.list_(pa.float64())),
            "creativity": np.random.default_rng(1).uniform(0.3, 1, count),
        }
    )
    assert len(most_evaluations(images)) == count
    assert len(made) <= workload.CREATIVITY_LEVELS
