"""Two experts that take turns on a device: the same rows with the same bits, and few moves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from small_models import random_transformer
from stub_transformer import StubTransformer, samples_of

from wanbatch.pipeline.batching.denoiser import Denoiser
from wanbatch.pipeline.core.samples import Denoised, Sample
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.sampling.solvers import solve
from wanbatch.pipeline.sampling.step_cache import parse

SLOTS, BOUNDARY = 3, 0.7


class Device:
    """Where one expert is at a time; notes who came."""

    def __init__(self):
        self.present: int | None = None
        self.came: list[int] = []

    def have(self, expert: int) -> None:
        self.present = expert
        self.came.append(expert)


class Guarded:
    """An expert that must not be touched while it is not on the device; what its configuration says may be asked."""

    asked = ("dtype", "patch", "dim", "layers", "in_channels", "text_dim")

    def __init__(self, expert, index: int, device: Device):
        self._expert, self._index, self._device, self.evaluations = expert, index, device, 0

    def __getattr__(self, name):
        assert name in self.asked or self._device.present == self._index, name
        return getattr(self._expert, name)

    def __call__(self, *arguments):
        assert self._device.present == self._index
        self.evaluations += 1
        return self._expert(*arguments)


@pytest.fixture(scope="module")
def experts() -> list[FrameTransformer]:
    return [FrameTransformer(random_transformer(seed)).fuse() for seed in (0, 5)]


def row(seed: int, steps: int = 8, guidance: float = 3.0, creativity: float = 1.0, width: int = 6, tokens: int = 5):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(2, 40, 32, generator=generator)
    return Sample(
        id=f"row {seed}",
        start=torch.randn(8, 4, width, generator=generator),
        solution=solve("unipc" if seed % 2 else "heun", steps, 3.0, creativity),
        guidance=guidance,
        prompt=text[0, :tokens],
        negative=text[1, :2],
        seed=seed,
        guidance_2=None if seed % 3 else 2.0,
    )


def rows() -> list[Sample]:
    """Of several sizes, lengths of texts and schedules; some start below the boundary, one ends above it."""
    return [
        *(row(seed, steps=4 + seed) for seed in range(1, 6)),
        row(6, width=8),
        row(7, tokens=35),
        row(8, guidance=1.0),
        row(9, creativity=0.5),
        row(10, creativity=0.35, steps=5),
        row(11, steps=1),
    ]


def in_turns(experts: Sequence[FrameTransformer], samples, text="none", turns=True) -> tuple[dict, Device]:
    device = Device()
    guarded = [Guarded(expert, index, device) for index, expert in enumerate(experts)] if turns else experts
    cache = parse(text, experts[0].layers)
    denoiser = Denoiser(guarded, SLOTS, BOUNDARY, cache, 0 if turns else 2, device.have, turns)
    return {found.sample.id: found for found in denoiser.run(samples)}, device


def same(one: Denoised, other: Denoised) -> bool:
    return torch.equal(one.latent, other.latent) and one.work == other.work


@pytest.mark.parametrize("text", ["none", "taylor:interval=3", "adaptive:threshold=0.5+gate:interval=2"])
def test_each_expert_comes_once_for_all_rows_and_bits_are_the_same(experts, text):
    expected, _ = in_turns(experts, rows(), text, turns=False)
    found, device = in_turns(experts, rows(), text)
    assert device.came == [0, 1]
    assert found.keys() == expected.keys() == {one.id for one in rows()}
    assert all(same(found[name], expected[name]) for name in expected)
    assert text == "none" or sum(one.work.steps_cached for one in found.values()) > len(found)


def test_rows_that_start_below_the_boundary_need_one_expert(experts):
    samples = [row(seed, creativity=0.4) for seed in range(4)]
    found, device = in_turns(experts, samples)
    assert (len(found), device.came) == (4, [1])


def test_units_that_follow_each_other_take_turns_anew(experts):
    device = Device()
    guarded = [Guarded(expert, index, device) for index, expert in enumerate(experts)]
    denoiser = Denoiser(guarded, SLOTS, BOUNDARY, None, 0, device.have, take_turns=True)
    for _ in range(2):
        assert len(list(denoiser.run([row(seed) for seed in range(5)]))) == 5
    assert device.came == [0, 1, 0, 1]


@pytest.mark.parametrize("turns", [False, True], ids=["resident", "in turns"])
def test_slots_of_both_experts_are_full(turns):
    device, slots = Device(), 8
    samples = samples_of([10] * 64, steps=(10, 14, 20))
    models = [StubTransformer(), StubTransformer()]
    denoiser = Denoiser(models, slots, 0.5, None, 0 if turns else 2, device.have, turns)
    found = list(denoiser.run(samples))
    evaluations = sum(one.work.steps_full for one in found)
    assert evaluations == sum(sample.solution.steps for sample in samples)
    assert min(model.evaluations for model in models) > 0.3 * evaluations / slots
    assert evaluations / (slots * sum(model.evaluations for model in models)) > 0.8  # the rest is the end of both
    assert sum(one.slot_steps for one in found) == pytest.approx(slots * sum(model.evaluations for model in models))
    assert len(device.came) == 2 if turns else len(device.came) > 2


def test_where_both_experts_are_there_rows_are_finished_as_soon_as_they_fill_the_second_ones_slots():
    models = [StubTransformer(), StubTransformer()]
    first = next(iter(Denoiser(models, 8, 0.5).run(samples_of([10] * 64, steps=(10,)))))
    assert first.work.steps_full == 10
    assert sum(model.evaluations for model in models) <= 10 + 1  # the first eight rows were not held up by the others
