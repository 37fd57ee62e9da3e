"""The work of an image: what its solver evaluates on its own schedule, guided or not, and what is coded."""

from __future__ import annotations

from job_making import picture, write_jsonl

from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.planning.workload import workload_of


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


def test_steps_that_are_respaced_count_in_full(tmp_path, settings):
    """A creativity of 0.3 keeps a few of 50 steps, or spreads all 50 below it."""
    picture(tmp_path / "a.png", 32, 32)
    row = {"image": "a.png", "creativity": 0.3, "steps": 50, "guidance": 1}
    keep, respace = work_of(tmp_path, settings(shift=5.0), row, row | {"creativity_steps": "respace"}).denoising
    assert respace > 10 * keep
