"""Times of each part of Wan2.2 TI2V-5B for one frame, at full size with random weights, on one GPU.

    python benchmarks/stages.py benchmarks/results/NAME.json [--small] [--slots 8]

Each part: diffusers as a user would run it at its fastest (blocks compiled, rows batched, prompt and negative
prompt in one call), and ours, measured in turn in one process. `--small` is a few layers of a few numbers, to
try the script on a CPU.
"""

from __future__ import annotations

import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import UMT5Config, UMT5EncoderModel

from wanbatch.pipeline.transformer import FrameTransformer, _rotate
from wanbatch.pipeline.vae import FrameVAE

TRANSFORMER = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "in_channels": 48,
    "out_channels": 48,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 14336,
    "num_layers": 30,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "rope_max_seq_len": 1024,
}
VAE = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 4,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
}
SMALL_VAE = {"base_dim": 8, "decoder_base_dim": 8}
CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


class Bench:
    """Times functions in turn on one device."""

    def __init__(self, device: torch.device, repeats: int):
        self.device, self.repeats = device, repeats
        self.results: dict[str, dict] = {}

    def compare(self, contenders: dict[str, Callable[[], object]], per: int) -> None:
        """Median milliseconds of each, divided by `per`; warm-up (with compilation) apart."""
        for name, function in contenders.items():
            begin = self.now()
            try:
                function()
                function()
            except Exception as error:  # noqa: BLE001  one contender that fails must not cost the others
                self.results[name] = {"error": f"{type(error).__name__}: {error}"[:400]}
                print(name, self.results[name], flush=True)
                continue
            self.results[name] = {"warm_up_seconds": round(self.now() - begin, 1)}
        running = {name: function for name, function in contenders.items() if "error" not in self.results[name]}
        times: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(self.repeats):
            for name, function in running.items():
                begin = self.now()
                function()
                times[name].append(self.now() - begin)
        for name, seconds in times.items():
            self.results[name]["ms"] = round(statistics.median(seconds) * 1000 / per, 3)
            self.results[name]["spread"] = round(max(seconds) / min(seconds), 3)
            print(f"{name:<52} {self.results[name]}", flush=True)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def bench_transformer(bench: Bench, slots: int, small: bool, dtype: torch.dtype) -> None:
    height, width = (4, 6) if small else (44, 80)
    config = {**TRANSFORMER, **(SMALL if small else {})}

    def build() -> WanTransformer3DModel:
        torch.manual_seed(0)
        with bench.device:
            return WanTransformer3DModel(**config).to(dtype).eval().requires_grad_(False)

    theirs, model = build(), build()
    theirs.compile_repeated_blocks(fullgraph=True)
    ours = FrameTransformer(model).fuse()
    rows = 2 * slots
    latents = torch.randn(rows, config["in_channels"], height, width, device=bench.device)
    timestep = torch.linspace(10, 990, rows, device=bench.device)
    lengths = torch.tensor([40] * slots + [120] * slots, device=bench.device)
    embeds = torch.randn(rows, 126, config["text_dim"], device=bench.device, dtype=dtype)
    embeds *= (torch.arange(126, device=bench.device) < lengths[:, None])[..., None]
    padded = torch.cat([embeds, embeds.new_zeros(rows, 512 - 126, embeds.shape[2])], dim=1)
    tokens = height * width // 4
    per_token = timestep[:, None].expand(-1, tokens)
    context = ours.context(embeds, lengths)
    for block in ours.blocks:
        block.compile(fullgraph=True, dynamic=False)

    def cudnn(function):
        def run():
            with sdpa_kernel(CUDNN_FIRST, set_priority=True):
                return function()

        return run

    def diffusers() -> torch.Tensor:
        return theirs(latents[:, :, None].to(dtype), per_token, padded, return_dict=False)[0]

    def frame() -> torch.Tensor:
        return ours(latents, timestep, context)

    contenders = {
        "dit diffusers compiled, batched": diffusers,
        "dit ours compiled, cudnn": cudnn(frame),
    }
    if bench.device.type == "cuda":
        eight = FrameTransformer(model)
        eight.blocks = torch.nn.ModuleList(Float8Block(block) for block in ours.blocks)
        for block in eight.blocks:
            block.compile(fullgraph=True, dynamic=False)
        contenders["dit trial FP8 compiled, cudnn"] = cudnn(lambda: eight(latents, timestep, context))
    bench.compare(contenders, slots)
    difference = (cudnn(frame)().float() - diffusers()[:, :, 0].float()).norm() / diffusers().float().norm()
    bench.results["dit relative difference"] = {"value": float(difference)}
    print("dit relative difference", float(difference), flush=True)


