"""Whole pictures of prompts of mixed lengths: units that drain the slots, against slots that stay full.

    python benchmarks/whole_commands.py [--images 256] [--rounds 2] [--out benchmarks/results/NAME.json]

Random weights of Wan2.2 TI2V-5B in FP8, 4 steps without guidance, 1280x704, 8 slots (on a CPU: a model of its form
with small parts, 64x64). One process has the pipeline and makes the same pictures in several ways, in turn:

- `units of their own`: units of 16 rows in the manifest's order, each of which drains the slots at its end, as it was
  until 0.2;
- `full slots`: units of rows with prompts of similar length (`Plan.units`), of which the next one enters as rows
  leave, as `wanbatch run` does now;
- `equal lengths`: the same with prompts that all have the length of most, which no order can better.

Figures are pictures a second from prompts to pixels in the host's memory, without files; the share of the slots that
had a row, counted; and whether both ways made the same pictures, bit for bit. It needs neither Ray nor pydantic.
With `--diffusers` compiled diffusers, batched, makes the first pictures too (compiling takes a minute).
"""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import sys
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from mixed_prompts import mixed_words, prompts_of
from model_requests import request_of

from wanbatch.jobs.benchmark.stages import shared_copies
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.requests import Failed, Request
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.compiler import set_up_compiler
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.random_model import pipeline_of, random_info, random_modules
from wanbatch.pipeline.loading.runtime import Runtime

