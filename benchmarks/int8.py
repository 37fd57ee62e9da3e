"""What INT8 layers are worth on a GPU: a denoising step of the 5B model in bf16, FP8 and INT8.

    python benchmarks/int8.py [--slots 8] [--rounds 5] [--out benchmarks/results/NAME.json]

Random weights of Wan2.2 TI2V-5B, guided, 1280x704 (on a CPU: a model of its form with two small blocks, 64x64). Each
round runs every precision once, in turn; figures are medians, milliseconds a step and picture. The products of a step
alone are timed too, as the transformer has them, so that what lies around them shows. `difference` is that of one
step's velocity to bf16, in parts of its norm. Cards without FP8 (A100, A10, 3090) leave it out. Under two minutes.
"""

from __future__ import annotations

import copy
import json
import platform
import statistics
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.prompts import TEXT_LENGTHS, TEXT_TOKENS
from wanbatch.pipeline.loading.compiler import set_up_compiler
from wanbatch.pipeline.loading.random_model import TRANSFORMER, transformer_like
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import single_frame_transformer
from wanbatch.pipeline.models import int8
from wanbatch.pipeline.models.fp8 import CAPABILITY

SMALL: dict[str, Any] = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 96,
                         "text_dim": 64}  # fmt: skip


@click.command(help=__doc__)
@click.option("--slots", default=8, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
@torch.inference_mode()
def main(slots: int, rounds: int, out: Path | None) -> None:
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    if gpu:
        set_up_compiler(None)
    config = TRANSFORMER if gpu else TRANSFORMER | SMALL
    rows, height, width = 2 * slots, *((44, 80) if gpu else (4, 4))
    model = transformer_like(config, device, torch.bfloat16)
    precisions = {"bf16": Runtime(compile=gpu), "int8": Runtime(compile=gpu, int8=True)}
    if not gpu or torch.cuda.get_device_capability() >= CAPABILITY:
        precisions["fp8"] = Runtime(compile=gpu, fp8=True)
    torch.manual_seed(0)
    latents = torch.randn(rows, config["in_channels"], height, width, device=device)
    timestep = torch.linspace(10, 990, rows, device=device)
    length = TEXT_LENGTHS[2]
    embeds = torch.randn(rows, length, config["text_dim"], device=device, dtype=torch.bfloat16)
    steps: dict[str, Callable[[], Tensor]] = {}
    for name, runtime in precisions.items():
        frame = single_frame_transformer(copy.deepcopy(model), runtime, device)
        context = frame.context(embeds, torch.full((rows,), length, device=device), TEXT_TOKENS)
        steps[name] = lambda frame=frame, context=context: frame(latents, timestep, context)
    exact = steps["bf16"]().float()
    tokens = rows * (height // 2) * (width // 2)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": torch.cuda.get_device_name() if gpu else "CPU",
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "slots": slots,
        "milliseconds_a_step_and_picture": timed(steps, device, rounds, slots),
        "difference": {
            name: round(float((step().float() - exact).norm() / exact.norm()), 5) for name, step in steps.items()
        },
        "products_alone": timed(products_of(config, tokens, device), device, rounds, slots),
    }
    times = result["milliseconds_a_step_and_picture"]
    result["int8_is_faster_than_bf16"] = round(times["bf16"] / times["int8"], 3)
    text = json.dumps(result, indent=1) + "\n"
    click.echo(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")


def timed(
    contenders: Mapping[str, Callable[[], object]], device: torch.device, rounds: int, slots: int
) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 2):  # two rounds compile and warm up
        for name, contender in contenders.items():
            begin = synchronized_time(device)
            contender()
            if number >= 2:
                seconds[name].append(synchronized_time(device) - begin)
    return {name: round(statistics.median(found) * 1000 / slots, 3) for name, found in seconds.items()}


def products_of(config: Mapping[str, Any], tokens: int, device: torch.device) -> dict[str, Callable[[], None]]:
    """The products of the large layers of all blocks, without anything between them."""
    dim = config["num_attention_heads"] * config["attention_head_dim"]
    shapes = [(dim, 3 * dim), (dim, dim), (dim, dim), (dim, dim), (dim, config["ffn_dim"]), (config["ffn_dim"], dim)]
    inputs = {side: torch.randn(tokens, side, device=device, dtype=torch.bfloat16) for side, _ in shapes}
    weights = [torch.randn(after, before, device=device, dtype=torch.bfloat16) for before, after in shapes]
    whole = {side: int8.quantise(rows)[0] for side, rows in inputs.items()}
    whole_weights = [int8.quantise(weight)[0] for weight in weights]

    def in_bf16() -> None:
        for _ in range(config["num_layers"]):
            for weight in weights:
                torch.nn.functional.linear(inputs[weight.shape[1]], weight)

    def in_int8() -> None:
        for _ in range(config["num_layers"]):
            for weight in whole_weights:
                int8.multiply(whole[weight.shape[1]], weight)

    return {"bf16": in_bf16, "int8": in_int8}


if __name__ == "__main__":
    main()