class Float8Linear(torch.nn.Module):
    """A linear layer in FP8 e4m3 with one scale a row of the input and of the weight, for measuring."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        scale = linear.weight.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / 448
        self.register_buffer("weight", (linear.weight.float() / scale).to(torch.float8_e4m3fn))
        self.register_buffer("scale", scale.t().contiguous())
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, -2)
        scale = rows.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / 448
        quantised = (rows.float() / scale).to(torch.float8_e4m3fn)
        product = torch._scaled_mm(
            quantised,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )
        return product.unflatten(0, x.shape[:-1])


class Float8Block(torch.nn.Module):
    """A `FrameBlock` whose linears are FP8."""

    def __init__(self, block: torch.nn.Module):
        super().__init__()
        self.block = block
        fused = torch.nn.Linear(1, 1, device=block.qkv_weight.device)
        fused.weight, fused.bias = (
            torch.nn.Parameter(block.qkv_weight, False),
            torch.nn.Parameter(block.qkv_bias, False),
        )
        self.qkv = Float8Linear(fused)
        self.out1, self.out2 = Float8Linear(block.attn1.to_out[0]), Float8Linear(block.attn2.to_out[0])
        self.query2 = Float8Linear(block.attn2.to_q)
        self.up, self.down = Float8Linear(block.ffn.net[0].proj), Float8Linear(block.ffn.net[2])

    def forward(self, hidden, modulation, rotary, keys, values, bias):
        block = self.block
        shift, scale, gate, shift2, scale2, gate2 = (block.scale_shift_table + modulation.float()).chunk(6, dim=1)
        normed = (block.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        query, key, value = self.qkv(normed).chunk(3, dim=-1)
        query = _rotate(block._split(block.attn1.norm_q(query)), rotary).transpose(1, 2)
        key = _rotate(block._split(block.attn1.norm_k(key)), rotary).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, key, block._split(value).transpose(1, 2))
        hidden = (hidden.float() + self.out1(attended.transpose(1, 2).flatten(2)) * gate).type_as(hidden)
        normed = block.norm2(hidden.float()).type_as(hidden)
        query = block._split(block.attn2.norm_q(self.query2(normed))).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        hidden = hidden + self.out2(attended.transpose(1, 2).flatten(2))
        normed = (block.norm3(hidden.float()) * (1 + scale2) + shift2).type_as(hidden)
        changed = self.down(F.gelu(self.up(normed), approximate="tanh"))
        return (hidden.float() + changed.float() * gate2).type_as(hidden)


def bench_text(bench: Bench, dtype: torch.dtype) -> None:
    config = UMT5Config(
        vocab_size=256384,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
    )
    torch.set_default_dtype(dtype)
    with bench.device:
        encoder = UMT5EncoderModel(config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    one = torch.randint(5, 200_000, (1, 512), device=bench.device)
    mask = (torch.arange(512, device=bench.device) < 40).long()[None]
    many = torch.randint(5, 200_000, (64, 64), device=bench.device)
    full = torch.ones_like(many)
    bench.compare({"text diffusers, one prompt, 512 places": lambda: encoder(one, mask)}, 1)
    bench.compare({"text ours eager, 64 prompts of 64 places": lambda: encoder(many, full)}, 64)


def bench_vae(bench: Bench, small: bool, dtype: torch.dtype) -> None:
    height, width = (64, 96) if small else (704, 1280)
    torch.manual_seed(0)
    with bench.device:
        vae = AutoencoderKLWan(**{**VAE, **(SMALL_VAE if small else {})}).to(dtype).eval().requires_grad_(False)
    frame = FrameVAE.from_video(vae).to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, height, width, device=bench.device, dtype=dtype) * 2 - 1
    image = image.to(memory_format=torch.channels_last)
    latent = torch.randn(1, 48, height // 16, width // 16, device=bench.device, dtype=dtype)
    latent = latent.to(memory_format=torch.channels_last)
    eager = FrameVAE.from_video(vae).to(memory_format=torch.channels_last)
    decode, encode = torch.compile(frame.decode, dynamic=False), torch.compile(frame.encode, dynamic=False)
    bench.compare(
        {
            "vae decode diffusers": lambda: vae.decode(latent[:, :, None], return_dict=False)[0],
            "vae decode ours eager": lambda: eager.decode(latent),
            "vae decode ours compiled": lambda: decode(latent),
        },
        1,
    )
    bench.compare(
        {
            "vae encode diffusers": lambda: vae.encode(image[:, :, None], return_dict=False)[0].mode(),
            "vae encode ours eager": lambda: eager.encode(image),
            "vae encode ours compiled": lambda: encode(image),
        },
        1,
    )


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--small", is_flag=True, help="a few numbers only, to try the script")
@click.option("--slots", default=8, show_default=True)
@click.option("--repeats", default=10, show_default=True)
@torch.inference_mode()
def main(target: Path, small: bool, slots: int, repeats: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    bench = Bench(device, repeats)
    if device.type == "cuda":
        a, b = (torch.randn(8192, 8192, device=device, dtype=dtype) for _ in range(2))
        bench.compare({"matmul 8192^3": lambda: a @ b}, 1)
        bench.results["matmul 8192^3"]["tflops"] = round(2 * 8192**3 / bench.results["matmul 8192^3"]["ms"] / 1e9, 1)
    parts = [lambda: bench_transformer(bench, slots, small, dtype), lambda: bench_vae(bench, small, dtype)]
    parts += [] if small else [lambda: bench_text(bench, dtype)]
    for part in parts:
        part()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        save(target, bench, small, slots, repeats, dtype)


def save(target: Path, bench: Bench, small: bool, slots: int, repeats: int, dtype: torch.dtype) -> None:
    device = bench.device
    result = {
        "what": "milliseconds: dit per step and image with guidance, vae per image, 1280x704"
        if not small
        else "small",
        "command": " ".join(["python", *sys.argv]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
        "settings": {"slots": slots, "repeats": repeats, "dtype": str(dtype)},
        "results": bench.results,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
