"""Places that start at noise levels of their own: against rows that start there, where no place sees another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from picture_requests import PLAIN, make, picture, source
from solver_runs import Gaussian, trajectory

from wanbatch.pipeline.batching.regions import Regions
from wanbatch.pipeline.core.creativity_map import EDGE, latent_levels, region_of, with_kept_pixels
from wanbatch.pipeline.core.requests import CreativityMap, SourceImage
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.sampling.schedules import levels
from wanbatch.pipeline.sampling.solvers import SOLVERS, TWO_STAGES, solve

STEPS, SHIFT, TOP = 12, 3.0, 0.9
SHAPE = (2, 4, 6)  # of a latent
UNIPC = {"unipc", "unipc3"}
STOCHASTIC = {"lcm", "euler_ancestral"}


@pytest.fixture(scope="module")
def latent() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def mixed(latent: torch.Tensor, noise: torch.Tensor, level: float) -> torch.Tensor:
    return (1 - level) * latent + level * noise


def ends(
    sampler: str, latent: torch.Tensor, noise: torch.Tensor, places: np.ndarray, softness: float = 0.0
) -> torch.Tensor:
    """The last sample of a row that starts at `TOP`, whose places start at their own levels."""
    region, highest = region_of(places, 1, latent, noise)
    assert highest == np.float32(TOP)
    soft = torch.full((1, 1, 1, 1), softness, dtype=torch.float64)
    regions = Regions(latent[None], noise[None], region.levels[None, None].double(), soft)
    solution, data = solve(sampler, STEPS, SHIFT, TOP), Gaussian(0.3, 0.5)
    start = mixed(latent, noise, TOP)[None]
    fresh = torch.Generator().manual_seed(5)
    drawn = [torch.randn((1, *SHAPE), generator=fresh, dtype=torch.float64) for _ in range(solution.steps)]
    return trajectory([solution], start, data.velocity, drawn.__getitem__, "sigmas", regions)[-1][0]


def alone(sampler: str, latent: torch.Tensor, noise: torch.Tensor, level: float) -> torch.Tensor:
    """The last sample of a row of its own that starts at a level."""
    solution = solve(sampler, STEPS, SHIFT, level)
    return trajectory([solution], mixed(latent, noise, level)[None], Gaussian(0.3, 0.5).velocity, None, "sigmas")[-1][
        0
    ]


def halves(low: float) -> np.ndarray:
    places = np.full(SHAPE[1:], TOP, np.float32)
    places[:, :3] = low
    return places


@pytest.mark.parametrize("sampler", sorted(SOLVERS.keys() - STOCHASTIC))
def test_two_values_are_both_rows(sampler, latent, noise):
    """At a level of the schedule. UniPC of order 2 and 3 corrects with a step more than a row of its own."""
    level = float(np.float32(levels(STEPS, SHIFT, TOP)[5]))
    made = ends(sampler, latent, noise, halves(level))
    whole, late = alone(sampler, latent, noise, TOP), alone(sampler, latent, noise, level)
    assert torch.equal(made[..., 3:], whole[..., 3:])
    spread = float((whole - late)[..., :3].abs().max())
    assert spread > 0.1, "where a place starts matters"
    bound = 0.03 * spread if sampler in UNIPC else 1e-6
    assert float((made - late)[..., :3].abs().max()) < bound


@pytest.mark.parametrize("sampler", sorted(SOLVERS.keys() - STOCHASTIC - TWO_STAGES))
def test_between_two_levels_a_place_starts_from_its_own(sampler, latent, noise):
    """Against the row of its own that starts there: nearer than those that start at the levels around it."""
    upper, lower = levels(STEPS, SHIFT, TOP)[5:7]
    between = float(np.float32((upper + lower) / 2))
    made = ends(sampler, latent, noise, halves(between))[..., :3]
    exact, above, below = (alone(sampler, latent, noise, level)[..., :3] for level in (between, upper, lower))
    error = float((made - exact).abs().mean())
    assert error < 0.25 * min(float((made - other).abs().mean()) for other in (above, below))


@pytest.mark.parametrize("sampler", SOLVERS)
def test_what_never_starts_is_the_source(sampler, latent, noise):
    made = ends(sampler, latent, noise, halves(0.0))
    assert torch.equal(made[..., :3], latent[..., :3])
    assert not torch.isclose(made[..., 3:], latent[..., 3:]).all()


@pytest.mark.parametrize("sampler", SOLVERS)
def test_one_value_is_plain_creativity_bit_for_bit(wan, sampler):
    plain = replace(PLAIN, sources=(source(1),), creativity=0.7, sampler=sampler)
    values = np.full((64, 64), 0.7, np.float32)
    same = replace(plain, id="b", creativity_map=CreativityMap(values))
    soft = replace(plain, id="c", creativity_map=CreativityMap(values, softness=0.4))
    pixels = make(wan, plain, same, soft)
    assert np.array_equal(pixels["a"], pixels["b"])
    assert np.array_equal(pixels["a"], pixels["c"])


@pytest.mark.parametrize("sampler", sorted(SOLVERS.keys() - STOCHASTIC))
def test_a_soft_place_ends_between_one_that_starts_late_and_one_that_starts_with_the_row(sampler, latent, noise):
    made = {softness: ends(sampler, latent, noise, halves(0.3), softness)[..., :3] for softness in (0.0, 0.2, 0.6)}
    free = alone(sampler, latent, noise, TOP)[..., :3]
    distances = [float((one - free).abs().mean()) for one in made.values()]
    assert distances[0] > distances[1] > distances[2] > 0, distances


@pytest.mark.parametrize("sampler", SOLVERS)
def test_softness_leaves_what_never_starts_and_what_starts_with_the_row(sampler, latent, noise):
    hard, soft = (ends(sampler, latent, noise, halves(0.0), softness) for softness in (0.0, 0.5))
    assert torch.equal(hard, soft)
    assert torch.equal(soft[..., :3], latent[..., :3])


def test_rows_with_maps_are_the_same_in_company_and_alone(wan):
    values = np.linspace(0, 0.8, 64 * 64, dtype=np.float32).reshape(64, 64)
    rows = [
        replace(PLAIN, id=str(number), sources=(source(number),), seed=number, sampler=sampler, creativity=0.8,
                steps=4 + number, creativity_map=CreativityMap(shown, softness=0.3 * (number % 2)))
        for number, (sampler, shown) in enumerate(
            [("unipc", values), ("euler", values.T), ("heun", values[::-1]), ("res_2s", values), ("deis", values.T),
             ("lcm", values)])
    ]  # fmt: skip
    together = make(wan, *rows, replace(PLAIN, id="plain", sources=(source(1),), creativity=0.8))
    assert all(np.array_equal(make(wan, row)[row.id], together[row.id]) for row in rows)


@pytest.mark.parametrize(
    "runtime",
    [Runtime(fp8=True), Runtime(step_cache="taylor:interval=2"), Runtime(step_cache="adaptive:threshold=0.1")],
    ids=["fp8", "taylor", "adaptive"],
)
def test_rows_with_maps_in_fp8_and_with_step_caches_do_not_see_their_neighbours(model_folder, runtime):
    """One row more than slots, so that rows are parked, too; on a CPU FP8 is emulated."""
    wan = Wan.load(registry.find(str(model_folder)), slots=2, runtime=runtime)
    values = np.linspace(0, 0.8, 64 * 64, dtype=np.float32).reshape(64, 64)
    rows = [
        replace(PLAIN, id=str(number), sources=(source(number),), seed=number, creativity=0.8, steps=6 + number,
                creativity_map=CreativityMap(values if number else values.T, softness=0.2 * number))
        for number in range(3)
    ]  # fmt: skip
    together = make(wan, *rows)
    assert all(np.array_equal(make(wan, row)[row.id], together[row.id]) for row in rows)
    plain = replace(PLAIN, sources=(source(1),), creativity=0.7)
    same = replace(plain, id="b", creativity_map=CreativityMap(np.full((64, 64), 0.7, np.float32)))
    pixels = make(wan, plain, same)
    assert np.array_equal(pixels["a"], pixels["b"])
    held = replace(same, creativity_map=CreativityMap(np.where(values > 0.4, values, 0).astype(np.float32)))
    assert not np.array_equal(make(wan, held)["b"], pixels["a"])


def test_the_latent_stays_where_the_map_is_zero(wan):
    """The picture's left half may not change, and its right half may."""
    values = np.zeros((64, 64), np.float32)
    values[:, 32:] = 1.0
    request = replace(PLAIN, sources=(source(3),), creativity=1.0, creativity_map=CreativityMap(values))
    embeddings, _ = wan.encode_prompts([request])
    latents, _ = wan.encode_sources([request])
    (done,) = wan.denoiser.run([wan.sample(request, embeddings, latents)])
    columns = 32 // wan.stride
    assert torch.equal(done.latent[..., :columns], latents["3"][..., :columns])
    assert float((done.latent - latents["3"])[..., columns:].abs().mean()) > 0.1


