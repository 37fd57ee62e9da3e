"""A model on GPUs with less memory than it would like: what runs, how its parts share the GPU, and how fast.

    python benchmarks/gpu_limits.py [--model 5b] [--gigabytes 24 --gigabytes 16] [--out benchmarks/results/NAME.json]

Random weights. Each precision has a process of its own, since what an earlier one compiled keeps its model on the
GPU. The model is made once there, in the host's memory; then the process is allowed so many gigabytes of the GPU
(`torch.cuda.set_per_process_memory_fraction`), from the most to the least, and makes pictures at 1280x704 with
guidance: first one with two steps, to warm up, then two units whose prompts are new. Where memory runs out the slots
are halved, as a run does. What cannot run in any way must be refused before it works. With `--small` it also times an
FP8 step of batches too small to keep the GPU busy, launched and replayed as CUDA graphs. What is found is written
after each measurement. On a CPU nothing is ever short, and the model is a small one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from circumstances import circumstances
from large_models import SMALL, Progress
from model_requests import request_of
from own_process import in_a_process

from wanbatch.errors import UserError
from wanbatch.pipeline.batching.denoiser import KEPT_CLASSES, Denoiser
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.requests import Failed, Request
from wanbatch.pipeline.core.samples import Sample
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.compiler import set_up_compiler
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.offload import free_memory
from wanbatch.pipeline.loading.random_model import (
    PUBLISHED,
    TRANSFORMER,
    Size,
    random_info,
    random_modules,
    transformer_like,
    with_float8_text,
)
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import single_frame_transformer
from wanbatch.pipeline.sampling.solvers import solve

BATCHES = (((32, 32), 8, 1.0), ((32, 32), 8, 5.0), ((44, 80), 1, 1.0), ((44, 80), 2, 1.0), ((44, 80), 4, 1.0))
STEPS = 8


@click.command(help=__doc__)
@click.option("--model", type=click.Choice(list(PUBLISHED)), default="5b", show_default=True)
@click.option("--gigabytes", multiple=True, type=float, default=(24.0, 16.0, 12.0), show_default=True)
@click.option("--precision", "precisions", multiple=True, default=("bf16", "fp8"), show_default=True)
@click.option("--text-precision", type=click.Choice(["auto", "fp8"]), default="auto", show_default=True)
@click.option("--slots", default=8, show_default=True)
@click.option("--steps", default=12, show_default=True)
@click.option("--unit", default=8, show_default=True, help="pictures of a unit")
@click.option("--small/--no-small", default=False, help="also time small batches")
@click.option("--out", type=click.Path(path_type=Path))
def main(
    model: Size,
    gigabytes: Sequence[float],
    precisions: Sequence[str],
    text_precision: str,
    slots: int,
    steps: int,
    unit: int,
    small: bool,
    out: Path | None,
) -> None:
    options = {"model": model, "slots": slots, "steps": steps, "pictures_of_a_unit": unit}
    options["text_precision"] = text_precision
    (hardware,) = in_a_process(_hardware)
    progress = Progress(
        out, {**circumstances(("torch", "diffusers", "transformers"), **hardware), "settings": options}
    )
    if small and hardware:
        for name, found in in_a_process(_small_batches):
            progress.note("milliseconds_a_step_and_picture", name, value=found)
    asked = Asked(model, tuple(gigabytes), text_precision == "fp8", slots, steps, unit)
    for precision in precisions:
        for path, value in in_a_process(_of_precision, precision, asked):
            if path:
                progress.note(*path, value=value)
            else:
                progress.say(value)


@dataclass(frozen=True)
class Asked:
    """What is measured of each precision.

    Attributes:
        model: which one.
        gigabytes: that the process is allowed.
        text_fp8: whether the weights of the text encoder are in FP8.
        slots: of the denoiser at first.
        steps: of a picture.
        unit: how many pictures it has.
    """

    model: Size
    gigabytes: tuple[float, ...]
    text_fp8: bool
    slots: int
    steps: int
    unit: int


def _hardware() -> Iterator[dict[str, Any]]:
    """The GPU, or nothing. Asked in a process of its own, as whoever asks takes some memory of it."""
    gpu = torch.cuda.is_available()
    yield {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if gpu else {}


@torch.no_grad()
def _of_precision(precision: str, asked: Asked) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What is found of one precision, by its place in the results; by none what is only said."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    if gpu:
        set_up_compiler(None)
    yield (), f"{precision}: the model is made"
    begin = time.perf_counter()
    made = random_modules(device, torch.bfloat16, asked.model, **({} if gpu else SMALL))
    modules = _on_the_host(made, asked.text_fp8)
    del made
    _allow(_share(max(asked.gigabytes)))
    eight_bits = {"fp8": precision == "fp8", "int8": precision == "int8", "text_fp8": asked.text_fp8}
    runtime = Runtime(compile=gpu, **eight_bits, offload=True)  # as `--compile auto` has it
    info = random_info(asked.model)
    try:
        wan = Wan(modules, device, asked.slots, runtime, pixels=info.width * info.height)
    except UserError as error:
        yield ("caps", precision, f"{max(asked.gigabytes):g}_gb"), {"refused": str(error)}
        return
    del modules
    yield ("seconds_to_make_and_load", precision), round(time.perf_counter() - begin, 1)
    for allowed in sorted(asked.gigabytes, reverse=True):
        for said in _tried(wan, asked, allowed):
            yield ((), said) if isinstance(said, str) else (("caps", precision, f"{allowed:g}_gb"), said)


def _share(gigabytes: float) -> float:
    """So many gigabytes, as a share of the GPU."""
    return gigabytes * 1e9 / torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 1.0


def _allow(share: float) -> None:
    """Allow this process so much of the GPU, and begin with none of it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, share))
        torch.cuda.reset_peak_memory_stats()


