"""A prompt and a creativity of the run: for rows that give none, and without a trace where they are not set."""

from __future__ import annotations

import pytest
from job_making import picture, write_jsonl

from wanbatch.errors import UserError
from wanbatch.jobs.config.hardware import Hardware, resolve_execution
from wanbatch.jobs.driver.fingerprint import fingerprint_of
from wanbatch.jobs.planning.preparation import prepare

ROWS = (
    {"id": "own", "image": "a.png", "prompt": "a star", "creativity": 0.8},
    {"id": "sourced", "image": "a.png"},
    {"id": "prompted", "prompt": "a heart"},
    {"id": "seeded", "seed": 3},
)


@pytest.fixture
def planned(settings, tmp_path):
    def plan(*rows: dict, **changes):
        picture(tmp_path / "a.png", 32, 32)
        return prepare(write_jsonl(tmp_path / "shop.jsonl", rows), settings(**{"steps": 20, **changes}))[0]

    return plan


def column(plan, name: str) -> dict[str, object]:
    return dict(zip(plan.ids(), plan.images[name].to_pylist(), strict=True))


def test_rows_that_give_none_have_those_of_the_run(planned):
    plan = planned(*ROWS, prompt="a circle", creativity=0.4)
    assert column(plan, "prompt") == {
        **{"own": "a star", "sourced": "a circle", "prompted": "a heart", "seeded": "a circle"}
    }
    assert column(plan, "creativity") == {"own": 0.8, "sourced": 0.4, "prompted": 1.0, "seeded": 1.0}


def test_without_them_nothing_changes(planned):
    with pytest.raises(UserError, match=r"shop\.jsonl:4: asks for nothing: give a prompt"):
        planned(*ROWS)
    plan = planned(*ROWS[:3])
    assert column(plan, "prompt") == {"own": "a star", "sourced": "", "prompted": "a heart"}
    assert column(plan, "creativity") == {"own": 0.8, "sourced": 0.6, "prompted": 1.0}


def test_a_row_that_says_it_itself_has_the_same_digest(planned):
    by_run = planned(*ROWS, prompt="a circle", creativity=0.4)
    filled = [{"prompt": "a circle", **({"creativity": 0.4} if "image" in row else {}), **row} for row in ROWS]
    assert column(by_run, "digest") == column(planned(*filled), "digest")
    other = column(planned(*ROWS, prompt="a square", creativity=0.4), "digest")
    changed = {name for name, digest in column(by_run, "digest").items() if other[name] != digest}
    assert changed == {"sourced", "seeded"}


def test_a_creativity_below_the_schedule_is_refused_where_it_would_act(planned):
    rows = (*ROWS, {"image": "a.png"}, {"image": "a.png", "steps": 5}, {"image": "a.png", "creativity": 0.02})
    with pytest.raises(UserError) as caught:
        planned(*rows, prompt="x", creativity=0.01)
    found = [str(problem).partition("shop.jsonl:")[2] for problem in caught.value.problems]
    assert [text.partition(" of ")[0] for text in found] == [
        "2: the run's creativity 0.01 is below the last noise level",
        "6: the run's creativity 0.01 is below the last noise level",
        "7: creativity 0.02 is below the last noise level",
    ]
    assert [text.endswith(" (and for 1 more)") for text in found] == [True, False, False]


def test_fingerprints_have_them_only_where_they_are_set(settings, model):
    execution = resolve_execution(settings(), Hardware())

    def fingerprint(**given):
        return fingerprint_of(settings(**given), model, execution, 4, Hardware())

    unset = fingerprint()
    assert list(unset) == [
        *("model", "revision", "weights", "seed", "negative_prompt", "width", "height", "steps", "guidance", "shift"),
        *("sampler", "schedule", "sigmas", "step_cache", "slots", "device", "precision", "compile", "format"),
        *("quality", "threads", "source_decoding", "environment"),
    ], "as release 0.1.0 made it, but for what may change"
    given = fingerprint(prompt="a circle", creativity=0.0)
    assert {name: given[name] for name in given.keys() - unset.keys()} == {"prompt": "a circle", "creativity": 0.0}
    assert fingerprint(prompt="") == unset, "the same pictures"


@pytest.mark.parametrize(
    ("column", "given", "meant"),
    [
        *(
            ("sampler", "Euler a", "euler_ancestral"),
            ("sampler", "DPM++ 2M", "dpmpp_2m"),
            ("sampler", "UniPC", "unipc"),
        ),
        *(("sampler", "DDIM", None), ("schedule", "Karras", "karras"), ("schedule", "normal", None)),
    ],
)
def test_names_of_other_tools_are_told_with_the_nearest_of_ours(planned, column, given, meant):
    with pytest.raises(UserError) as caught:
        planned({"prompt": "x", column: given})
    [problem] = caught.value.problems
    hint = f"; did you mean {meant}? use one of " if meant else ": use one of "
    assert problem.message.startswith(f"{column} {given!r} is unknown{hint}")
    assert problem.message.endswith(f", or keep the column aside with --map {column}=source_{column}")
