"""What a denoising step costs with each step cache, beside what the blocks that are left out predict.

    python benchmarks/step_times.py [--steps 24] [--slots 8] [--precision bf16] [--out benchmarks/results/NAME.json]
                                    [CACHE ...]

Random weights of Wan2.2 TI2V-5B (on a CPU: of a model of its form with 6 small blocks), guided, 1280x704 (on a CPU:
64x64); all rows go through whole schedules in the slots. Each round runs every cache once; the figures are medians
over the rounds, in relation to `none`. `predicted` is the share of the transformer's operations that ran; `first` is
what the report that this project began with had for a cache like it. With `adaptive:threshold=0` every step is full,
so that what it costs above 1 is what deciding costs.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch

from wanbatch.pipeline.batching.denoiser import Denoiser
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.samples import Sample
from wanbatch.pipeline.evaluation import flops
from wanbatch.pipeline.loading.random_model import TRANSFORMER, transformer_like
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import single_frame_transformer
from wanbatch.pipeline.loading.weights import DTYPES
from wanbatch.pipeline.sampling.solvers import solve
from wanbatch.pipeline.sampling.step_cache import parse

# cache (thirds of the blocks) -> what the first report had
CACHES: dict[str, float | None] = {
    "none": 1.0,
    "deepcache:interval=2,blocks={third}": 0.78,
    "deepcache:interval=3,blocks={third}": 0.73,
    "deepcache:interval=4,blocks={third}": 0.67,
    "deepcache:interval=2,blocks={two}": 0.61,
    "deepcache:interval=3,blocks={two}": None,
    "deepcache:interval=4,blocks={two}": None,
    "taylor:interval=2": None,
    "taylor:interval=3": None,
    "adaptive:threshold=0": 1.0,
    "none+gate:interval=2": None,
}
SMALL: dict[str, Any] = {
    "num_layers": 6,
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "ffn_dim": 256,
    "text_dim": 64,
}
TOKENS = (40, 120)  # of prompts and negative ones


@click.command(help=__doc__)
@click.argument("caches", nargs=-1)
@click.option("--steps", default=24)
@click.option("--slots", default=8)
@click.option("--rounds", default=3)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp8"]), default="bf16", show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
@torch.inference_mode()
def main(caches: tuple[str, ...], steps: int, slots: int, rounds: int, precision: str, out: Path | None) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    large = device.type == "cuda"
    config = TRANSFORMER if large else TRANSFORMER | SMALL
    dtype = DTYPES["float32" if precision == "fp32" else "bfloat16"]
    frame = single_frame_transformer(transformer_like(config, device, dtype), Runtime(fp8=precision == "fp8"), device)
    layers = len(frame.blocks)
    texts = caches or tuple(text.format(third=layers // 3, two=layers * 2 // 3) for text in CACHES)
    first = dict(zip(texts, CACHES.values(), strict=True)) if not caches else {}
    denoisers = {
        text: Denoiser([frame], slots, cache=parse(text, layers)) for text in dict.fromkeys(("none", *texts))
    }
    rows = _samples(config, device, dtype, steps, slots, (44, 80) if large else (4, 4))
    for denoiser in denoisers.values():
        list(denoiser.run(_samples(config, device, dtype, 4, slots, rows[0].start.shape[1:])))
    times: dict[str, list[float]] = {text: [] for text in denoisers}
    blocks: dict[str, float] = {}
    for _ in range(rounds):
        for text, denoiser in denoisers.items():
            begin = synchronized_time(device)
            done = list(denoiser.run(rows))
            times[text].append((synchronized_time(device) - begin) * 1000 / steps / slots)
            blocks[text] = statistics.mean(one.work.blocks_full for one in done) / (2 * layers * steps)
    base = statistics.median(times["none"])
    of_blocks = _share_of_blocks(config, rows[0])
    found = []
    for text, milliseconds in times.items():
        ratio = statistics.median(milliseconds) / base
        found.append({
            "cache": text, "ms": round(ratio * base, 3), "spread": round(max(milliseconds) / min(milliseconds), 3),
            "ratio": round(ratio, 3), "predicted": round(1 - of_blocks * (1 - blocks[text]), 3),
            "first": first.get(text),
        })  # fmt: skip
        click.echo("  ".join(f"{name} {value}" for name, value in found[-1].items()))
    result = {
        "what": "milliseconds a guided step and picture, in relation to no cache",
        "command": " ".join(["python", *sys.argv]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": torch.cuda.get_device_name() if large else f"CPU, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "diffusers")}},
        "settings": {"steps": steps, "slots": slots, "rounds": rounds, "precision": precision, "layers": layers},
        "caches": found,
    }
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _samples(config, device, dtype, steps: int, count: int, size) -> list[Sample]:
    torch.manual_seed(0)
    prompt, negative = (torch.randn(tokens, config["text_dim"], device=device, dtype=dtype) for tokens in TOKENS)
    solution = solve("unipc", steps, 5.0, 1.0, "linear", None)
    start = torch.randn(config["in_channels"], *size, device=device)
    return [Sample(str(number), start, solution, 5.0, prompt, negative, number) for number in range(count)]


def _share_of_blocks(config: dict[str, Any], row: Sample) -> float:
    """Of the transformer's operations."""
    tokens, text = row.start.shape[1] * row.start.shape[2] // 4, row.size_class[3] + 2
    whole, none = (
        flops.transformer_flops(config | {"num_layers": layers}, tokens, text) for layers in (config["num_layers"], 0)
    )
    return (whole - none) / whole


if __name__ == "__main__":
    main()
