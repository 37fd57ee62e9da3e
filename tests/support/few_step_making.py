"""Distillations of a small transformer, for the tests of trainings."""

from __future__ import annotations

import math

import torch
from diffusers import WanTransformer3DModel

from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.training.experts import Experts
from wanbatch.pipeline.training.few_step import losses
from wanbatch.pipeline.training.few_step.distillation import Distillation
from wanbatch.pipeline.training.few_step.settings import FewStepSettings
from wanbatch.pipeline.training.few_step.teacher import PromptBank
from wanbatch.pipeline.training.loop import Budget
from wanbatch.pipeline.training.low_rank import IMAGE_LAYERS, LowRankAdapters

SETTINGS = FewStepSettings(
    rank=2, fake_rank=3, batch=4, consistency_share=0.34, fake_warm_up=1, step_counts=(1, 2, 3), consistency_again=0.5
)


def small_model() -> WanTransformer3DModel:
    torch.manual_seed(5)
    return WanTransformer3DModel(
        patch_size=(1, 1, 1), num_attention_heads=2, attention_head_dim=12, in_channels=3, out_channels=3, text_dim=8,
        freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=16,
    ).eval()  # fmt: skip


def small_transformer() -> FrameTransformer:
    return FrameTransformer(small_model())


def random_bank() -> PromptBank:
    generator = torch.Generator().manual_seed(6)
    lengths = torch.tensor([3, 5, 2, 5, 4, 1])
    embeds = torch.randn(6, 5, 8, generator=generator) * (torch.arange(5) < lengths[:, None])[..., None]
    negative = losses.Prompts(torch.zeros(1, 5, 8), torch.ones(1, dtype=torch.int64))
    return PromptBank(losses.Prompts(embeds, lengths), negative, torch.randn(6, 3, 4, 4, generator=generator))


def distillation(out, steps: int, stop_at: int | None = None, settings: FewStepSettings = SETTINGS) -> Distillation:
    dit = small_transformer()
    adapters = LowRankAdapters(dit, IMAGE_LAYERS)
    torch.manual_seed(7)
    budget = Budget(math.inf, steps)
    if stop_at is not None:
        budget = _Stopped(math.inf, steps, stop_at)
    return Distillation(Experts(dit), adapters, random_bank(), settings, budget, out, report=lambda text: None)


class _Stopped(Budget):
    """Ends a run early, as a machine that is taken away does."""

    def __init__(self, minutes: float, steps: int, stop_at: int):
        super().__init__(minutes, steps)
        self._stop_at = stop_at

    def __iter__(self):
        for number in super().__iter__():
            if number >= self._stop_at:
                return
            yield number
