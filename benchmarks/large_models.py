"""A14B and Wan2.1 T2V-1.3B on one GPU, ours against compiled diffusers, in one process and in turn.

    python benchmarks/large_models.py --model a14b [--slots 4] [--steps 20] [--out benchmarks/results/NAME.json]

Random weights, guided. For each size: milliseconds of a step and picture in bf16 and FP8 beside diffusers'
transformer with `compile_repeated_blocks` (batched, with and without the prompt in two calls, as its pipeline makes
them), then whole pictures a second in so many steps. diffusers shares the weights of ours in bf16, so both fit beside
each other; a card without room for that measures FP8 alone, without diffusers. What is found is written after each
measurement. On a CPU the model is a small one of the same form.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from circumstances import circumstances
from model_requests import request_of

from wanbatch.jobs.benchmark.compare import made_by_diffusers, made_by_wanbatch
from wanbatch.jobs.benchmark.stages import COMPILED, GuidedStep, compare, shared_copies
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.requests import Request
from wanbatch.pipeline.evaluation import flops
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.compiler import set_up_compiler
from wanbatch.pipeline.loading.hosted_weights import size_of
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.random_model import PUBLISHED, Size, pipeline_of, random_info, random_modules
from wanbatch.pipeline.loading.runtime import Runtime

SIZES = ("1280x704", "832x480")
SMALL: dict[str, dict[str, Any]] = {
    "transformer": {"num_attention_heads": 4, "attention_head_dim": 32, "text_dim": 64, "ffn_dim": 128,
                    "num_layers": 2},
    "vae": {"base_dim": 8},
    "text": {"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 288},
}  # fmt: skip
ROOM = 3 << 30  # bytes that evaluations work in, besides weights


class Progress:
    """What is found so far: printed with the time, and written to a file after each measurement."""

    def __init__(self, out: Path | None, found: dict[str, Any]):
        self.found, self._out, self._begin = found, out, time.perf_counter()

    def note(self, *path: str, value: Any) -> None:
        """Put a value where the names lead."""
        there = self.found
        for name in path[:-1]:
            there = there.setdefault(name, {})
        there[path[-1]] = value
        self.say(f"{' '.join(path)}: {json.dumps(value)}")
        if self._out is not None:
            self._out.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")

    def say(self, text: str) -> None:
        """Print a line with the seconds since the start."""
        click.echo(f"[{time.perf_counter() - self._begin:6.1f} s] {text}")


@click.command(help=__doc__)
@click.option("--model", type=click.Choice(list(PUBLISHED)), default="a14b", show_default=True)
@click.option("--size", "sizes", multiple=True, default=SIZES, show_default=True)
@click.option("--slots", default=4, show_default=True)
@click.option("--steps", default=20, show_default=True, help="of whole pictures")
@click.option("--rounds", default=3, show_default=True)
@click.option("--peer/--no-peer", default=True, help="also measure compiled diffusers")
@click.option("--compile/--no-compile", "compiled", default=False, help="compile the VAE of both, too")
@click.option("--out", type=click.Path(path_type=Path))
@torch.inference_mode()
def main(
    model: Size,
    sizes: Sequence[str],
    slots: int,
    steps: int,
    rounds: int,
    peer: bool,
    compiled: bool,
    out: Path | None,
) -> None:
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    hardware = {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if gpu else {}
    options = {"model": model, "slots": slots, "steps": steps, "rounds": rounds, "vae_compiled": compiled}
    progress = Progress(
        out, {**circumstances(("torch", "diffusers", "transformers"), **hardware), "settings": options}
    )
    set_up_compiler(None)
    with torch.inference_mode(False), torch.no_grad():
        modules = random_modules(device, torch.bfloat16, model, **({} if gpu else SMALL))
        runners = _runners(modules, device, slots, compiled)
        weights = {
            name: sum(size_of(part) for part in [*wan.experts, wan.text.model]) for name, wan in runners.items()
        }
        theirs = _peer(modules, model, compiled) if peer and "bf16" in runners else None
    progress.note("weights_in_bytes", value=weights)
    for size in sizes:
        width, height = (int(side) for side in size.split("x"))
        _steps(progress, size, modules, runners, theirs, (width, height), rounds)
        _pictures(progress, size, model, runners, theirs, (width, height), steps)


def _runners(modules: Modules, device: torch.device, slots: int, compiled: bool) -> dict[str, Wan]:
    """Ours by precision, on shared weights; FP8 alone where both do not fit."""
    runtimes = {"bf16": Runtime(compile=compiled), "fp8": Runtime(compile=compiled, fp8=True)}
    if device.type == "cuda":
        experts = [part for part in (modules.transformer, modules.low_noise_transformer) if part is not None]
        needed = sum(map(size_of, experts)) // 2 + ROOM
        if torch.cuda.mem_get_info(device)[0] < needed:
            del runtimes["bf16"]
    return {
        name: Wan(shared_copies(modules) if len(runtimes) > 1 else modules, device, slots, runtime)
        for name, runtime in runtimes.items()
    }


def _peer(modules: Modules, size: Size, compiled: bool) -> Any:
    """diffusers' pipeline with compiled blocks, on the same weights; each shape is compiled by itself."""
    pipeline = pipeline_of(shared_copies(modules), size)
    pipeline.set_progress_bar_config(disable=True)
    for transformer in (pipeline.transformer, pipeline.transformer_2):
        if transformer is not None:
            transformer.compile_repeated_blocks(fullgraph=True, dynamic=False)
    if compiled:
        pipeline.vae.decoder.compile()
    return pipeline


