"""Two ends of a GPU: batches too small to keep it busy, and a model too large for it.

    python benchmarks/gpu_limits.py [--gigabytes 24] [--out benchmarks/results/NAME.json]

Random weights of Wan2.2 TI2V-5B. First an FP8 step of small batches, launched one by one and replayed as CUDA graphs
(`pipeline/batching/cuda_graphs.py`): milliseconds a step and picture, the second of two whole schedules. Then this
process is allowed so many gigabytes and makes pictures in bf16 with parts that leave the GPU for each other.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from model_requests import request_of

from wanbatch.pipeline.batching.denoiser import KEPT_CLASSES, Denoiser
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.requests import Failed, Request
from wanbatch.pipeline.core.samples import Sample
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.compiler import set_up_compiler
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.random_model import TRANSFORMER, random_info, random_modules, transformer_like
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import single_frame_transformer
from wanbatch.pipeline.sampling.solvers import solve

SMALL = (((32, 32), 8, 1.0), ((32, 32), 8, 5.0), ((44, 80), 1, 1.0), ((44, 80), 2, 1.0), ((44, 80), 4, 1.0))
STEPS = 8
SLOTS = 4  # with little memory


@click.command(help=__doc__)
@click.option("--gigabytes", default=24.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
@torch.no_grad()
def main(gigabytes: float, out: Path | None) -> None:
    device = torch.device("cuda")
    set_up_compiler(None)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": torch.cuda.get_device_name(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "diffusers")}},
        "milliseconds_a_step_and_picture": dict(_small_batches(device)),
        f"capped_at_{gigabytes:g}_gb": _capped(device, gigabytes * 1e9),
    }
    text = json.dumps(result, indent=1) + "\n"
    click.echo(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")


def _small_batches(device: torch.device) -> Iterator[tuple[str, dict[str, float]]]:
    frame = single_frame_transformer(transformer_like(TRANSFORMER, device, torch.bfloat16), Runtime(fp8=True), device)
    for size, slots, guidance in SMALL:
        found = {}
        for name, kept in (("launched", 0), ("replayed", KEPT_CLASSES)):
            denoiser = Denoiser([frame], slots, kept=kept)
            samples = list(_samples(device, size, slots, guidance))
            for _ in range(3):  # kernels are built in the first and graphs are recorded in the first two
                begin = synchronized_time(device)
                list(denoiser.run(samples))
                found[name] = round((synchronized_time(device) - begin) * 1000 / STEPS / slots, 3)
        yield f"{size[1] * 16}x{size[0] * 16}, {slots} slots, guidance {guidance:g}", found


def _samples(device: torch.device, size: tuple[int, int], count: int, guidance: float) -> Iterator[Sample]:
    torch.manual_seed(0)
    prompt, negative = (
        torch.randn(tokens, TRANSFORMER["text_dim"], device=device, dtype=torch.bfloat16) for tokens in (40, 120)
    )
    solution = solve("unipc", STEPS, 5.0, 1.0, "linear", None)
    for number in range(count):
        start = torch.randn(TRANSFORMER["in_channels"], *size, device=device)
        yield Sample(str(number), start, solution, guidance, prompt, negative, number)


def _capped(device: torch.device, allowed: float) -> dict[str, Any]:
    made = random_modules(device, torch.bfloat16)
    parts = [part.cpu() for part in (made.text_encoder, made.transformer, made.vae)]
    modules = Modules(made.tokenizer, parts[0], parts[1], None, None, parts[2])
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(0).total_memory)
    wan = Wan(modules, device, SLOTS, Runtime(compile=True, offload=True))
    torch.cuda.reset_peak_memory_stats()
    seconds, failed = [], 0
    for unit, steps in enumerate((2, 12)):
        begin = synchronized_time(device)
        failed += sum(isinstance(one, Failed) for one in wan.generate([_request(unit, i, steps) for i in range(8)]))
        seconds.append(round(synchronized_time(device) - begin, 2))
    return {
        "slots": SLOTS,
        "backends": wan.backends,
        "moves": wan.offloader.moves if wan.offloader else 0,
        "seconds_of_8_pictures_in_2_steps_with_compiling_and_in_12": seconds,
        "failed": failed,
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
    }


def _request(unit: int, number: int, steps: int) -> Request:
    prompt = f"{unit} {number} a red heart"
    return request_of(random_info(), id=f"{unit}-{number}", prompt=prompt, seed=number, steps=steps)


if __name__ == "__main__":
    main()
