"""The text encoder with our kernels against transformers' own: on a GPU, or else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from transformers import UMT5Config, UMT5EncoderModel

umt5 = pytest.importorskip("wanbatch.pipeline.models.umt5_fused", reason="Triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def theirs(**changes) -> UMT5EncoderModel:
    torch.manual_seed(0)
    config = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    model = UMT5EncoderModel(UMT5Config(**config | changes)).eval().requires_grad_(False).to(DEVICE)
    for name, parameter in model.named_parameters():
        if "relative_attention_bias" in name or "layer_norm" in name:
            parameter.add_(torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("length", [1, 8, 40, pytest.param(300, marks=pytest.mark.slow)])
@torch.inference_mode()
def test_equals_transformers_also_far_beyond_the_largest_distance(length):
    """Lengths 40 and 300: distances are up to 128, from where on all are in one bucket."""
    model = theirs()
    tokens = torch.randint(3, 64, (2, length), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    mask = torch.ones_like(tokens)
    mask[1, (length + 1) // 2 :] = 0
    expected = model(tokens, mask).last_hidden_state
    found = umt5.FusedUMT5(model)(tokens, mask)
    real = mask.bool()
    torch.testing.assert_close(found[real], expected[real], atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_padding_is_masked():
    fused = umt5.FusedUMT5(theirs())
    tokens = torch.randint(3, 64, (1, 16), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    mask = (torch.arange(16, device=DEVICE) < 9).long()[None]
    other = torch.where(mask == 1, tokens, 5)
    assert not torch.equal(tokens, other)
    assert torch.equal(fused(tokens, mask)[:, :9], fused(other, mask)[:, :9])


def test_weights_are_taken_over_not_doubled():
    model = theirs()
    before = sum(parameter.numel() for parameter in model.parameters())
    fused = umt5.FusedUMT5(model)
    assert sum(parameter.numel() for parameter in fused.parameters()) == before
    assert not any("block" in name for name, _ in model.named_parameters())


def test_other_forms_are_left_to_transformers():
    assert umt5.FusedUMT5.fits(theirs())
    assert not umt5.FusedUMT5.fits(theirs(feed_forward_proj="relu"))
