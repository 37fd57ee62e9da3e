"""Step caches as texts and as the plans of rows; no model runs here."""

from __future__ import annotations

import numpy as np
import pytest

from wanbatch.errors import UserError
from wanbatch.pipeline.sampling.evaluation_counts import EvaluationCounts
from wanbatch.pipeline.sampling.solvers import solve
from wanbatch.pipeline.sampling.step_cache import Adaptive, DeepCache, Gate, Kind, StepCache, Taylor, parse
from wanbatch.pipeline.sampling.step_plan import History, StepPlan, position

FULL, PARTIAL = Kind(0, True, True), Kind(0, False, True)
ALONE, PARTIAL_ALONE = Kind(0, True, False), Kind(0, False, False)  # without the other branch


def kinds(text: str, steps: int = 8, guided: bool = True, layers: int = 30, errors=None, **options) -> list[Kind]:
    """The kinds of all evaluations. errors: by step, what each full one measures, relative; None: nothing."""
    plan = StepPlan(parse(text, layers), solve("unipc", steps, 3.0), guided, **options)
    found = []
    while not plan.finished:
        found.append(plan.next_kind)
        error = errors and errors[plan.step]
        plan.record_evaluation(
            None if error is None else lambda e=error: [(e**2, 1.0)] * (2 if found[-1].guided else 1)
        )
    return found


def full_steps(text: str, **options) -> list[int]:
    return [step for step, kind in enumerate(kinds(text, **options)) if kind.full]


# ---- texts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", StepCache(30)),
        ("deepcache:blocks=10", StepCache(30, DeepCache(10))),
        (" deepcache: interval=3, blocks=20 ,first=1", StepCache(30, DeepCache(20, 3, 1))),
        ("taylor", StepCache(30, Taylor(blocks=30))),
        ("taylor:first=4,order=2", StepCache(30, Taylor(2, 2, blocks=26, first=4))),
        ("adaptive:threshold=0.1", StepCache(30, Adaptive(0.1, blocks=30))),
        ("adaptive:threshold=1e-7,along=sigma", StepCache(30, Adaptive(1e-7, along="sigma", blocks=30))),
        ("none+gate:mode=skip,below=0.5", StepCache(30, None, Gate("skip", below=0.5))),
        ("taylor:blocks=5+gate:interval=3", StepCache(30, Taylor(blocks=5), Gate(interval=3))),
    ],
)
def test_texts(text, expected):
    assert parse(text, 30) == expected
    assert parse(str(expected), 30) == expected


def test_one_cache_has_one_spelling():
    assert str(parse("deepcache:blocks=10", 30)) == str(parse("deepcache:interval=2,first=0,blocks=10", 30))
    assert str(parse("taylor", 30)) == str(parse("taylor:blocks=30", 30)) != str(parse("taylor:blocks=29", 30))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("teacache", "unknown 'teacache'; known: none, deepcache, taylor, adaptive"),
        ("", "unknown ''; known: none, deepcache"),
        ("none:interval=2", "none has no fields"),
        ("deepcache:blocks=10,depth=2", "unknown field 'depth=2'; known: blocks, interval, first"),
        ("deepcache:10", "unknown field '10'; known: blocks, interval, first (as name=value)"),
        ("deepcache", "blocks must be given"),
        ("deepcache:blocks=ten", "blocks=ten is not a number of its kind"),
        ("deepcache:blocks=2.5", "blocks=2.5 is not a number of its kind"),
        ("deepcache:blocks=1,blocks=2", "blocks is given twice"),
        ("deepcache:blocks=31", "asks for blocks 0 to 30, but the model has 30 (0 to 29): use fewer"),
        ("deepcache:blocks=25,first=10", "asks for blocks 10 to 34, but the model has 30"),
        ("deepcache:blocks=-1", "blocks=-1 must be at least 0"),
        ("taylor:first=30", "first=30 must be 0 to 29"),
        ("taylor:interval=0", "interval=0 must be at least 1"),
        ("taylor:order=3", "order=3 must be 0 to 2"),
        ("adaptive:threshold=nan", "threshold=nan must be 0 to 1000"),
        ("adaptive:longest=0", "longest=0 must be at least 1"),
        ("taylor:along=time", "unknown along 'time'; known: sigma, logsnr"),
        ("none+gate:mode=drop", "unknown mode 'drop'; known: reuse, skip"),
        ("none+gate:above=0.7,below=0.2", "above=0.7 must be less than below=0.2"),
        ("none+gate:above=2", "above=2.0 must be 0 to 1"),
        ("none+gate:interval=1", "interval=1 must be at least 2"),
        ("none+gate:until=3", "unknown field 'until=3'; known: mode, above, below, interval, order"),
        ("taylor+deepcache:blocks=1", "after a + only one gate:... may follow"),
        ("taylor+gate+gate", "after a + only one gate:... may follow"),
    ],
)
def test_bad_texts(text, told):
    with pytest.raises(UserError) as caught:
        parse(text, 30)
    assert told in str(caught.value)
    assert repr(text) in str(caught.value)


