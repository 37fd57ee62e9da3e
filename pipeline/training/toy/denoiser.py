"""Trains the small model's transformer and text encoder together, by flow matching on latents.

A sample at noise level s is `(1 - s) * latents + s * noise`, the transformer predicts `noise - latents`
(rectified flow; Liu et al. 2022, arXiv:2209.03003), the noise level is logit-normal and shifted as in Stable
Diffusion 3 (Esser et al. 2024, arXiv:2403.03206).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wanbatch.pipeline.core.backends import TEXT_TOKENS
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.training.loop import Average, Budget, Captured, Optimizer


@dataclass(frozen=True, slots=True)
class Bank:
    """Training pictures of one size with their captions, on the training device.

    latents: `[N, z, h, w]`, normalised. tokens: int64 `[N, captions, L]`, zeros past each caption's end.
    lengths: int64 `[N, captions]`. share: how often a step takes this size.
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
    half: bool = True,
    compiled: bool = True,
    report: Callable[[str], None] = print,
    checkpoint: Callable[[], None] = lambda: None,
    checkpoint_seconds: float = 120,
) -> dict[str, float]:
    """Trains both in place; in the end they hold the averaged weights. Returns what the training did.

    transformer: a `WanTransformer3DModel`. encoder: a `UMT5EncoderModel`. empty: the part of the captions that is
    replaced by the empty prompt, for guidance. half, compiled: on a GPU, bf16 autocast and compiled blocks.
    """
    device = banks[0].latents.device
    transformer.to(device).train()
    encoder.to(device).train()
    dit = FrameTransformer(transformer)
    fast = device.type == "cuda"
    if fast and compiled:
        for block in (*dit.blocks, *encoder.encoder.block):
            block.compile(dynamic=True)  # one compilation serves all blocks and all sizes
    parameters = [*transformer.parameters(), *encoder.parameters()]
    optimizer = Optimizer(parameters, device, decay=1e-3)
    average = Average(parameters, 0.9995)

    def step_on(bank: Bank) -> Callable[[], Tensor]:
        def step() -> Tensor:
            latents, tokens, lengths = _draw(bank, batch, empty)
            # A cache of cast weights would outlive the captured step that filled it.
            with torch.autocast(device.type, torch.bfloat16, enabled=fast and half, cache_enabled=False):
                loss = _loss(dit, latents, embed(encoder, tokens, lengths), lengths, shift)
            optimizer.clear()
            loss.backward()
            optimizer.apply()
            average.update()
            return loss.detach()

        return step

    steps = [Captured(step_on(bank), device, optimizer.clear) for bank in banks]
    budget.restart()
    choice = torch.Generator().manual_seed(0)
    shares = torch.tensor([bank.share for bank in banks])
    losses: list[Tensor] = []
    saved = 0.0
    for number in budget:
        optimizer.rate.fill_(budget.rate(rate))
        loss = steps[int(torch.multinomial(shares, 1, generator=choice))]()
        if number < 500:
            average.restart()
        if number % 50 == 0:
            losses.append(loss.clone())
        if number % 1000 == 0:
            recent = torch.stack(losses[-20:]).mean().item()
            report(f"dit: step {number}, {budget.elapsed:.0f} s, loss {recent:.4f}")
        if budget.elapsed - saved > checkpoint_seconds:
            saved = budget.elapsed
            with average.applied():
                checkpoint()
    with torch.no_grad():
        torch._foreach_copy_(average.live, average.kept)
    transformer.eval()
    encoder.eval()
    return {"steps": budget.step, "seconds": round(budget.elapsed, 1), "batch": batch}


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
