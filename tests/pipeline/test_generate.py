"""`Wan` against diffusers' `WanPipeline`, and what creativity, blending and slots promise."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from picture_requests import PLAIN, difference, made_by_diffusers, made_in_any_order, make, picture, source

from wanbatch.pipeline import generate
from wanbatch.pipeline.batching.batch import Batch
from wanbatch.pipeline.core import conditioning, pictures
from wanbatch.pipeline.core.requests import Failed, Request, SourceImage
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 32)])
def test_text_to_image_equals_diffusers(wan, pipeline, width, height, guidance):
    request = replace(PLAIN, width=width, height=height, guidance=guidance, negative_prompt="the green square")
    ours = make(wan, request)["a"]
    theirs = made_by_diffusers(pipeline, request)
    assert ours.shape == theirs.shape == (height, width, 3)
    assert difference(ours, theirs) <= 1
    assert theirs.std() > 1  # not a blank picture, on which anything would agree


def test_creativity_zero_is_the_round_trip_through_the_vae(wan, pipeline):
    ours = make(wan, replace(PLAIN, sources=(source(1),), creativity=0.0))["a"]
    image = torch.from_numpy(picture(1)).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
    with torch.inference_mode():
        restored = pipeline.vae.decode(pipeline.vae.encode(image).latent_dist.mode()).sample[0, :, 0]
    theirs = ((restored / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy() * 255).round()
    assert difference(ours, theirs) <= 1


def test_creativity_one_is_text_to_image_with_the_same_noise(wan):
    with_source = make(wan, replace(PLAIN, sources=(source(1),), creativity=1.0))["a"]
    assert np.array_equal(with_source, make(wan, PLAIN)["a"])


def test_the_start_is_the_mixture_at_exactly_the_creativity(wan):
    request = replace(PLAIN, sources=(source(1),), creativity=0.37)
    embeddings, _ = wan.encode_prompts([request])
    latents, _ = wan.encode_sources([request])
    sample = wan.sample(request, embeddings, latents)
    noise = wan.sample(PLAIN, embeddings, latents).start
    assert sample.solution.sigmas[0] == pytest.approx(0.37, abs=1e-7)
    torch.testing.assert_close(sample.start, 0.63 * latents["1"] + 0.37 * noise)


def test_a_blend_with_all_weight_on_one_equals_that_one(wan):
    alone = make(wan, replace(PLAIN, sources=(source(1),), creativity=0.5))["a"]
    blended = make(wan, replace(PLAIN, sources=(source(1, 1.0), source(2, 0.0)), creativity=0.5))["a"]
    assert np.array_equal(alone, blended)


def test_a_blend_is_the_weighted_mean_of_latents(wan):
    request = replace(PLAIN, sources=(source(1, 3.0), source(2, 1.0)), creativity=0.0)
    latents, _ = wan.encode_sources([request])
    expected = wan.decode_latent(0.75 * latents["1"] + 0.25 * latents["2"])
    assert difference(make(wan, request)["a"], expected) <= 1


def mixed_rows() -> list[Request]:
    """Rows that differ in everything that a slot keeps for itself."""
    return [
        PLAIN,
        replace(PLAIN, id="b", prompt="the small blue star", seed=8, steps=9),
        replace(PLAIN, id="c", guidance=2.5, seed=9, sampler="euler"),
        replace(PLAIN, id="d", sources=(source(1),), creativity=0.6, seed=10),
        replace(PLAIN, id="e", sampler="dpmpp_2m", shift=1.5, steps=4, seed=11),
        replace(PLAIN, id="f", prompt="green circle", negative_prompt="square", seed=12),
        replace(PLAIN, id="g", sources=(source(1, 1.0), source(2, 2.0)), creativity=0.3, steps=12, seed=13),
        replace(PLAIN, id="h", guidance=1.0, seed=14),
        replace(PLAIN, id="i", width=96, seed=15),
    ]


def test_pixels_do_not_depend_on_neighbours_order_or_slot(wan):
    rows = mixed_rows()
    together = made_in_any_order(wan, rows)
    assert len(together) == len(rows)


@pytest.fixture(scope="module")
def four(model_folder) -> Wan:
    """Four slots: with two threads, the rows of a batch are alike on a CPU if it is of four rows or eight."""
    return Wan.load(registry.find(str(model_folder)), slots=4)


def rows_of_every_solver() -> list[Request]:
    """Different schedules, lengths and starts, too; lcm and euler_ancestral also twice with one seed."""
    short = replace(PLAIN, steps=3, shift=1.5)
    return [
        replace(short, id="heun", sampler="heun", schedule="karras", seed=18),
        replace(short, id="deis", sampler="deis", schedule="beta", steps=5, seed=19),
        replace(short, id="res_2s", sampler="res_2s", sigmas=(1.0, 0.8, 0.3), shift=None, schedule=None),
        replace(short, id="res_2m", sampler="res_2m", sources=(source(1),), creativity=0.5, steps=4, seed=20),
        replace(short, id="unipc3", sampler="unipc3", schedule="exponential", steps=5, seed=20),
        replace(short, id="lcm", sampler="lcm", steps=4, seed=16),
        replace(short, id="lcm-again", sampler="lcm", steps=4, seed=16),
        replace(short, id="lcm-other", sampler="lcm", steps=4, seed=17),
        replace(short, id="ancestral", sampler="euler_ancestral", sources=(source(1),), creativity=0.7, seed=17),
        replace(
            short, id="ancestral-again", sampler="euler_ancestral", sources=(source(1),), creativity=0.7, seed=17
        ),
    ]


def test_rows_of_every_solver_are_the_same_in_company_and_alone(four):
    rows = rows_of_every_solver()
    together = make(four, *rows)
    order = np.random.default_rng(0).permutation(len(rows))
    again = make(four, *[rows[index] for index in order], replace(PLAIN, id="more"))
    for row in rows:
        assert np.array_equal(again[row.id], together[row.id])
        assert np.array_equal(make(four, row)[row.id], together[row.id])
    assert np.array_equal(together["lcm"], together["lcm-again"])
    assert np.array_equal(together["ancestral"], together["ancestral-again"])
    assert len({picture.tobytes() for picture in together.values()}) == len(rows) - 2


@pytest.mark.parametrize("sampler", ["lcm", "euler_ancestral", "euler"])
def test_the_seed_decides_the_noise_of_stochastic_rows_alone(four, sampler):
    """From one and the same start, another seed leads elsewhere: but not with a deterministic solver."""
    row = replace(PLAIN, sampler=sampler, steps=3)
    sample = four.sample(row, four.encode_prompts([row])[0], {})
    latents = [next(four.denoiser.run([replace(sample, seed=seed)])).latent for seed in (7, 7, 8)]
    assert torch.equal(latents[0], latents[1])
    assert torch.equal(latents[0], latents[2]) == (sampler == "euler")


def test_noise_of_steps_and_of_the_start_are_independent():
    drawn = [conditioning.step_noise(seed, step, (4, 16, 16)) for seed in (7, 8) for step in (0, 1)]
    drawn += [conditioning.initial_noise(seed, 4, 16, 16) for seed in (7, 8)]
    correlations = torch.corrcoef(torch.stack([noise.flatten() for noise in drawn]))
    assert float((correlations - torch.eye(6)).abs().max()) < 0.15  # 1024 values: 0.03 is one standard error
    assert torch.equal(drawn[0], conditioning.step_noise(7, 0, (4, 16, 16)))


@pytest.mark.parametrize(("sampler", "evaluations"), [("lcm", 3), ("heun", 5), ("res_2s", 5)])
def test_steps_of_a_result_are_evaluations(four, sampler, evaluations):
    [result] = four.generate([replace(PLAIN, sampler=sampler, steps=3)])
    assert result.work.steps_full == evaluations


def test_a_row_that_is_not_finite_fails_alone(wan):
    bad = replace(PLAIN, id="bad", sources=(SourceImage("nan", picture(3)),), creativity=0.5)
    encode = wan.encode_image
    wan.encode_image = lambda pixels: encode(pixels) * float("nan")
    try:
        outcomes = {outcome.request.id: outcome for outcome in wan.generate([PLAIN, bad])}
    finally:
        del wan.encode_image
    assert isinstance(outcomes["bad"], Failed)
    assert outcomes["bad"].error.kind == "nan"
    assert np.array_equal(outcomes["a"].pixels, make(wan, PLAIN)["a"])


def test_what_moved_for_a_row_that_fails_is_told_of_the_next_picture(wan, monkeypatch):
    bad = replace(PLAIN, id="bad", sources=(SourceImage("nan", picture(3)),), creativity=0.0)  # leaves first
    encode, moved = wan.encode_image, [(2, 0.5)]
    monkeypatch.setattr(wan, "encode_image", lambda pixels: encode(pixels) * float("nan"))
    monkeypatch.setattr(wan.placement, "newly_moved", lambda: moved.pop() if moved else (0, 0.0))
    failed, made = wan.generate([bad, PLAIN])
    assert isinstance(failed, Failed)
    assert (made.moves, made.move_seconds) == (2, 0.5)


def test_a_black_picture_is_a_picture(wan, monkeypatch):
    decode = wan.vae.decode
    monkeypatch.setattr(wan.vae, "decode", lambda latent: torch.full_like(decode(latent), -1.0))
    assert (make(wan, PLAIN)["a"] == 0).all()


def test_each_distinct_source_is_encoded_once(wan):
    calls = []
    encode = wan.encode_image
    wan.encode_image = lambda pixels: calls.append(1) or encode(pixels)
    try:
        sweep = [replace(PLAIN, id=str(c), sources=(source(1),), creativity=c) for c in (0.2, 0.5, 0.8)]
        make(wan, *sweep, replace(PLAIN, sources=(source(2), source(1)), creativity=0.4))
    finally:
        del wan.encode_image
    assert len(calls) == 2


def test_stage_seconds_add_up_to_the_time_spent(wan, monkeypatch):
    """By a clock that only the model's parts advance, each by another number of seconds."""
    now, spent = [0.0], {"text": 0.0, "encode": 0.0, "denoise": 0.0, "decode": 0.0}

    def takes(owner: object, method: str, stage: str, seconds: float) -> None:
        run = getattr(owner, method)

        def timed(*arguments, **options):
            now[0] += seconds
            spent[stage] += seconds
            return run(*arguments, **options)

        monkeypatch.setattr(owner, method, timed)

    monkeypatch.setattr("wanbatch.pipeline.core.device.time", SimpleNamespace(perf_counter=lambda: now[0]))
    takes(wan.text, "encode", "text", 5)
    takes(wan, "encode_image", "encode", 7)
    takes(Batch, "step", "denoise", 11)
    takes(wan.vae, "decode", "decode", 13)
    outcomes = list(wan.generate(mixed_rows()))
    told = {stage: sum(getattr(outcome.seconds, stage) for outcome in outcomes) for stage in spent}
    assert min(spent.values()) > 0
    assert told == pytest.approx(spent)


