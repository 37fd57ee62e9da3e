"""Both directions of the VAE by every way that there is of running it: own kernels, compiled, and as plain layers.

    python benchmarks/vae.py [--compiled] [--out benchmarks/results/NAME.json]

Random weights of Wan2.2 TI2V-5B's VAE in bf16, one picture of 1280x704 (on a CPU: of a small one in fp32, 64x64, and
without kernels). `ms` is the time from one picture to the next with many asked for at once, `first_seconds` that of
the first picture of the process, in which kernels are built or read from Triton's cache, `error` the distance from
fp32 by its norm, `gigabytes` what is allocated besides weights. `--compiled` takes a minute more. Results are written
after each way. Engines of it are in `engines.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from call_times import seconds_of
from circumstances import circumstances
from torch import Tensor

from wanbatch.pipeline.core.pictures import as_convolved
from wanbatch.pipeline.loading.random_model import random_vae
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import compiled_vae, runnable_vae, single_frame_vae

SMALL = {"base_dim": 8, "decoder_base_dim": 8}
ROUNDS, PICTURES = 5, 20


@click.command(help=__doc__)
@click.option("--compiled", is_flag=True, help="also compiled by PyTorch")
@click.option("--out", type=click.Path(path_type=Path))
@torch.inference_mode()
def main(compiled: bool, out: Path | None) -> None:
    gpu = torch.cuda.is_available()
    device, size = (torch.device("cuda"), (704, 1280)) if gpu else (torch.device("cpu"), (64, 64))
    smaller = {} if gpu else SMALL
    exact, half = (single_frame_vae(random_vae(device, torch.float32, **smaller), device) for _ in range(2))
    half = half.to(torch.bfloat16) if gpu else half
    runnable, how = runnable_vae(half, Runtime(), device)
    ways: dict[str, Any] = {f"{how}, as in every run": runnable, "plain layers": half}
    if compiled:
        ways["compiled"] = compiled_vae(half)
    stride, channels = exact.config.scale_factor_spatial, exact.config.z_dim
    given = {
        "decode": torch.randn(1, channels, *(side // stride for side in size), device=device),
        "encode": torch.rand(1, 3, *size, device=device) * 2 - 1,
    }
    result = circumstances(("torch", "diffusers"), gpu=torch.cuda.get_device_name() if gpu else None)
    result |= {"what": "the VAE by every way", "size": f"{size[1]}x{size[0]}", "ways": {}}
    for name, vae in ways.items():
        found = result["ways"][name] = {
            direction: measured(getattr(vae, direction), getattr(exact, direction)(states).float(), states, half)
            for direction, states in given.items()
        }
        click.echo(json.dumps({name: found}))
        if out is not None:
            out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


Direction = Callable[[Tensor], Tensor]


def measured(run: Direction, wanted: Tensor, states: Tensor, like: torch.nn.Module) -> dict[str, Any]:
    """What a direction of a way takes and gives."""
    device = states.device
    states = as_convolved(states.to(next(like.parameters()).dtype))
    first, times = seconds_of(lambda: run(states), device, ROUNDS, PICTURES if device.type == "cuda" else 1)
    found = run(states).float()
    return {
        "ms": round(times[ROUNDS // 2] * 1e3, 3),
        "spread": round(times[-1] / times[0], 3),
        "first_seconds": round(first, 2),
        "error": float(f"{float((found - wanted).norm() / wanted.norm()):.3g}"),
        "gigabytes": _peak(run, states) if device.type == "cuda" else None,
    }


def _peak(run: Direction, states: Tensor) -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(states)
    return round((torch.cuda.max_memory_allocated() - before) / 1e9, 2)


if __name__ == "__main__":
    main()
