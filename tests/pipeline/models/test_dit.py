"""The one-frame transformer against diffusers' own, in fp32."""

from __future__ import annotations

import pytest
import torch
from small_models import random_transformer

from wanbatch.errors import UserError
from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.models.dit import FrameTransformer


def prompts(lengths: list[int], padded: int, seed: int = 1) -> torch.Tensor:
    embeds = torch.randn(len(lengths), padded, 32, generator=torch.Generator().manual_seed(seed))
    for row, length in enumerate(lengths):
        embeds[row, length:] = 0
    return embeds


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def reference(model, latents, timestep, embeds, total=512, per_token=False) -> torch.Tensor:
    """diffusers' forward with the text zero-padded to `total` tokens."""
    padded = torch.cat([embeds, embeds.new_zeros(len(embeds), total - embeds.shape[1], embeds.shape[2])], dim=1)
    if per_token:
        timestep = timestep[:, None].expand(-1, latents.shape[2] * latents.shape[3] // 4)
    return model(latents[:, :, None], timestep, padded, return_dict=False)[0][:, :, 0]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10), (2, 14)])
@pytest.mark.parametrize("per_token", [False, True])
def test_equals_diffusers_for_real_padding_and_a_timestep_a_row(transformer, height, width, per_token):
    lengths = [5, 17, 1]
    latents = torch.randn(3, 8, height, width, generator=torch.Generator().manual_seed(2))
    timestep = torch.tensor([999.0, 431.5, 20.0])
    embeds = prompts(lengths, 20)
    frame = FrameTransformer(transformer)
    ours = frame(latents, timestep, frame.context(embeds, torch.tensor(lengths), TEXT_TOKENS))
    assert relative(ours, reference(transformer, latents, timestep, embeds, per_token=per_token)) < 1e-4


@pytest.mark.parametrize("length", [0, 511, 512])
def test_text_of_every_length_up_to_the_limit(transformer, length):
    latents, timestep = torch.randn(1, 8, 4, 4), torch.tensor([500.0])
    embeds = prompts([length], 512)
    frame = FrameTransformer(transformer)
    ours = frame(latents, timestep, frame.context(embeds, torch.tensor([length]), TEXT_TOKENS))
    assert relative(ours, reference(transformer, latents, timestep, embeds)) < 1e-4


def test_padding_is_not_ignored(transformer):
    """The check above could not fail if padding had no weight in this model."""
    latents, timestep, embeds = torch.randn(1, 8, 4, 4), torch.tensor([500.0]), prompts([5], 5)
    few = reference(transformer, latents, timestep, embeds, total=6)
    many = reference(transformer, latents, timestep, embeds, total=512)
    assert relative(few, many) > 1e-2


def test_collapsed_padding_keeps_its_weight_in_bf16():
    bias = (
        FrameTransformer(random_transformer().bfloat16())
        .context(prompts([7], 7), torch.tensor([7]), TEXT_TOKENS)
        .bias
    )
    assert bias.dtype == torch.bfloat16
    assert float(bias[0, 0, 0, -2:].double().exp().sum()) == pytest.approx(505, rel=1e-3)


def test_fusing_shares_the_weights_and_changes_nothing():
    model = random_transformer()
    latents, timestep, embeds = torch.randn(2, 8, 4, 6), torch.tensor([700.0, 100.0]), prompts([3, 4], 6)
    plain = FrameTransformer(model)
    before = plain(latents, timestep, plain.context(embeds, torch.tensor([3, 4]), TEXT_TOKENS))
    fused = FrameTransformer(model).fuse()
    after = fused(latents, timestep, fused.context(embeds, torch.tensor([3, 4]), TEXT_TOKENS))
    assert torch.equal(before, after)
    weight = fused.blocks[0].qkv_weight
    assert model.blocks[0].attn1.to_k.weight.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()
    assert relative(after, reference(model, latents, timestep, embeds)) < 1e-4


