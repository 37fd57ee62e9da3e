"""Training of sound adapters: one that is killed goes on to the bit, with the random numbers that would have come."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import WanTransformer3DModel

from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.sound.adapter import SoundAdapter
from wanbatch.pipeline.training.loop import Budget
from wanbatch.pipeline.training.sound import distillation
from wanbatch.pipeline.training.sound.distillation import Plan, distill
from wanbatch.pipeline.training.sound.noises import with_noises
from wanbatch.pipeline.training.sound.teacher import Teacher

ENCODER = {"rate": 4000, "seconds": 0.5, "mels": 8, "widths": (8, 8), "dim": 8}


class Killed(Exception):
    """Ends a process at once."""


def train(state, killed_after: int | None = None) -> SoundAdapter:
    torch.manual_seed(5)
    model = WanTransformer3DModel(
        patch_size=(1, 1, 1), num_attention_heads=2, attention_head_dim=12, in_channels=3, out_channels=3, text_dim=8,
        freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=16,
    )  # fmt: skip
    teacher = Teacher(FrameTransformer(model.eval()), [torch.randn(3, 8), torch.randn(5, 8)], torch.randn(1, 8))
    lessons = teacher.record([0, 1], (3, 4, 4), torch.Generator().manual_seed(6))
    numbers = {"dim": 8, "heads": 2, "layers": 1, "gate": True}
    adapter = SoundAdapter.new(8, 2, teacher.scale, encoder=ENCODER, resampler=numbers)
    generators = [torch.Generator().manual_seed(number) for number in range(2)]
    calls = []

    def draw(count: int):
        calls.append(count)
        if killed_after is not None and len(calls) > killed_after:
            raise Killed
        captions = torch.randint(2, (count,), generator=generators[0])
        return torch.randn(count, 2000, generator=generators[0]), captions

    plan = Plan(batch=4, velocity_share=0.5, velocity_batch=3)
    given = with_noises(draw, 4000, generators[1])
    distill(adapter, teacher, lessons, given, Budget(math.inf, 6), plan, state, generators=generators)
    return adapter


def test_a_training_that_is_killed_goes_on_to_the_bit(tmp_path, monkeypatch):
    wanted = train(tmp_path / "whole.pt").state_dict()
    seconds = iter(range(0, 100_000, 100))
    monkeypatch.setattr(distillation.time, "monotonic", lambda: next(seconds))  # each step is kept
    for steps in (2, 2):  # within the first stage, and in the second one
        with pytest.raises(Killed):
            train(tmp_path / "killed.pt", killed_after=steps)
    found = train(tmp_path / "killed.pt").state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
