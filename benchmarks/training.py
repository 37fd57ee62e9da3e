"""How fast adapters of the full-size model are trained, and in how much memory, on its random weights.

    python benchmarks/training.py --out benchmarks/results/training-NAME.json

Needs no Ray, and some 3 minutes on a GPU of 80 GB. A LoRA of rank 32 on all layers, one picture a step, with and
without checkpointing; a few-step adapter as `wanbatch train few-step --checkpointing` trains it, 8 pictures a step, a
step of each of its two parts; each also with the frozen layers in FP8, and the LoRA with moments of 8 bits, where
bitsandbytes is installed. Text states and latents are random, and were made before; AdamW, averages and all else
are those of a training. The transformer is TI2V-5B in bf16 (on a CPU: of its form with 2 small blocks).
`gigabytes` is the most that the device held, `hours` the time of as many steps as the commands make unless told
otherwise. What does not fit is noted so. `--only fp8` leaves out what has not these words in its name.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import math
import statistics
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import torch
from circumstances import circumstances
from step_times import SMALL

from wanbatch.pipeline.adapters.wan_layers import BLOCK_LAYERS
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.loading.random_model import TRANSFORMER, random_info, transformer_like
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.training.experts import Experts
from wanbatch.pipeline.training.few_step.distillation import CONSISTENCY, MATCHING, Distillation
from wanbatch.pipeline.training.few_step.losses import Prompts
from wanbatch.pipeline.training.few_step.settings import OF_LARGE_MODELS, FewStepSettings
from wanbatch.pipeline.training.few_step.teacher import PromptBank
from wanbatch.pipeline.training.float8_base import to_float8_base
from wanbatch.pipeline.training.loop import Budget
from wanbatch.pipeline.training.lora.examples import Examples
from wanbatch.pipeline.training.lora.model import TrainingModel
from wanbatch.pipeline.training.lora.settings import LoraSettings
from wanbatch.pipeline.training.lora.training import LoraTraining
from wanbatch.pipeline.training.low_rank import IMAGE_LAYERS, LowRankAdapters
from wanbatch.pipeline.training.optimizers import ADAMW, ADAMW_8_BIT

SIZES = {"512x512": (32, 32), "1280x704": (44, 80)}
SMALL_SIZES = {"64x64": (4, 4)}
TOKENS, PICTURES, RANK = 96, 8, 32
WARM = 2
FEW_STEPS = 2000  # of `wanbatch train few-step`
FP8_BASE, MOMENTS = ", FP8 base", ", 8-bit moments"
LORA = ("lora", "lora, checkpointing")
WHATS = (
    *LORA, *(what + FP8_BASE for what in LORA), LORA[0] + MOMENTS, LORA[1] + FP8_BASE + MOMENTS,
    CONSISTENCY, MATCHING, CONSISTENCY + FP8_BASE, MATCHING + FP8_BASE,
)  # fmt: skip


@click.command(help=__doc__)
@click.option("--steps", default=8, show_default=True, help="of each measurement that are timed")
@click.option("--only", default="", help="words that the name of a measurement must have; separated by |")
@click.option("--size", "sizes", multiple=True, help="of a picture; repeatable; default: all")
@click.option("--out", type=click.Path(path_type=Path))
def main(steps: int, only: str, sizes: tuple[str, ...], out: Path | None) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    large = device.type == "cuda"
    result: dict[str, Any] = {
        "what": "training of adapters of the full-size model" if large else "training of adapters of a small model",
        **circumstances(("torch", "diffusers"), gpu=torch.cuda.get_device_name() if large else None),
        "settings": {"steps": steps, "rank": RANK, "text_tokens": TOKENS},
        "results": [],
    }
    for size, latent in (SIZES if large else SMALL_SIZES).items():
        for what in WHATS:
            if (sizes and size not in sizes) or not any(words in what for words in only.split("|")):
                continue
            found = {"size": size, "what": what, **_tried(device, latent, what, steps)}
            result["results"].append(found)
            click.echo("  ".join(f"{name} {value}" for name, value in found.items()))
            if out is not None:
                out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _tried(device: torch.device, latent: tuple[int, int], what: str, steps: int) -> dict[str, Any]:
    """One measurement, or that it does not fit."""
    if MOMENTS in what and importlib.util.find_spec("bitsandbytes") is None:
        return {"left_out": "bitsandbytes is not installed"}
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
    try:
        with tempfile.TemporaryDirectory() as folder:
            training = lora_seconds if what.startswith("lora") else few_step_seconds
            seconds, default = training(device, latent, what, steps, Path(folder))
    except torch.OutOfMemoryError:
        return {"fits": False}
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    return {
        "seconds_a_step": round(seconds, 4),
        "steps_per_second": round(1 / seconds, 3),
        "gigabytes": peak and round(peak, 1),
        "hours": round(seconds * default / 3600, 2),
    }


def lora_seconds(
    device: torch.device, latent: tuple[int, int], what: str, steps: int, folder: Path
) -> tuple[float, int]:
    """The median seconds of a step, and how many steps a training has by default."""
    config, dit = _transformer(device, FP8_BASE in what)
    model = TrainingModel(random_info(), dit, None, None, device)  # type: ignore[arg-type]
    texts = {"a": torch.randn(TOKENS, config["text_dim"]), "": torch.randn(1, config["text_dim"])}
    examples = Examples([torch.randn(PICTURES, config["in_channels"], *latent)], [["a"] * PICTURES], texts)
    settings = LoraSettings(rank=RANK, steps=WARM + steps, sample_every=0, save_every=10**9)
    optimizer = ADAMW_8_BIT if MOMENTS in what else ADAMW
    settings = replace(settings, checkpointing="checkpointing" in what, optimizer=optimizer)
    training = LoraTraining(model, LowRankAdapters(dit, BLOCK_LAYERS), "timed", examples, settings, folder)
    times = [synchronized_time(device)]
    training.run(lambda made: None, lambda made, loss: times.append(synchronized_time(device)))
    return _median(times), LoraSettings().steps


def few_step_seconds(
    device: torch.device, latent: tuple[int, int], what: str, steps: int, folder: Path
) -> tuple[float, int]:
    """The mean seconds of a step of one phase, and how many steps a training has by default."""
    config, dit = _transformer(device, FP8_BASE in what)
    phase = what.removesuffix(FP8_BASE)
    settings = FewStepSettings.of({**OF_LARGE_MODELS, "guidance": 5.0, "shift": 5.0, "fake_warm_up": 0})
    settings = replace(settings, consistency_share=1.0 if phase == CONSISTENCY else 0.0, consistency_again=0.0)
    settings = replace(settings, checkpointing=True)
    lengths = torch.full((PICTURES,), TOKENS, device=device)
    prompts = Prompts(torch.randn(PICTURES, TOKENS, config["text_dim"], device=device), lengths)
    negative = Prompts(torch.randn(1, TOKENS, config["text_dim"], device=device), lengths[:1])
    latents = torch.randn(PICTURES, config["in_channels"], *latent, device=device)
    bank = PromptBank(prompts, negative, latents)
    budget = Budget(math.inf, WARM + steps)
    training = Distillation(Experts(dit), LowRankAdapters(dit, IMAGE_LAYERS), bank, settings, budget, folder)
    times = [synchronized_time(device)]
    training.run(dict, math.inf, lambda made, phase: times.append(synchronized_time(device)))
    return (times[-1] - times[WARM]) / steps, FEW_STEPS


def _transformer(device: torch.device, float8: bool) -> tuple[dict[str, Any], FrameTransformer]:
    """A transformer of random weights; what it took to make it does not count as memory of the training."""
    config = TRANSFORMER if device.type == "cuda" else TRANSFORMER | SMALL | {"num_layers": 2}
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    dit = FrameTransformer(transformer_like(config, device, dtype)).to(device)
    if float8:
        to_float8_base(dit, device)
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return config, dit


def _median(times: list[float]) -> float:
    return statistics.median(later - earlier for earlier, later in pairwise(times[WARM:]))


if __name__ == "__main__":
    main()