def test_gradients_reach_the_shared_parameters():
    model = random_transformer().requires_grad_(True)
    frame = FrameTransformer(model)
    embeds = prompts([3], 4).requires_grad_(True)
    frame(
        torch.randn(1, 8, 4, 4), torch.tensor([300.0]), frame.context(embeds, torch.tensor([3]), TEXT_TOKENS)
    ).square().mean().backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert missing == []
    assert embeds.grad is not None
    assert float(embeds.grad.abs().sum()) > 0


@pytest.mark.parametrize("rows", range(1, 13))
def test_a_row_has_the_same_bits_at_every_index_of_a_batch(transformer, rows):
    frame = FrameTransformer(transformer)
    latents, timestep = torch.randn(1, 8, 4, 6).expand(rows, -1, -1, -1), torch.full((rows,), 431.5)
    one = frame.context(prompts([5], 6), torch.tensor([5]), TEXT_TOKENS)
    velocity = frame(latents, timestep, one.repeated(rows))
    assert all(torch.equal(velocity[0], other) for other in velocity)


def test_a_model_with_an_image_encoder_is_refused():
    with pytest.raises(UserError, match="T2V or TI2V"):
        FrameTransformer(random_transformer(image_dim=16, added_kv_proj_dim=96))


def diffusers_blocks(model, latents, timestep, embeds, span: range, residual=None):
    """diffusers' own modules in its own order, but with the blocks of a span left out if a residual is given.

    Returns the velocity and what the span added to the hidden states.
    """
    embeds = torch.cat([embeds, embeds.new_zeros(len(embeds), 512 - embeds.shape[1], embeds.shape[2])], dim=1)
    rotary = model.rope(latents[:, :, None])
    hidden = model.patch_embedding(latents[:, :, None]).flatten(2).transpose(1, 2)
    embedding, modulation, text, _ = model.condition_embedder(timestep, embeds, None)
    modulation, before, after = modulation.unflatten(1, (6, -1)), hidden, hidden
    for index, block in enumerate(model.blocks):
        if index == span.start:
            before = hidden
            hidden = hidden if residual is None else hidden + residual
        if residual is None or index not in span:
            hidden = block(hidden, text, modulation, rotary)
        if index == span.stop - 1:
            after = hidden
    shift, scale = (model.scale_shift_table + embedding[:, None]).chunk(2, dim=1)
    patches = model.proj_out(model.norm_out(hidden) * (1 + scale) + shift)
    height, width = latents.shape[2] // 2, latents.shape[3] // 2
    picture = patches.unflatten(2, (2, 2, -1)).unflatten(1, (height, width)).permute(0, 5, 1, 3, 2, 4)
    return picture.flatten(4).flatten(2, 3), after - before


@pytest.mark.parametrize("span", [range(2), range(1, 3), range(3), range(1, 2)], ids=str)
def test_a_partial_evaluation_equals_diffusers_blocks_with_their_last_residual(transformer, span):
    frame = FrameTransformer(transformer)
    earlier, latents = torch.randn(2, 8, 6, 4), torch.randn(2, 8, 6, 4)
    timestep, embeds = torch.tensor([900.0, 300.0]), prompts([3, 4], 6)
    context = frame.context(embeds, torch.tensor([3, 4]), TEXT_TOKENS)
    velocity, residual = frame.forward_recording(earlier, timestep + 50, context, span)
    expected, their_residual = diffusers_blocks(transformer, earlier, timestep + 50, embeds, span)
    assert torch.equal(velocity, frame(earlier, timestep + 50, context))
    assert relative(velocity, expected) < 1e-4
    assert relative(residual, their_residual) < 1e-4

    partial = frame.forward_reusing(latents, timestep, context, span, residual)
    expected, _ = diffusers_blocks(transformer, latents, timestep, embeds, span, their_residual)
    assert relative(partial, expected) < 1e-4
    assert relative(partial, frame(latents, timestep, context)) > 1e-3  # it did leave something out
