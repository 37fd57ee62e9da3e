"""How full the slots are, counted with a transformer that computes nothing."""

from __future__ import annotations

import pytest
from stub_transformer import StubTransformer, UnitFeed, mixed_lengths, samples_of

from wanbatch.pipeline.batching.denoiser import Denoiser
from wanbatch.pipeline.core.samples import Sample

SLOTS = 8


def run_in_units(samples: list[Sample], rows: int, streamed: bool) -> tuple[float, StubTransformer, list[str]]:
    """The share of the slots that had a row, the model, and the rows in the order in which they were finished."""
    units = [samples[first : first + rows] for first in range(0, len(samples), rows)]
    model, finished, slot_steps = StubTransformer(), [], 0.0
    denoiser = Denoiser([model], SLOTS)
    feed = UnitFeed(units)
    for unit in [()] if streamed else units:
        for denoised in denoiser.run(unit, feed.more if streamed else None):
            finished.append(denoised.sample.id)
            slot_steps += denoised.slot_steps
            if streamed:
                feed.done(denoised.sample)
    used = sum(sample.solution.steps for sample in samples)
    assert slot_steps == pytest.approx(model.evaluations * SLOTS)  # what rows are charged is what was run
    return used / (model.evaluations * SLOTS), model, finished


def by_length(samples: list[Sample]) -> list[Sample]:
    """As `Plan.units` orders rows, whose lengths in bytes it knows."""
    return sorted(samples, key=lambda sample: len(sample.prompt))


@pytest.mark.parametrize(
    ("steps", "rows"),
    [((4,), 1024), ((50,), 512), ((4, 6, 20), 1024)],
    ids=["of four steps", "of fifty steps", "of different steps"],
)
def test_slots_stay_full_with_prompts_of_all_lengths(steps, rows):
    samples = samples_of(mixed_lengths(rows), steps)
    in_units, _, all_of_them = run_in_units(samples, 16, streamed=False)
    streamed, _, finished = run_in_units(by_length(samples), 16, streamed=True)
    assert sorted(finished) == sorted(all_of_them) == sorted(sample.id for sample in samples)
    assert in_units < 0.7
    assert streamed >= 0.95


def test_guided_rows_and_those_without_guidance_are_filled_alike():
    rows = samples_of(mixed_lengths(512), guidance=5.0)
    assert run_in_units(by_length(rows), 16, streamed=True)[0] >= 0.95


def test_a_row_enters_as_one_of_the_last_unit_leaves():
    samples = samples_of([10] * 24, steps=(2, 5, 3))
    used, model, _ = run_in_units(samples, 12, streamed=True)
    total = sum(sample.solution.steps for sample in samples)
    assert model.evaluations <= -(-total // SLOTS) + 5  # only the last rows of all leave slots empty
    assert used > run_in_units(samples, 12, streamed=False)[0]


def test_few_rows_of_a_rare_length_wait_for_others_of_their_kind():
    """Two rows of each unit have long prompts: together they fill the slots."""
    lengths = ([10] * 30 + [100] * 2) * 8
    used, _, _ = run_in_units(samples_of(lengths), 32, streamed=True)
    alone, _, _ = run_in_units(samples_of(lengths), 32, streamed=False)
    assert used > alone + 0.05


def asked_after(steps: int, rows: int) -> list[int]:
    """How many evaluations were run whenever a unit of as many rows as slots, or twice as many, came."""
    model, samples = StubTransformer(), samples_of([10] * 3 * rows, steps=(steps,))
    feed, asked = UnitFeed([samples[first : first + rows] for first in range(0, 3 * rows, rows)]), []

    def more():
        unit = feed.more()
        if unit is not None:
            asked.append(model.evaluations)
        return unit

    for denoised in Denoiser([model], SLOTS).run((), more):
        feed.done(denoised.sample)
    return asked


@pytest.mark.parametrize("steps", [2, 4, 50])
def test_rows_come_before_the_last_evaluation_of_those_that_nobody_waits_for(steps):
    """While a GPU still has work: to make rows ready takes the host a while."""
    assert asked_after(steps, SLOTS) == [0, steps - 1, 2 * steps - 1]
    assert asked_after(steps, 2 * SLOTS) == [0, 2 * steps - 1, 4 * steps - 1]


def test_no_more_units_come_early_than_one():
    """All others would only wait, here and not where another worker could take them."""
    units = [samples_of([10] * SLOTS, steps=(4,)), *([sample] for sample in samples_of([100] * 6, steps=(4,)))]
    model, came = StubTransformer(), []
    waiting = iter(units)

    def more():
        came.append(model.evaluations)
        return next(waiting, None)

    next(iter(Denoiser([model], SLOTS).run((), more)))
    assert came == [0, 3]
