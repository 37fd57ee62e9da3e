"""Step caches in the denoiser: what they compute, and that a row's bits never depend on its neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from small_models import random_transformer

from wanbatch.errors import UserError
from wanbatch.pipeline.batching.denoiser import Denoiser
from wanbatch.pipeline.batching.slots import SlotTable
from wanbatch.pipeline.batching.solver_step import advance
from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.core.samples import Denoised, Sample
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.text_context import CrossAttentionContext
from wanbatch.pipeline.sampling.evaluation_counts import EvaluationCounts
from wanbatch.pipeline.sampling.solvers import STATES, solve
from wanbatch.pipeline.sampling.step_cache import parse

SLOTS = 3
CACHES = [
    "none",
    "deepcache:interval=2,blocks=2",
    "taylor:interval=3,order=2,first=1",
    "adaptive:threshold=0.5",
    "none+gate:mode=skip,below=0.7",
    "none+gate:mode=reuse,interval=3",
    "deepcache:interval=3,blocks=1+gate:mode=skip,above=0.4,below=0.9",
    "adaptive:threshold=1,along=sigma,blocks=2+gate:order=0,interval=2",
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Such small products are quickest on one thread, many times so while others keep the processor busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def expert() -> FrameTransformer:
    return FrameTransformer(random_transformer()).fuse()


def sample(seed: int, steps: int = 8, guidance: float = 3.0, creativity: float = 1.0, sampler="unipc", tokens=5):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(2, 8, 32, generator=generator)
    return Sample(
        id=f"row {seed}",
        start=torch.randn(8, 4, 6, generator=generator),
        solution=solve(sampler, steps, 3.0, creativity),
        guidance=guidance,
        prompt=text[0, :tokens],
        negative=text[1, :2],
        seed=seed,
    )


def mixed_rows() -> list[Sample]:
    """Rows of one size that differ in everything else."""
    return [
        sample(1),
        sample(2, steps=11),
        sample(3, steps=5, guidance=1.5),
        sample(4, steps=9, guidance=1.0),
        sample(5, creativity=0.6, steps=12),
        sample(6, creativity=0.35, steps=10, sampler="euler"),
        sample(7, steps=8, sampler="dpmpp_2m", tokens=8),
        sample(10, steps=5, sampler="heun"),
        sample(11, steps=7, sampler="euler_ancestral", guidance=1.0),
        sample(8, steps=6, guidance=1.0, creativity=0.8),
        sample(9, steps=1),
    ]


def denoise(experts, rows, text: str, boundary=None, slots=SLOTS) -> dict[str, Denoised]:
    experts = experts if isinstance(experts, list) else [experts]
    denoiser = Denoiser(experts, slots, boundary, parse(text, experts[0].layers))
    return {found.sample.id: found for found in denoiser.run(rows)}


def same(one: Denoised, other: Denoised) -> bool:
    return torch.equal(one.latent, other.latent) and one.work == other.work


# ---- bits


@pytest.mark.parametrize("text", CACHES)
def test_a_row_does_not_depend_on_neighbours_order_or_slot(expert, text):
    rows = mixed_rows()
    alone = {row.id: denoise(expert, [row], text)[row.id] for row in rows}
    assert all(bool(torch.isfinite(found.latent).all()) for found in alone.values())
    assert text == "none" or sum(found.work.steps_cached for found in alone.values()) > len(rows)
    for shuffle in range(4):
        rng = np.random.default_rng(shuffle)
        order = rng.permutation(len(rows))[: rng.integers(2, len(rows) + 1)]
        together = denoise(expert, [rows[index] for index in order], text)
        assert len(together) == len(order)
        assert all(same(found, alone[name]) for name, found in together.items())


@pytest.mark.parametrize("text", ["taylor:interval=2", "adaptive:threshold=0.3+gate:interval=2"])
def test_a_row_that_is_not_finite_spoils_no_other_and_none_after_it(expert, text):
    rows = mixed_rows()
    bad = [replace(sample(20 + n), start=rows[0].start * float("nan")) for n in range(3)]
    together = denoise(expert, [rows[0], *bad, *rows[1:]], text)
    assert all(bool(together[row.id].latent.isnan().any()) for row in bad)
    assert all(same(found, together[name]) for name, found in denoise(expert, rows, text).items())


@pytest.mark.parametrize("text", ["none", "taylor:interval=3", "adaptive+gate"])
def test_two_experts(expert, text):
    """A row changes the expert at its own time, and takes no memory of the first one's residuals along."""
    experts = [expert, FrameTransformer(random_transformer(seed=5)).fuse()]
    rows = mixed_rows()
    together = denoise(experts, rows, text, boundary=0.7)
    assert all(same(denoise(experts, [row], text, boundary=0.7)[row.id], together[row.id]) for row in rows)


