"""Layers with adapters in slots, for the tests of their kernels: on a GPU, or else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from wanbatch.pipeline.models.adapter_stacks import LayerStack, add_low_rank

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [
    torch.float32,
    pytest.param(
        torch.bfloat16, marks=pytest.mark.skipif(DEVICE == "cpu", reason="Triton's interpreter has no bf16 products")
    ),
]


def interpreted(*values):
    """Values of parameters for the interpreter alone."""
    reason = "a GPU compiles variants of the kernels for it, and others that it compiles anyway show the same"
    return pytest.param(*values, marks=pytest.mark.skipif(DEVICE == "cuda", reason=reason))


SLOTS, TOKENS = 2, 21
INPUTS, OUT = (72, 80) if DEVICE == "cuda" else (40, 40)  # no whole tiles; the interpreter takes its time for each
BOUND = {torch.float32: 3e-6, torch.bfloat16: 1e-2}
EMPTY = 1  # the slot without an adapter


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def stack(rank: int, dtype: torch.dtype, parts: int = 1, inputs: int = INPUTS, out: int = OUT, seed: int = 0):
    """Of `SLOTS` slots, one of which is empty."""
    down = random(SLOTS, parts * rank, inputs, dtype=dtype, seed=seed + 1) * inputs**-0.5
    ups = random(parts, SLOTS, out, rank, dtype=dtype, seed=seed + 2) * rank**-0.5
    down[EMPTY], ups[:, EMPTY] = 0, 0
    return LayerStack(down, ups)


def change(states: torch.Tensor, layer: LayerStack) -> torch.Tensor:
    """What is added, float32, by the plain arithmetic."""
    wide = LayerStack(layer.down.float(), layer.ups.float())
    out = states.new_zeros(*states.shape[:2], len(layer.ups) * layer.ups.shape[2], dtype=torch.float32)
    return add_low_rank(out, states.float(), wide)


def term_of(states: torch.Tensor, layer: LayerStack):
    """What the layer's adapters add, with its inner part by our kernel."""
    from wanbatch.pipeline.models import kernels

    return kernels.low_rank_term(kernels.Activation(states.flatten(0, 1)), *layer, states.shape[1])


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


def inputs_and_product(dtype: torch.dtype, layer: LayerStack) -> tuple[torch.Tensor, torch.Tensor]:
    """Of two sequences a slot."""
    states = random(2 * SLOTS, TOKENS, layer.down.shape[2], dtype=dtype)
    return states, random(2 * SLOTS, TOKENS, len(layer.ups) * layer.ups.shape[2], dtype=dtype, seed=7)