UNIT_ROWS, IN_MODEL = 16, 4  # rows of a unit; units of which the model has rows (`jobs/driver/units_in_hand.py`)
SMALL: dict[str, dict[str, Any]] = {
    "transformer": {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64,
                    "text_dim": 64},
    "vae": {"base_dim": 8, "decoder_base_dim": 8},
    "text": {"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2},
}  # fmt: skip


@dataclass(slots=True)
class Made:
    """What one way of making the pictures gave."""

    seconds: float
    evaluations: int
    slot_steps: float
    digests: dict[str, str]


@click.command(help=__doc__)
@click.option("--images", default=256, show_default=True)
@click.option("--rounds", default=2, show_default=True)
@click.option("--slots", default=8, show_default=True)
@click.option("--steps", default=4, show_default=True)
@click.option("--guidance", default=1.0, show_default=True)
@click.option("--precision", type=click.Choice(["fp8", "bf16"]), default="fp8", show_default=True)
@click.option("--diffusers", is_flag=True, help="compiled diffusers, too")
@click.option("--out", type=click.Path(path_type=Path))
@torch.no_grad()
def main(
    images: int,
    rounds: int,
    slots: int,
    steps: int,
    guidance: float,
    precision: str,
    diffusers: bool,
    out: Path | None,
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    modules = random_modules(device, torch.bfloat16 if gpu else torch.float32, **({} if gpu else SMALL))
    if gpu:
        set_up_compiler(None)
    size = {"width": 1280, "height": 704} if gpu else {"width": 64, "height": 64}
    mixed = requests_of(mixed_words(images), size | {"steps": steps, "guidance": guidance})
    equal = requests_of([30] * images, size | {"steps": steps, "guidance": guidance})
    wan = Wan(shared_copies(modules), device, slots, Runtime(compile=gpu, fp8=precision == "fp8" and gpu))
    ways = {
        "units of their own": lambda: one_by_one(wan, units_of(mixed)),
        "full slots": lambda: streamed(wan, units_of(sorted(mixed, key=lambda request: len(request.prompt)))),
        "equal lengths": lambda: streamed(wan, units_of(equal)),
    }
    begin = synchronized_time(device)
    wan.warm_up(mixed[:1])
    one_by_one(wan, units_of(mixed[: 2 * UNIT_ROWS]))
    warm_up = synchronized_time(device) - begin
    runs: dict[str, list[Made]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            runs[name].append(way())
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": torch.cuda.get_device_name() if gpu else "CPU",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "diffusers")}},
        "backends": wan.backends,
        "settings": {"images": images, "slots": slots, "steps": steps, "guidance": guidance, **size},
        "warm_up_seconds": round(warm_up, 2),
        "ways": {name: figures(made, images) for name, made in runs.items()},
        "same_pictures": runs["units of their own"][0].digests == runs["full slots"][0].digests,
    }
    if diffusers:
        result["diffusers compiled, batched"] = with_diffusers(modules, mixed[: 4 * slots], slots)
    text = json.dumps(result, indent=1) + "\n"
    click.echo(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")


def requests_of(words: list[int], values: dict[str, Any]) -> list[Request]:
    return [
        request_of(random_info(), id=str(number), seed=number, prompt=prompt, **values)
        for number, prompt in enumerate(prompts_of(words))
    ]


def units_of(requests: Sequence[Request]) -> list[Sequence[Request]]:
    return [requests[first : first + UNIT_ROWS] for first in range(0, len(requests), UNIT_ROWS)]


def one_by_one(wan: Wan, units: Sequence[Sequence[Request]]) -> Made:
    """Each unit by itself."""
    made = _begun(wan)
    for unit in units:
        for outcome in wan.generate(unit):
            _take(made, outcome)
    return _ended(wan, made)


def streamed(wan: Wan, units: Sequence[Sequence[Request]]) -> Made:
    """The next unit enters as rows of the last ones leave."""
    made, waiting = _begun(wan), deque(units)
    left: Counter[int] = Counter()
    unit_of: dict[str, int] = {}

    def more() -> Sequence[Request]:
        if not waiting or sum(1 for count in left.values() if count) >= IN_MODEL:
            return ()
        unit = waiting.popleft()
        number = len(left)
        left[number] = len(unit)
        unit_of.update((request.id, number) for request in unit)
        return unit

    for outcome in wan.generate(more(), more):
        _take(made, outcome)
        left[unit_of[outcome.request.id]] -= 1
    return _ended(wan, made)


def _begun(wan: Wan) -> Made:
    wan.text.forget()  # every way encodes all prompts
    return Made(-synchronized_time(wan.device), 0, 0.0, {})


def _take(made: Made, outcome: Any) -> None:
    if isinstance(outcome, Failed):
        raise outcome.error
    made.evaluations += outcome.work.steps_full + outcome.work.steps_cached
    made.slot_steps += outcome.slot_steps
    made.digests[outcome.request.id] = hashlib.blake2b(outcome.pixels.data, digest_size=8).hexdigest()


def _ended(wan: Wan, made: Made) -> Made:
    return replace(made, seconds=made.seconds + synchronized_time(wan.device))


def figures(made: Sequence[Made], images: int) -> dict[str, Any]:
    speeds = [images / one.seconds for one in made]
    return {
        "pictures_per_second": round(statistics.median(speeds), 3),
        "each_round": [round(speed, 3) for speed in speeds],
        "slot_use": round(made[0].evaluations / made[0].slot_steps, 4),
    }


def with_diffusers(modules: Modules, requests: Sequence[Request], batch: int) -> dict[str, float]:
    """Pictures a second of `WanPipeline` with compiled blocks and decoder; its second pass counts."""
    pipeline = pipeline_of(modules)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.compile_repeated_blocks(fullgraph=True)
    pipeline.vae.decoder.compile()
    speeds = []
    for _ in range(2):
        begin = synchronized_time(modules.transformer.device)
        for first in range(0, len(requests), batch):
            group = requests[first : first + batch]
            one = group[0]
            pipeline(
                prompt=[request.prompt for request in group],
                width=one.width,
                height=one.height,
                num_frames=1,
                num_inference_steps=one.steps,
                guidance_scale=one.guidance,
                generator=[torch.Generator("cpu").manual_seed(request.seed) for request in group],
                output_type="np",
            )
        speeds.append(len(requests) / (synchronized_time(modules.transformer.device) - begin))
    return {"pictures_per_second": round(speeds[-1], 3)}


if __name__ == "__main__":
    main()