# ---- values


@torch.inference_mode()
def in_a_plain_loop(expert: FrameTransformer, row: Sample, span=range(0), full=lambda step: True) -> torch.Tensor:
    """One row in the first of the slots, step after step, the last residual added where a step is not full."""
    lengths = torch.tensor([len(row.prompt)] * SLOTS + [len(row.negative)] * SLOTS)
    texts = torch.zeros(2 * SLOTS, 30, 32)
    texts[:SLOTS, : len(row.prompt)], texts[SLOTS:, : len(row.negative)] = row.prompt, row.negative
    pairs = zip(texts, lengths, strict=True)
    contexts = [expert.context(text[None], length[None], TEXT_TOKENS) for text, length in pairs]
    context = CrossAttentionContext(
        torch.cat([one.keys for one in contexts], dim=1),
        torch.cat([one.values for one in contexts], dim=1),
        torch.cat([one.bias for one in contexts]),
    )
    state = torch.zeros(SLOTS, STATES, *row.start.shape)
    state[0, 0] = row.start
    residual, solution = torch.zeros(()), row.solution
    for step in range(solution.steps):
        latents = torch.cat([state[:, 0]] * 2)
        times = torch.full((2 * SLOTS,), float(solution.timesteps[step]))
        if full(step):
            velocity, residual = expert.forward_recording(latents, times, context, span)
        else:
            velocity = expert.forward_reusing(latents, times, context, span, residual)
        with_prompt, without = velocity.chunk(2)
        velocity = without + torch.tensor(row.guidance) * (with_prompt - without)
        factors = [
            torch.tensor(table[step], dtype=torch.float32).expand(SLOTS, *table[step].shape)
            for table in (solution.sigmas, solution.correct, solution.predict)
        ]
        state = advance(state, velocity, *factors)
    return state[0, 0]


@pytest.mark.parametrize("text", ["none", "deepcache:blocks=0", "deepcache:blocks=2,interval=1", "taylor:interval=1"])
def test_what_skips_nothing_changes_no_bit(expert, text):
    row = sample(1)
    found = denoise(expert, [row], text)[row.id]
    assert torch.equal(found.latent, in_a_plain_loop(expert, row))
    assert found.work == EvaluationCounts(steps_full=8, blocks_full=8 * 3 * 2)


@pytest.mark.parametrize(("blocks", "first"), [(1, 0), (2, 0), (3, 0), (2, 1)])
def test_deepcache_is_a_plain_loop_that_reuses_residuals(expert, blocks, first):
    row = sample(1)
    found = denoise(expert, [row], f"deepcache:interval=3,blocks={blocks},first={first}")[row.id]
    span = range(first, first + blocks)
    assert torch.equal(found.latent, in_a_plain_loop(expert, row, span, full=lambda step: step in (0, 3, 6, 7)))
    assert found.work == EvaluationCounts(4, 4, blocks_full=2 * (8 * 3 - 4 * blocks), blocks_cached=2 * 4 * blocks)
    assert not torch.allclose(found.latent, in_a_plain_loop(expert, row), rtol=1e-3)


def test_a_taylor_cache_of_order_zero_is_deepcache(expert):
    row = sample(1)
    taylor = denoise(expert, [row], "taylor:order=0,interval=3,blocks=2")[row.id]
    assert same(taylor, denoise(expert, [row], "deepcache:interval=3,blocks=2")[row.id])


def test_guidance_that_is_skipped_everywhere_is_guidance_one(expert):
    row = sample(1)
    gated = denoise(expert, [row], "none+gate:mode=skip")[row.id]
    plain = denoise(expert, [replace(row, guidance=1.0)], "none")[row.id]
    assert torch.equal(gated.latent, plain.latent)
    assert gated.work == EvaluationCounts(0, 8, 8 * 3, 8 * 3)