@pytest.mark.parametrize("inside_at", [0.0, 0.2])
def test_kept_pixels_are_the_sources(wan, inside_at):
    values = np.full((64, 64), 0.9, np.float32)
    values[16:40, 8:30] = inside_at
    row = replace(PLAIN, sources=(source(3),), creativity=0.9)
    made = make(wan, replace(row, creativity_map=CreativityMap(values)))["a"]
    shown = CreativityMap(values, keep_pixels=True, kept_up_to=inside_at)
    kept = make(wan, replace(row, creativity_map=shown))["a"]
    inside = values == np.float32(inside_at)
    assert np.array_equal(kept[inside], picture(3)[inside])
    assert not np.array_equal(made[inside], picture(3)[inside]), "the VAE alone does not bring them back"
    far = np.ones_like(inside)
    far[16 - EDGE : 40 + EDGE, 8 - EDGE : 30 + EDGE] = False
    assert np.array_equal(kept[far], made[far])


def test_the_edge_of_kept_pixels_falls_evenly():
    values = np.ones((1 + 2 * EDGE, 16), np.float32)
    values[:, :4] = 0
    black, white = (np.full((*values.shape, 3), value, np.uint8) for value in (0, 255))
    made = with_kept_pixels(black, [SourceImage("white", white)], CreativityMap(values, True))
    assert made[4, :, 0].tolist() == [255] * 4 + [204, 153, 102, 51] + [0] * 8
    values[:, :4] = 0.2
    made = with_kept_pixels(black, [SourceImage("white", white)], CreativityMap(values, True, kept_up_to=0.2))
    assert made[4, :, 0].tolist() == [255] * 4 + [128] + [0] * 11, "the picture has something like it there"


