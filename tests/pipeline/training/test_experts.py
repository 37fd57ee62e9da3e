"""Adapters of the two transformers of A14B: which noise levels each learns from, and their files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from two_experts import BOUNDARY, two_experts

from wanbatch.errors import UserError
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.training.experts import Experts
from wanbatch.pipeline.training.lora.card import About
from wanbatch.pipeline.training.lora.examples import Examples, Picture
from wanbatch.pipeline.training.lora.model import TrainingModel, padded
from wanbatch.pipeline.training.lora.run import Listener, train_lora
from wanbatch.pipeline.training.lora.settings import LoraSettings
from wanbatch.pipeline.training.lora.training import LoraTraining
from wanbatch.pipeline.training.low_rank import LowRankAdapters, LowRankLinear
from wanbatch.pipeline.training.read_back import READ_BACK

CPU = torch.device("cpu")
SETTINGS = LoraSettings(
    rank=2, rate=1e-2, steps=4, batch=4, save_every=2, sample_every=0, sample_steps=2, warm_up=1, average=0.5,
    expert="both",
)  # fmt: skip


@pytest.fixture(scope="module")
def info(tmp_path_factory) -> ModelInfo:
    return two_experts(tmp_path_factory.mktemp("a14b") / "model")


def load(info: ModelInfo) -> TrainingModel:
    return TrainingModel.load(info, CPU, torch.float32)


def drawn_examples() -> Examples:
    drawn = torch.Generator().manual_seed(1)
    texts = {name: torch.randn(5, 128, generator=drawn) for name in ("a", "")}
    return Examples([torch.randn(4, 32, 2, 2, generator=drawn)], [["a"] * 4], texts)


def training_of(model: TrainingModel, out: Path, settings: LoraSettings, experts: tuple[str, ...]) -> LoraTraining:
    out.mkdir(exist_ok=True)
    adapters = LowRankAdapters({name: model.experts[name] for name in experts})
    return LoraTraining(model, adapters, "a", drawn_examples(), settings, out, lambda text: None)


@contextlib.contextmanager
def read_back_active(model: TrainingModel) -> Iterator[None]:
    """Within, the adapter is active that was read back from its files."""
    layers = [each for dit in model.experts.values() for each in dit.modules() if isinstance(each, LowRankLinear)]
    for layer in layers:
        layer.active = READ_BACK
    yield
    for layer in layers:
        layer.active = None


def test_rows_go_to_the_transformer_of_their_noise_level(info):
    model = load(info)
    levels = torch.tensor([0.2, 0.9, BOUNDARY, 0.69])
    noisy = torch.randn(4, 32, 2, 2, generator=torch.Generator().manual_seed(0))
    states = [next(iter(model.embeddings([text]).values())) for text in ("a dog", "a red car")] * 2
    embeds, lengths = padded(states)
    with torch.no_grad():
        found = model.velocity(noisy, levels, embeds, lengths)
        for row, expert in enumerate(("low_noise", "high_noise", "high_noise", "low_noise")):
            row = slice(row, row + 1)
            alone = Experts(model.experts[expert]).velocity(noisy[row], levels[row], embeds[row], lengths[row])
            torch.testing.assert_close(found[row], alone, rtol=1e-4, atol=1e-4)
            (other,) = (each for name, each in model.experts.items() if name != expert)
            wrong = Experts(other).velocity(noisy[row], levels[row], embeds[row], lengths[row])
            assert (found[row] - wrong).norm() > 0.01 * wrong.norm()


@pytest.mark.parametrize(("expert", "trained"), [("high", "high_noise"), ("low", "low_noise")])
def test_one_of_them_learns_from_its_own_noise_levels_alone(info, tmp_path, expert, trained):
    model = load(info)
    training = training_of(model, tmp_path, replace(SETTINGS, expert=expert), (trained,))
    torch.manual_seed(0)
    levels = training._levels(2000)
    assert bool((levels >= BOUNDARY).all()) if expert == "high" else bool((levels < BOUNDARY).all())
    assert float(levels.max() - levels.min()) > 0.2
    training.run(lambda made: None, lambda made, loss: None)
    noisy, states = torch.ones(2, 32, 2, 2), torch.ones(2, 5, 128)
    given = (noisy, torch.tensor([0.9, 0.3]), states, torch.tensor([5, 5]))
    with torch.no_grad():
        plain = model.velocity(*given)
        with training.adapters.active("a"):
            changed = model.velocity(*given)
    same = [torch.equal(one, other) for one, other in zip(plain, changed, strict=True)]
    assert same == ([False, True] if expert == "high" else [True, False])


def test_both_are_trained_and_gone_on_with_to_the_bit(info, tmp_path):
    def told(made: int, loss: float) -> None:
        if made == 3:
            raise KeyboardInterrupt

    names = ("high_noise", "low_noise")
    whole = training_of(load(info), tmp_path / "whole", SETTINGS, names)
    whole.run(lambda made: None, lambda made, loss: None)
    with pytest.raises(KeyboardInterrupt):
        training_of(load(info), tmp_path / "halves", SETTINGS, names).run(lambda made: None, told)
    halves = training_of(load(info), tmp_path / "halves", SETTINGS, names)
    halves.run(lambda made: None, lambda made, loss: None)
    for expert in names:
        wanted = whole.adapters.state("a", torch.float32, expert)
        found = halves.adapters.state("a", torch.float32, expert)
        assert all(torch.equal(found[name], value) for name, value in wanted.items())
        assert any(value.abs().max() > 0 for name, value in wanted.items() if "lora_B" in name)


def test_their_files_are_read_by_a_run_and_by_diffusers(info, tmp_path):
    drawn = np.random.default_rng(3)
    pictures = [Picture(drawn.integers(0, 255, (16, 16, 3), dtype=np.uint8), f"picture {n}") for n in range(4)]
    model = load(info)
    about = About("ink", "a14b", "a list", 4)
    file, measured = train_lora(
        model, pictures, about, replace(SETTINGS, steps=2), tmp_path, area=32 * 32, unrelated=("a dog",),
        listener=Listener(say=lambda text: None),
    )  # fmt: skip
    assert file.name == "ink_high_noise.safetensors"
    assert sorted(each.name for each in tmp_path.glob("*.safetensors")) == [file.name, "ink_low_noise.safetensors"]
    assert measured.coverage == (
        "high noise: 20 of 20 layers, rank 2, scale 1.0; low noise: 20 of 20 layers, rank 2, scale 1.0"
    )
    assert 0 < measured.file_difference < 0.02
    card = (tmp_path / "README.md").read_text()
    assert 'weight_name="ink_low_noise.safetensors", load_into_transformer_2=True' in card
    pipeline = WanPipeline.from_pretrained(info.folder, dtype=torch.float32)
    pipeline.load_lora_weights(str(tmp_path), weight_name=file.name)
    pipeline.load_lora_weights(
        str(tmp_path), weight_name="ink_low_noise.safetensors", load_into_transformer_2=True, adapter_name="low"
    )
    states = next(iter(model.embeddings(["a dog"]).values()))[None]
    noisy = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(0))
    for level, theirs in ((0.9, pipeline.transformer), (0.4, pipeline.transformer_2)):
        given = (noisy, torch.tensor([level]), states, torch.tensor([states.shape[1]]))
        long = torch.nn.functional.pad(states, (0, 0, 0, 512 - states.shape[1]))
        with torch.no_grad():
            wanted = theirs(noisy[:, :, None], given[1] * 1000, long).sample[:, :, 0]
            plain = model.velocity(*given)
            with read_back_active(model):
                ours = model.velocity(*given)
        assert (ours - plain).norm() > 1e-3 * plain.norm()
        assert (wanted - ours).norm() < 0.02 * (ours - plain).norm() + 1e-4 * plain.norm()


def test_an_expert_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="unknown expert 'middle'; there are high, low, both"):
        LoraSettings(expert="middle")