@dataclass
class Polynomial:
    """Stands in for a transformer: its residual and its guidance are polynomials in the noise level."""

    degree: int
    dtype = torch.float32
    patch = (2, 2)
    dim = 32
    layers = 4

    def context(self, embeds, lengths, padded_length):
        keys = 5 * embeds.mean(dim=(1, 2)).reshape(1, -1, 1, 1, 1)
        return CrossAttentionContext(keys, keys.clone(), torch.zeros(len(embeds), 1, 1, 1))

    def forward_recording(self, latents, timestep, context, span):
        tokens, sigma = latents.shape[2] * latents.shape[3] // 4, timestep / 1000
        text = context.keys[0, :, 0, 0, 0]
        residual = sum((text + power) * (0.3 - sigma) ** power for power in range(self.degree + 1))
        residual = (residual * 0.1)[:, None, None].expand(-1, tokens, self.dim)
        return self.forward_reusing(latents, timestep, context, span, residual), residual

    def forward_reusing(self, latents, timestep, context, span, residual):
        added = residual.mean(dim=(1, 2))
        return latents * 0.5 + added[:, None, None, None]

    def __call__(self, latents, timestep, context):
        return self.forward_recording(latents, timestep, context, range(4))[0]


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_extrapolation_is_exact_for_residuals_that_are_polynomials_in_sigma(degree, guidance):
    model, rows = Polynomial(degree), [sample(n, steps=9 + n, guidance=guidance, sampler="euler") for n in range(4)]
    exact = denoise(model, rows, "none")

    def largest_error(text):
        return max(float((found.latent - exact[name].latent).abs().max()) for name, found in rows_of(text))

    def rows_of(text):
        return denoise(model, rows, text).items()

    assert largest_error(f"taylor:interval=3,order={degree},along=sigma") < 1e-5
    assert largest_error(f"adaptive:threshold=0.01,order={degree},along=sigma") < 1e-5
    cached = [found.work.steps_cached for _, found in rows_of(f"adaptive:threshold=0.01,order={degree},along=sigma")]
    assert min(cached) >= 4  # what is predicted without error is predicted as often as may be
    if degree > 0:
        assert largest_error(f"taylor:interval=3,order={degree - 1},along=sigma") > 1e-4
    if guidance > 1:
        assert largest_error(f"none+gate:interval=3,order={degree}") < 1e-5
        assert degree == 0 or largest_error(f"none+gate:interval=3,order={degree - 1}") > 1e-4


def test_adaptive_rows_decide_for_themselves():
    """Rows of one schedule whose residuals bend differently skip differently, alone as together."""
    model, rows = Polynomial(1), [sample(seed, steps=12) for seed in range(30, 38)]
    found = denoise(model, rows, "adaptive:threshold=0.1,order=0,along=sigma")
    assert len({one.work for one in found.values()}) > 1
    for row in rows:
        assert same(denoise(model, [row], "adaptive:threshold=0.1,order=0,along=sigma")[row.id], found[row.id])


# ---- slots


class Counting:
    """A transformer that counts its evaluations."""

    def __init__(self, expert):
        self.expert, self.full, self.partial = expert, 0, 0

    def __getattr__(self, name):
        return getattr(self.expert, name)

    def __call__(self, *arguments):
        self.full += 1
        return self.expert(*arguments)

    def forward_recording(self, *arguments):
        self.full += 1
        return self.expert.forward_recording(*arguments)

    def forward_reusing(self, *arguments):
        self.partial += 1
        return self.expert.forward_reusing(*arguments)


@pytest.mark.parametrize("text", ["none", "deepcache:interval=2,blocks=2", "taylor:interval=4", "adaptive"])
def test_rows_out_of_step_fill_the_slots(expert, text):
    """Rows enter one by one, so their cadences shift; still nearly every slot of every evaluation has a row."""
    counting = Counting(expert)
    rows = [sample(seed, steps=5 + seed % 4) for seed in range(17)]
    found = denoise([counting], rows, text)
    partial = sum(found[row.id].work.steps_cached for row in rows)
    full = sum(found[row.id].work.steps_full for row in rows)
    assert (full + partial) / SLOTS <= counting.full + counting.partial
    wasted = (counting.full + counting.partial) * SLOTS - full - partial
    assert wasted < 0.1 * (full + partial) + 2 * max(row.solution.steps for row in rows)


def test_rows_in_step_are_never_parked(expert, monkeypatch):
    assign = SlotTable.assign

    def assigned(self, rows):
        before = set(self.rows.values())
        taking_part = assign(self, rows)
        assert before <= set(self.rows.values())
        return taking_part

    monkeypatch.setattr(SlotTable, "assign", assigned)
    for text in CACHES[:2]:
        assert len(denoise(expert, [sample(seed) for seed in range(9)], text)) == 9


# ---- through the pipeline


def test_a_pipeline_with_a_cache(wan):
    from picture_requests import PLAIN

    exact = next(iter(wan.generate([PLAIN])))
    try:
        wan.use_step_cache("deepcache:blocks=2")
        cached = next(iter(wan.generate([PLAIN])))
        with pytest.raises(UserError, match="asks for blocks 0 to 3, but the model has 3"):
            wan.use_step_cache("deepcache:blocks=4")
    finally:
        wan.use_step_cache("none")
    assert exact.work == EvaluationCounts(6, 0, 6 * 3 * 2, 0)
    assert cached.work == EvaluationCounts(4, 2, 6 * 3 * 2 - 8, 8)
    assert not np.array_equal(cached.pixels, exact.pixels)
    assert np.array_equal(next(iter(wan.generate([PLAIN]))).pixels, exact.pixels)