# ---- what is predicted from what


@pytest.mark.parametrize("along", ["sigma", "logsnr"])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_extrapolation_is_exact_for_polynomials_of_its_order(order, along):
    rng = np.random.default_rng(order)
    factors, levels = rng.normal(size=order + 1), np.sort(rng.uniform(0.2, 1, order + 3))[::-1]
    history, values = History(order + 1, along), np.full(order + 1, np.nan)
    for level in levels:
        values[history.index_for(level)] = np.polyval(factors, position(level, along))
        history.record(level)
    assert history.weights(0.1) @ values == pytest.approx(np.polyval(factors, position(0.1, along)))
    assert [level for level, _ in history.entries] == [
        position(level, along) for level in sorted(levels)[: order + 1]
    ]


def test_a_history_that_is_not_full_predicts_nothing():
    history = History(2)
    history.record(0.9)
    assert not history.complete
    assert not history.weights(0.5).any()


def test_the_ends_of_the_schedule_are_places_too():
    history = History(2, "logsnr")
    for level in (1.0, 1 - 1e-9, 0.5):
        history.record(level)
    assert len(history.entries) == 2
    assert np.isfinite(history.weights(0.0)).all()


def test_a_second_evaluation_at_one_level_replaces_the_first():
    """Heun and its like evaluate twice at one noise level, which no polynomial goes through."""
    history = History(2)
    for level in (0.9, 0.8, 0.8):
        index = history.index_for(level)
        history.record(level)
    assert index == history.entries[0][1]
    assert [level for level, _ in history.entries] == [0.8, 0.9]
    assert np.isfinite(history.weights(0.7)).all()


# ---- plans


def test_the_cadence():
    assert kinds("none") == [FULL] * 8
    assert full_steps("deepcache:blocks=10") == [0, 2, 4, 6, 7]
    assert full_steps("deepcache:interval=3,blocks=10") == [0, 3, 6, 7]
    assert full_steps("taylor:order=1") == [0, 1, 3, 5, 7]
    assert full_steps("taylor:order=2,interval=3") == [0, 1, 2, 5, 7]
    assert full_steps("taylor:order=1,interval=4", steps=1) == [0]


@pytest.mark.parametrize("text", ["deepcache:blocks=0", "deepcache:interval=1,blocks=10", "taylor:interval=1"])
def test_caches_that_skip_nothing(text):
    assert kinds(text) == [FULL] * 8
    assert parse(text, 30).residuals_kept == 0


def test_gates():
    """The noise levels of 8 steps with shift 3: 1, .954, .9, .834, .75, .643, .5, .301."""
    assert kinds("none+gate:mode=skip,below=0.8") == [FULL] * 4 + [ALONE] * 4
    assert kinds("none+gate:mode=skip,above=0.8") == [ALONE] * 4 + [FULL] * 4
    assert kinds("none+gate:order=0") == [FULL, ALONE] * 3 + [FULL, FULL]
    assert kinds("none+gate:order=0,interval=4,below=0.97") == [FULL, *[ALONE] * 3, FULL, *[ALONE] * 2, FULL]
    assert kinds("none+gate", guided=False) == [ALONE] * 8
    assert kinds("none+gate:order=1")[:4] == [FULL, FULL, ALONE, FULL]