def _steps(
    progress: Progress,
    name: str,
    modules: Modules,
    runners: dict[str, Wan],
    theirs: Any,
    size: tuple[int, int],
    rounds: int,
) -> None:
    """Milliseconds of a guided step and picture of one expert."""
    first = next(iter(runners.values()))
    config, latents = modules.transformer.config, (size[1] // first.stride, size[0] // first.stride)
    step = GuidedStep.random(config, latents, first.slots, first.device, first.dtype)
    contenders: dict[str, Callable[[], Any]] = {
        f"wanbatch {precision}": step.ours(wan.experts[0]) for precision, wan in runners.items()
    }
    if theirs is not None:
        per_token = bool(theirs.config.expand_timesteps)
        contenders[COMPILED] = step.diffusers(theirs.transformer, per_token, calls=2)
    tokens = latents[0] * latents[1] // (step.patch[0] * step.patch[1])
    work = 2 * flops.transformer_flops(config, tokens, step.embeds.shape[1] + 2)
    progress.note(name, "tokens", value=tokens)
    progress.note(name, "tflop_of_a_guided_step", value=round(work / 1e12, 2))
    found = compare(contenders, first.device, rounds, first.slots)
    for figures in found.values():
        figures["tflops"] = round(work / figures["ms"] / 1e9, 1)
    if theirs is not None:
        exact = contenders[COMPILED]()[:, :, 0].float()
        for contender in contenders:
            if contender != COMPILED:
                made = contenders[contender]().float()
                found[contender]["difference"] = round(float((made - exact).norm() / exact.norm()), 5)
    for contender, figures in found.items():
        progress.note(name, "step", contender, value=figures)


def _pictures(
    progress: Progress,
    name: str,
    model: Size,
    runners: dict[str, Wan],
    theirs: Any,
    size: tuple[int, int],
    steps: int,
) -> None:
    """Whole pictures a second, once each, and the most memory that each takes besides weights."""
    info, first = random_info(model), next(iter(runners.values()))
    # Pictures that pass from one expert to the other, as all do from text alone.
    values = {"width": size[0], "height": size[1]}
    requests = [
        request_of(info, id=str(number), seed=number, prompt=f"{number} a large red heart", steps=steps, **values)
        for number in range(first.slots)
    ]
    few = [replace(request, steps=4) for request in requests]
    contenders: dict[str, Callable[[Sequence[Request]], Any]] = {
        f"wanbatch {precision}": lambda asked, wan=wan: made_by_wanbatch(wan, asked)
        for precision, wan in runners.items()
    }
    if theirs is not None:
        contenders["diffusers compiled, batched"] = lambda asked: made_by_diffusers(theirs, asked, first.slots)
    for contender, make in contenders.items():
        progress.say(f"{name}: {contender}, warming up")
        make(few)
        before = torch.cuda.memory_allocated() if first.device.type == "cuda" else 0
        if first.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        begin = synchronized_time(first.device)
        make(requests)
        seconds = synchronized_time(first.device) - begin
        found = {"pictures_per_second": round(len(requests) / seconds, 4), "seconds": round(seconds, 3)}
        if first.device.type == "cuda":
            found["bytes_besides_weights"] = torch.cuda.max_memory_allocated() - before
        progress.note(name, "pictures", contender, value=found)
    speeds = {one: found["pictures_per_second"] for one, found in progress.found[name]["pictures"].items()}
    if theirs is not None:
        ratios = {one: round(speed / speeds["diffusers compiled, batched"], 3) for one, speed in speeds.items()}
        progress.note(name, "pictures_in_relation_to_diffusers", value=ratios)


if __name__ == "__main__":
    main()