def test_kept_pixels_of_a_blend_are_its_mean():
    values = np.zeros((4, 4), np.float32)
    dark, light = (np.full((4, 4, 3), value, np.uint8) for value in (40, 100))
    sources = [SourceImage("dark", dark, 2.0), SourceImage("light", light, 1.0)]
    assert (with_kept_pixels(light, sources, CreativityMap(values, True)) == 60).all()


def test_a_place_of_the_latent_may_change_as_its_least_pixel():
    values = np.full((8, 8), 0.5, np.float32)
    values[3, 3], values[4:, :4] = 0.1, 0.9
    assert latent_levels(values, 4).tolist() == [[np.float32(0.1), 0.5], [np.float32(0.9), 0.5]]


def test_a_changing_part_smaller_than_a_place_lowers_the_start(wan):
    """If the part of the highest creativity holds no whole place, it says so; made larger, it does as it was told."""
    values = np.full((64, 64), 0.5, np.float32)
    values[0, 0] = 0.9
    row = replace(PLAIN, sources=(source(1),), creativity=0.9, creativity_map=CreativityMap(values))
    plain = replace(PLAIN, id="b", sources=(source(1),), creativity=0.5)
    larger = np.full((64, 64), 0.5, np.float32)
    larger[:16, :16] = 0.9
    whole = replace(row, id="c", creativity_map=CreativityMap(larger))
    pixels = make(wan, row, plain)
    assert np.array_equal(pixels["a"], pixels["b"])
    assert {one.request.id: one.start_lowered for one in wan.generate([row, plain, whole])} == {
        "a": True,
        "b": False,
        "c": False,
    }
