"""`creativity_steps`: which rows space their steps anew, what they are told, and the evaluations of each image."""

from __future__ import annotations

import numpy as np
import pytest
from job_making import picture, write_jsonl

from wanbatch.errors import UserError
from wanbatch.jobs.driver.fingerprint import fingerprint_of
from wanbatch.jobs.planning.noise_schedule import evaluation_counts
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.pipeline.sampling.schedules import SCHEDULER_LEVELS
from wanbatch.pipeline.sampling.solvers import solve

SIGMAS = [1.0, 0.7, 0.4]


@pytest.fixture
def planned(settings, tmp_path):
    def plan(*rows: dict, **changes):
        picture(tmp_path / "a.png", 32, 32)
        sourced = [{"image": "a.png", **row} for row in rows]
        return prepare(write_jsonl(tmp_path / "shop.jsonl", sourced), settings(**{"steps": 50, **changes}))[0]

    return plan


def column(plan, name: str) -> dict[str, object]:
    return dict(zip(plan.ids(), plan.images[name].to_pylist(), strict=True))


ROWS = (
    {"id": "silent", "creativity": 0.3},
    {"id": "anew", "creativity": 0.3, "creativity_steps": "respace"},
    {"id": "kept", "creativity": 0.3, "creativity_steps": "keep"},
    {"id": "listed", "creativity": 0.6, "sigmas": SIGMAS},
    {"id": "source", "creativity": 0},
    {"id": "prompt", "creativity": 1},
)


def test_rows_and_the_run_choose(planned):
    """By default 50 steps at shift 5 are four evaluations at creativity 0.3, which nothing told."""
    plan = planned(*ROWS, shift=5.0)
    assert column(plan, "creativity_steps") == {row["id"]: None for row in ROWS} | {"anew": "respace"}
    assert column(plan, "evaluations") == {
        **{"silent": 4, "anew": 50, "kept": 4, "listed": 2, "source": 0, "prompt": 50},
    }
    assert plan.describe(4)["evaluations_of_an_image"] == {"least": 0, "most": 50}
    assert plan.later == ("creativity_steps",)
    whole = planned(*ROWS, shift=5.0, creativity_steps="respace")
    assert {name for name, mode in column(whole, "creativity_steps").items() if mode} == {
        *("silent", "anew", "source", "prompt"),
    }
    assert column(whole, "evaluations")["silent"] == 50
    assert column(whole, "evaluations")["listed"] == 2


def test_digests_of_rows_that_keep_their_steps_are_as_they_were(planned):
    digests = column(planned(*ROWS), "digest")
    again = column(planned(*ROWS[2:]), "digest")
    assert {name: digests[name] for name in again} == again
    [(_, asked)] = column(planned({"id": "kept", "creativity": 0.3}), "digest").items()
    assert asked == digests["kept"]
    [(_, anew)] = column(planned({"id": "kept", "creativity": 0.3}, creativity_steps="respace"), "digest").items()
    assert anew != asked


@pytest.mark.parametrize("sampler", ["unipc", "heun", "res_2s", "lcm"])
@pytest.mark.parametrize("mode", ["keep", "respace"])
def test_evaluations_are_those_of_the_solver(planned, sampler, mode):
    rows = [{"creativity": round(creativity, 2), "sampler": sampler} for creativity in np.linspace(0.25, 1, 16)]
    rows += [{"creativity": 0.7, "schedule": "karras", "steps": 3}, {"creativity": 0.9, "sigmas": SIGMAS}]
    starts = (0.6, 0.9995, 0.99999999, 1)  # the second lies above the first level of some
    rows += [
        {"creativity": start, "schedule": name, "sampler": sampler} for name in SCHEDULER_LEVELS for start in starts
    ]
    plan = planned(*rows, creativity_steps=mode)
    names = ("sampler", "steps", "shift", "creativity", "schedule", "sigmas", "creativity_steps")
    expected = [
        solve(*values).steps for values in zip(*(plan.images[name].to_pylist() for name in names), strict=True)
    ]
    assert evaluation_counts(plan.images).tolist() == expected


def test_a_low_creativity_is_refused_with_the_remedy_and_then_taken(planned):
    with pytest.raises(UserError, match=r"shop\.jsonl:1: creativity 0\.01 is below .* creativity_steps respace"):
        planned({"creativity": 0.01}, shift=5.0)
    assert column(planned({"id": "a", "creativity": 0.01, "creativity_steps": "respace"}), "evaluations") == {"a": 50}
    with pytest.raises(UserError, match=r"shop\.jsonl:1: creativity 0\.001 leaves no room for 50 steps"):
        planned({"creativity": 0.001, "creativity_steps": "respace"})


def test_explicit_levels_and_respacing_contradict_each_other(planned):
    with pytest.raises(UserError, match=r"shop\.jsonl:1: creativity_steps respace: its sigmas say every noise level"):
        planned({"creativity": 0.8, "creativity_steps": "respace", "sigmas": SIGMAS})
    with pytest.raises(UserError, match=r"shop\.jsonl:1: creativity_steps respace: the run's sigmas say"):
        planned({"creativity": 0.8, "creativity_steps": "respace"}, steps=None, sigmas=SIGMAS)
    with pytest.raises(UserError, match=r"setting sigmas: .* creativity_steps respace"):
        planned({"creativity": 0.8}, steps=None, sigmas=SIGMAS, creativity_steps="respace")
    with pytest.raises(UserError, match="creativity_steps is 'spread': must be keep or respace"):
        planned({"creativity": 0.8, "creativity_steps": "spread"})


def test_the_fingerprint_tells_respacing_and_nothing_of_keeping(settings, model):
    from wanbatch.jobs.config.hardware import Hardware, resolve_execution

    machine = Hardware()
    execution = resolve_execution(settings(device="cpu"), machine)
    silent, keep, anew = (
        fingerprint_of(settings(creativity_steps=mode), model, execution, 4, machine)
        for mode in (None, "keep", "respace")
    )
    assert "creativity_steps" not in silent
    assert silent == keep
    assert anew == {**silent, "creativity_steps": "respace"}
