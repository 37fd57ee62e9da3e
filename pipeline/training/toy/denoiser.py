"""Trains the small model's transformer and text encoder together, by flow matching on latents.

A sample at noise level s is `(1 - s) * latents + s * noise`, the transformer predicts `noise - latents`
(rectified flow; Liu et al. 2022, arXiv:2209.03003), the noise level is logit-normal and shifted as in Stable
Diffusion 3 (Esser et al. 2024, arXiv:2403.03206).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.training.loop import Average, Budget, Captured, Checkpoints, Optimizer, RecentLosses


@dataclass(frozen=True, slots=True)
class Bank:
    """Training pictures of one size with their captions, on the training device.

    Attributes:
        latents: `[N, z, h, w]`, normalised.
        tokens: int64 `[N, captions, L]`, zeros past each caption's end.
        lengths: int64 `[N, captions]`.
        share: How often a step takes this size.
    """

    latents: Tensor
    tokens: Tensor
    lengths: Tensor
    share: float


def embed(encoder: nn.Module, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Text states `[B, L, text_dim]` of tokens `[B, L]`, zero past each row's length, as Wan takes them."""
    real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    # Made in full here: the library would look at its values to see whether it can be left out.
    mask = torch.zeros(real.shape, device=tokens.device).masked_fill(~real, torch.finfo(torch.float32).min)
    states = encoder(tokens, mask[:, None, None, :].expand(-1, 1, tokens.shape[1], -1)).last_hidden_state
    return states * real[..., None]


def train(
    transformer: Any,
    encoder: Any,
    banks: list[Bank],
    budget: Budget,
    *,
    batch: int,
    rate: float = 1e-3,
    shift: float = 3.0,
    empty: float = 0.1,
    report: Callable[[str], None] = print,
    state: Path | None = None,
) -> dict[str, float]:
    """Train a transformer and a text encoder in place; in the end they hold the averaged weights.

    Args:
        transformer: A `WanTransformer3DModel`.
        encoder: A `UMT5EncoderModel`.
        banks: Pictures of each size.
        budget: How long.
        batch: Pictures in a step of the first bank; others have about as many latents.
        rate: The highest learning rate.
        shift: Of the noise levels.
        empty: Part of the captions that the empty prompt replaces, for guidance.
        report: Called with a line of text now and then.
        state: File from which a training that did not end is gone on with, and that keeps what it needs.

    Returns:
        What the training did.
    """
    learner = _Learner(transformer, encoder, banks[0].latents.device, shift, empty)
    checkpoints = Checkpoints(state, learner.optimizer, learner.average, budget)
    checkpoints.go_on()
    steps = learner.captured_steps(banks, batch)
    budget.restart()
    choice = torch.Generator().manual_seed(budget.step)
    shares = torch.tensor([bank.share for bank in banks])
    losses = RecentLosses()
    for number in budget:
        learner.optimizer.set_rate(budget.rate(rate))
        loss = steps[int(torch.multinomial(shares, 1, generator=choice))]()
        if number < 500:
            learner.average.restart()
        losses.note(number, loss)
        if number % 1000 == 0:
            report(f"dit: step {number}, {budget.elapsed:.0f} s, loss {losses.mean():.4f}")
        checkpoints.save_if_due()
    checkpoints.save()
    learner.finish()
    return budget.spent() | {"batch": batch}


class _Learner:
    """What one step of the training does; the arguments are those of `train`. On a GPU: bf16 autocast, compiled."""

    def __init__(
        self,
        transformer: Any,
        encoder: Any,
        device: torch.device,
        shift: float,
        empty: float,
    ):
        transformer.to(device).train()
        encoder.to(device).train()
        self._dit, self._encoder, self._device = FrameTransformer(transformer), encoder, device
        self._shift, self._empty = shift, empty
        if device.type == "cuda":
            for block in (*self._dit.blocks, *encoder.encoder.block):
                block.compile(dynamic=True)  # one compilation serves all blocks and all sizes
        parameters = [*transformer.parameters(), *encoder.parameters()]
        self._models = transformer, encoder
        self.optimizer = Optimizer(parameters, device, decay=1e-3)
        self.average = Average(parameters, 0.9995)

    def step_on(self, bank: Bank, count: int) -> Callable[[], Tensor]:
        """A function that makes one step on `count` random pictures of a bank and returns its loss."""

        def step() -> Tensor:
            latents, tokens, lengths = _draw(bank, count, self._empty)
            # A cache of cast weights would outlive the captured step that filled it.
            with torch.autocast(
                self._device.type, torch.bfloat16, enabled=self._device.type == "cuda", cache_enabled=False
            ):
                loss = _loss(self._dit, latents, embed(self._encoder, tokens, lengths), lengths, self._shift)
            self.optimizer.clear()
            loss.backward()
            self.optimizer.apply()
            self.average.update()
            return loss.detach()

        return step

    def captured_steps(self, banks: list[Bank], batch: int) -> list[Captured]:
        """A step on each bank, with `batch` pictures of the first and about as many latents of the others."""
        values = banks[0].latents[0].numel() * batch
        steps = [self.step_on(bank, max(1, values // bank.latents[0].numel())) for bank in banks]
        return [Captured(step, self._device, self.optimizer.clear) for step in steps]

    def finish(self) -> None:
        """Leave the averaged weights in the models, and these ready for use."""
        self.average.adopt()
        for model in self._models:
            model.eval()


def _draw(bank: Bank, count: int, empty: float) -> tuple[Tensor, Tensor, Tensor]:
    device = bank.latents.device
    row = torch.randint(len(bank.latents), (count,), device=device)
    caption = torch.randint(bank.tokens.shape[1], (count,), device=device)
    tokens, lengths = bank.tokens[row, caption], bank.lengths[row, caption]
    dropped = torch.rand(count, device=device) < empty
    nothing = torch.zeros_like(tokens[:1])
    nothing[:, :1].fill_(1)  # the end mark alone
    tokens = torch.where(dropped[:, None], nothing, tokens)
    return bank.latents[row].float(), tokens, torch.where(dropped, torch.ones_like(lengths), lengths)


def _loss(dit: FrameTransformer, latents: Tensor, embeds: Tensor, lengths: Tensor, shift: float) -> Tensor:
    level = torch.randn(len(latents), device=latents.device).sigmoid()
    level = shift * level / (1 + (shift - 1) * level)
    noise = torch.randn_like(latents)
    share = level[:, None, None, None]
    noisy = (1 - share) * latents + share * noise
    velocity = dit(noisy, level * 1000, dit.context(embeds, lengths, TEXT_TOKENS))
    return (velocity.float() - (noise - latents)).square().mean()
