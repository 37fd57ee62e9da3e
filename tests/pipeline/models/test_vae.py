"""The single-frame VAE computes what diffusers' video VAE computes for one frame."""

import pytest
import torch
from diffusers import AutoencoderKLWan

from wanbatch.pipeline.models.vae import FrameVAE
from wanbatch.pipeline.models.vae_blocks import AttentionBlock

FORMS = {
    "wan2.2": dict(
        base_dim=8, decoder_base_dim=12, z_dim=6, num_res_blocks=2, is_residual=True, patch_size=2,
        in_channels=12, out_channels=12, temperal_downsample=[False, True, True], scale_factor_spatial=16,
    ),
    "wan2.2, other times": dict(
        base_dim=8, z_dim=4, num_res_blocks=1, is_residual=True, patch_size=2, dim_mult=[1, 2, 2],
        in_channels=12, out_channels=12, temperal_downsample=[True, False], scale_factor_spatial=8,
    ),
    "wan2.1": dict(base_dim=8, z_dim=4, num_res_blocks=2, temperal_downsample=[False, True, True]),
}  # fmt: skip


@pytest.fixture(params=FORMS.values(), ids=FORMS.keys())
def video(request) -> AutoencoderKLWan:
    torch.manual_seed(0)
    z = request.param["z_dim"]
    statistics = {"latents_mean": torch.randn(z).tolist(), "latents_std": (torch.rand(z) + 0.5).tolist()}
    vae = AutoencoderKLWan(**request.param, **statistics).eval()
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if "gamma" in name:
                parameter.uniform_(0.5, 1.5)
    return vae


def statistics(vae):
    both = (vae.config.latents_mean, vae.config.latents_std)
    return (torch.tensor(value).view(1, -1, 1, 1) for value in both)


@pytest.mark.parametrize(("height", "width", "batch"), [(64, 64, 1), (48, 80, 3), (96, 32, 2)])
@torch.no_grad()
def test_both_directions_equal_diffusers(video, height, width, batch):
    frame = FrameVAE.from_video(video)
    mean, std = statistics(video)
    images = torch.rand(batch, 3, height, width) * 2 - 1

    posterior = video.encode(images[:, :, None]).latent_dist
    latents = frame.encode(images)
    torch.testing.assert_close(latents, (posterior.mode()[:, :, 0] - mean) / std, atol=1e-5, rtol=0)
    torch.testing.assert_close(frame.moments(images)[1], posterior.logvar[:, :, 0], atol=1e-5, rtol=0)

    latents = torch.randn_like(latents)
    expected = video.decode((latents * std + mean)[:, :, None]).sample[:, :, 0]
    torch.testing.assert_close(frame.decode(latents), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(frame.fuse_upsample().decode(latents), expected, atol=1e-5, rtol=0)
    assert expected.shape == images.shape


@pytest.mark.parametrize(("height", "width", "batch"), [(16, 48, 2), (32, 16, 1)])
def test_both_directions_by_kernels_equal_the_plain_ones(video, height, width, batch, monkeypatch):
    fused = pytest.importorskip("wanbatch.pipeline.models.vae_fused", reason="Triton is not installed")
    device = "cuda" if torch.cuda.is_available() else "cpu"  # there in Triton's interpreter
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # it would round what convolutions are given
    frame = FrameVAE.from_video(video).fuse_upsample().to(device, memory_format=torch.channels_last)
    by_kernels = fused.FusedVAE(frame)
    images = (torch.rand(batch, 3, height, width) * 2 - 1).to(device)
    latents = frame.encode(images)
    torch.testing.assert_close(by_kernels.encode(images), latents, atol=2e-5, rtol=0)
    torch.testing.assert_close(by_kernels.decode(latents), frame.decode(latents), atol=2e-5, rtol=0)


def test_a_pixel_by_kernels_has_the_same_bits_beside_others():
    fused = pytest.importorskip("wanbatch.pipeline.models.vae_fused", reason="Triton is not installed")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    values, other = torch.randn(2, 3, 5, 7, 24, device=device)
    bias, gamma = torch.randn(2, 24, device=device)
    together = fused.add_norm_pixels(fused.Pending(values, bias, other), gamma)
    for number in range(3):
        pending = fused.Pending(values[number : number + 1], bias, other[number : number + 1])
        for alone, all_of_them in zip(fused.add_norm_pixels(pending, gamma), together, strict=True):
            assert torch.equal(alone[0], all_of_them[number])


@torch.no_grad()
def test_weights_go_back_into_the_video_model(video):
    frame = FrameVAE.from_video(video)
    for parameter in frame.parameters():
        parameter.mul_(1.1)
    frame.normalise_by(frame.mean + 1, frame.std * 2)
    frame.store(video)

    again = FrameVAE.from_video(video)
    for name, value in frame.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert torch.equal(again.mean, frame.mean)
    assert torch.equal(again.std, frame.std)

    images = torch.rand(2, 3, 32, 64) * 2 - 1
    mean, std = statistics(video)
    expected = (video.encode(images[:, :, None]).latent_dist.mode()[:, :, 0] - mean) / std
    torch.testing.assert_close(frame.encode(images), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_unused_taps_are_stored_as_zeros(video):
    FrameVAE.from_video(video).store(video)
    for name, parameter in video.named_parameters():
        if "time_conv" in name:
            assert not parameter.any(), name
        elif parameter.ndim == 5 and parameter.shape[2] > 1:
            assert not parameter[:, :, :-1].any(), name


@torch.no_grad()
def test_half_precision_follows_the_weights_and_keeps_the_statistics(video):
    frame = FrameVAE.from_video(video).to(torch.bfloat16)
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    latents = frame.encode(images)
    assert latents.dtype == torch.bfloat16
    assert frame.decode(latents).dtype == torch.bfloat16
    assert frame.mean.dtype == torch.float32
    assert torch.equal(frame.std, torch.tensor(video.config.latents_std))


def test_gradients_reach_every_weight(video):
    frame = FrameVAE.from_video(video).train()
    mean, logvar = frame.moments(torch.rand(1, 3, 32, 32) * 2 - 1)
    (frame.decode_raw(mean).square().mean() + logvar.mean()).backward()
    assert all(parameter.grad is not None for parameter in frame.parameters())


def test_attention_between_scales_is_refused():
    with pytest.raises(ValueError, match="attn_scales"):
        FrameVAE(AutoencoderKLWan(base_dim=8, z_dim=4, attn_scales=[0.5]).config)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="products with float32 results are a GPU's")
@torch.inference_mode()
def test_attention_that_is_written_out_is_as_accurate_as_the_fused_one():
    block = AttentionBlock(256).to("cuda", torch.bfloat16)
    states = torch.randn(2, 256, 12, 20, device="cuda", dtype=torch.bfloat16)
    exact = AttentionBlock(256).to("cuda")
    exact.load_state_dict(block.state_dict())
    expected = exact(states.float())
    fused = block(states).float()
    block.writes_scores = True
    written = block(states).float()
    errors = [float((found - expected).norm() / expected.norm()) for found in (fused, written)]
    assert errors[1] < 1.2 * errors[0] + 1e-4
    assert not torch.equal(fused, written)