def test_a_gate_opens_at_full_steps_only_and_then_both_branches_are_fresh():
    both = kinds("deepcache:interval=2,blocks=10+gate:order=0,interval=2", steps=9)
    assert both == [FULL, PARTIAL_ALONE] * 4 + [FULL]
    every_other = kinds("deepcache:interval=2,blocks=10+gate:order=0,interval=4", steps=9)
    assert every_other == [FULL, PARTIAL_ALONE, ALONE, PARTIAL_ALONE] * 2 + [FULL]


def test_a_branch_that_was_left_out_is_not_predicted_from_old_values():
    """Where the gate ends, at 0.8, a partial step would be due; but only one branch ran in full at the last one."""
    found = kinds("deepcache:interval=2,blocks=10+gate:mode=skip,above=0.8", steps=8)
    assert found[:4] == [ALONE, PARTIAL_ALONE] * 2
    found = kinds("deepcache:interval=2,blocks=10+gate:mode=skip,above=0.85", steps=8)
    assert found == [ALONE, PARTIAL_ALONE, ALONE, FULL, PARTIAL, FULL, PARTIAL, FULL]


def test_work_is_counted_in_steps_and_blocks():
    def work(text, guided=True):
        plan = StepPlan(parse(text, 30), solve("unipc", 8, 3.0), guided)
        while not plan.finished:
            plan.record_evaluation()
        return plan.counts

    assert work("none") == EvaluationCounts(8, 0, 480, 0)
    assert work("none", guided=False) == EvaluationCounts(8, 0, 240, 0)
    assert work("deepcache:blocks=10") == EvaluationCounts(5, 3, 420, 60)
    assert work("deepcache:blocks=10", guided=False) == EvaluationCounts(5, 3, 210, 30)
    assert work("taylor:interval=2") == EvaluationCounts(5, 3, 300, 180)
    assert work("none+gate:mode=skip,below=0.8") == EvaluationCounts(4, 4, 360, 120)
    assert work("deepcache:blocks=10+gate:mode=skip,below=0.8") == EvaluationCounts(2, 6, 310, 170)


def test_the_second_expert_begins_with_full_steps():
    found = kinds("taylor:interval=4", steps=12, boundary=0.7)
    second = [step for step, kind in enumerate(found) if kind.expert == 1]
    assert second == list(range(second[0], 12))
    assert [kind.full for kind in found[second[0] :]][:3] == [True, True, False]


# ---- adaptive plans


def test_an_adaptive_row_goes_as_far_as_its_error_allows():
    never = full_steps("adaptive:threshold=0.1", steps=12, errors=[10.0] * 12)
    assert never == list(range(12))
    always = full_steps("adaptive:threshold=0.1,longest=3", steps=12, errors=[1e-9] * 12)
    assert always == [0, 1, 2, 6, 10, 11]
    counts = [len(full_steps("adaptive:threshold=0.1", steps=30, errors=[e] * 30)) for e in (1e-3, 0.15, 0.3, 1)]
    assert counts == sorted(counts)
    assert len(set(counts)) == 4


def test_an_error_that_is_not_a_number_allows_nothing():
    assert full_steps("adaptive", steps=6, errors=[float("nan")] * 6) == list(range(6))


def test_a_decision_waits_only_for_its_own_measurement():
    plan = StepPlan(parse("adaptive", 30), solve("unipc", 8, 3.0), guided=True)
    asked = []
    for step in range(3):
        assert plan.next_kind_known
        assert plan.next_kind.full
        plan.record_evaluation(lambda step=step: asked.append(step) or [(0.0, 1.0), (0.0, 1.0)])
    assert asked == []
    assert not plan.next_kind_known
    assert not plan.next_kind.full
    assert asked == [2]  # at the first two there was nothing to compare with
    assert plan.next_kind_known