def test_rows_that_enter_as_others_leave_change_no_bit(wan):
    """Three units in one stream, with texts, sizes and guidance of several kinds, against a unit at a time."""
    rows = [replace(row, id=f"{unit}-{row.id}", seed=unit) for unit in range(3) for row in mixed_rows()]
    units = [rows[first : first + len(rows) // 3] for first in range(0, len(rows), len(rows) // 3)]
    alone = {name: pixels for unit in units for name, pixels in make(wan, *unit).items()}
    waiting = list(units[1:])
    streamed = list(wan.generate(units[0], lambda: waiting.pop(0) if waiting else ()))
    assert wan.streams
    assert sorted(outcome.request.id for outcome in streamed) == sorted(alone)
    assert all(np.array_equal(outcome.pixels, alone[outcome.request.id]) for outcome in streamed)
    evaluations = sum(outcome.work.steps_full for outcome in streamed)
    assert sum(outcome.slot_steps for outcome in streamed) >= evaluations


def test_pictures_that_a_device_has_not_made_yet_hold_up_no_row_and_are_all_handed_over(wan, monkeypatch):
    """None is ever there unasked: rows go on, up to a bound, and whoever waits in the end gets all of them."""
    rows = [replace(row, id=f"{number}-{row.id}") for number in range(8) for row in mixed_rows()[:2]]
    expected = make(wan, *rows)
    asked, most = [], 0
    begun = pictures.PendingPicture.__init__

    def begin(self, *given):
        asked.append(self)
        begun(self, *given)

    monkeypatch.setattr(pictures.PendingPicture, "__init__", begin)
    monkeypatch.setattr(pictures.PendingPicture, "here", property(lambda self: False))
    found = {}
    for outcome in wan.generate(rows):
        most = max(most, len(asked) - len(found))
        found[outcome.request.id] = outcome.pixels
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    held = wan.slots * generate.LEAVING_AT_ONCE
    assert held < most <= held + wan.slots
