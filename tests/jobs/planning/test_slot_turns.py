"""How many turns rows take in the slots, against what the denoiser runs for them. No Ray."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from stub_transformer import StubTransformer, UnitFeed, samples_of

from wanbatch.jobs.planning.slot_turns import FOLLOWED, MAX_IN_MODEL, ONE_BY_ONE, dealt, slots_computed, turns_of
from wanbatch.pipeline.batching.denoiser import Denoiser

SLOTS = 8


def evaluations_run(steps: Sequence[int], unit_rows: int, in_model: int) -> int:
    """What the denoiser evaluates for rows of one size class whose steps take turns."""
    samples = samples_of([10] * len(steps), steps)
    model = StubTransformer()
    denoiser = Denoiser([model], SLOTS)
    feed = UnitFeed([samples[at : at + unit_rows] for at in range(0, len(samples), unit_rows)], in_model)
    for denoised in denoiser.run((), feed.more):
        feed.done(denoised.sample)
    return model.evaluations


@pytest.mark.parametrize("in_model", [ONE_BY_ONE, MAX_IN_MODEL])
@pytest.mark.parametrize(
    "steps",
    [[4] * 40, [50, 30] * 24, [4, 12, 32] * 8, [50, 8, 8, 8] * 16, [20], [7] * 9],
    ids=["alike", "two kinds", "three kinds", "a long one in four", "one row", "one more than the slots"],
)
def test_turns_are_what_the_denoiser_evaluates(steps, in_model):
    rows = [(count, index // 16) for index, count in enumerate(steps)]
    assert turns_of(rows, SLOTS, in_model) == pytest.approx(evaluations_run(steps, 16, in_model), rel=0.05)


def test_slots_are_shared_across_units_but_not_across_groups():
    evaluations, unit = np.full(32, 10), np.repeat([0, 1], 16)
    one = slots_computed(evaluations, np.zeros(32, int), unit, 12)
    apart = slots_computed(evaluations, unit, unit, 12)
    assert one == pytest.approx(np.full(32, 30 * 12 / 320))  # 32 rows in 12 slots are three rounds
    assert apart == pytest.approx(np.full(32, 20 * 12 / 160))  # and 16 of them are two


def test_nothing_enters_beside_the_first_unit_of_a_worker_before_an_image_of_it_is_made():
    rows = [(4, 0)] * 3 + [(4, 1)] * 3
    assert turns_of(rows, 2, first={0}) == turns_of(rows, 2) == 12  # six rows in two slots
    assert turns_of(rows, 8) == 4  # all six at once
    assert turns_of(rows, 8, first={0}) == 8  # the slots have room, but nothing is made yet
    assert turns_of([(2, 0), (6, 0), (6, 1)], 3, first={0}) == 8  # the long row is not waited for
    assert turns_of([(4, 5), *rows], 8, first={5}) == 8
    both = slots_computed(np.full(6, 4), np.zeros(6, int), np.repeat([0, 1], 3), 8, first={0})
    assert both == pytest.approx(np.full(6, 8 * 8 / 24))


def test_rows_without_evaluations_take_no_turn():
    factor = slots_computed(np.array([0, 0, 8, 0]), np.zeros(4, int), np.zeros(4, int), 2)
    assert factor.tolist() == [2, 2, 2, 2]
    assert slots_computed(np.zeros(3, int), np.zeros(3, int), np.zeros(3, int), 2).tolist() == [1, 1, 1]
    assert slots_computed(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), 2).tolist() == []


def test_the_rest_of_a_large_class_is_like_its_beginning():
    count = FOLLOWED * 4
    evaluations = np.tile([50, 8, 8, 8], count // 4)
    unit = np.arange(count) // 16
    short, long = (slots_computed(evaluations[:n], np.zeros(n, int), unit[:n], SLOTS) for n in (FOLLOWED, count))
    assert long[0] == long[-1] == short[0]


def test_a_worker_that_is_done_takes_the_next_unit():
    assert dealt([8, 1, 1, 1, 5], 2) == [0, 1, 1, 1, 1]
    assert dealt([1, 2, 3], 1) == [0, 0, 0]