def _on_the_host(made: Modules, text_fp8: bool) -> Modules:
    """The parts on the host, the text encoder with its weights in FP8 if that is asked for."""
    text = with_float8_text(made).text_encoder if text_fp8 else made.text_encoder
    parts = (text, made.transformer, made.low_noise_transformer, made.vae)
    there = [part if part is None else part.cpu() for part in parts]
    return Modules(made.tokenizer, there[0], there[1], there[2], made.boundary, there[3])


def _tried(wan: Wan, asked: Asked, allowed: float) -> Iterator[str | dict[str, Any]]:
    """What became of two units under a cap of so many gigabytes, after a line on how the parts share the GPU."""
    gpu = wan.device.type == "cuda"
    wan.denoiser.forget()
    wan.placement.to_host()
    _allow(_share(allowed))
    begin, free = time.perf_counter(), free_memory(wan.device)
    try:
        wan.placement.plan_again()
    except UserError as error:
        yield {"refused": str(error), "seconds_until_refused": round(time.perf_counter() - begin, 2)}
        return
    wan.use_slots(asked.slots)
    offloader = wan.placement.offloader
    assert offloader is not None
    yield f"{allowed:g} GB: {offloader.residency}"
    found: dict[str, Any] = {
        "residency": str(offloader.residency),
        "backends": wan.backends,
        "free_bytes_at_first": free if gpu else None,
        "pinned": offloader.pinned,
    }
    _make(wan, asked.model, f"{allowed:g} warm up", 1, 2)
    units = []
    for number in range(2):
        seconds, moves, moving, failed = _make(
            wan, asked.model, f"{allowed:g} unit {number}", asked.unit, asked.steps
        )
        units.append({
            "seconds": round(seconds, 2), "pictures_per_second": round(asked.unit / seconds, 3), "moves": moves,
            "seconds_moving": round(moving, 2), "failed": failed,
        })  # fmt: skip
    found |= {"slots": wan.slots, "units": units}
    if gpu:
        found["peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
        found["peak_reserved_bytes"] = torch.cuda.max_memory_reserved()
    yield found


def _make(wan: Wan, model: Size, unit: str, pictures: int, steps: int) -> tuple[float, int, float, int]:
    """Seconds of a unit, moves in it, their seconds, failures; slots are halved where memory runs out."""
    requests = [_request(model, wan, f"{unit} {number}", number, steps) for number in range(pictures)]
    while True:
        begin = synchronized_time(wan.device)
        try:
            made = list(wan.generate(requests))
            break
        except torch.OutOfMemoryError:
            if wan.slots == 1:
                raise
        torch.cuda.empty_cache()
        wan.use_slots(wan.slots // 2)
    seconds = synchronized_time(wan.device) - begin
    results = [one for one in made if not isinstance(one, Failed)]
    moving = sum(one.move_seconds for one in results)
    return seconds, sum(one.moves for one in results), moving, len(made) - len(results)


def _request(model: Size, wan: Wan, name: str, seed: int, steps: int) -> Request:
    size = {"width": 1280, "height": 704} if wan.device.type == "cuda" else {"width": 64, "height": 64}
    return request_of(random_info(model), id=name, prompt=f"{name} a red heart", seed=seed, steps=steps, **size)


@torch.no_grad()
def _small_batches() -> Iterator[tuple[str, dict[str, float]]]:
    device = torch.device("cuda")
    frame = single_frame_transformer(transformer_like(TRANSFORMER, device, torch.bfloat16), Runtime(fp8=True), device)
    for size, slots, guidance in BATCHES:
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


if __name__ == "__main__":
    main()
