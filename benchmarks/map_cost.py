"""What a creativity map costs a denoising step, in time and memory, on random weights of Wan2.2 TI2V-5B.

    python benchmarks/map_cost.py --out benchmarks/results/map-cost-NAME.json [--precision bf16 --precision fp8]

Needs neither Ray nor pydantic, and less than 2 minutes on a GPU. Guided rows of 1280x704 (on a CPU: of 64x64, on a
model of the same form with 6 small blocks) go through whole schedules in the slots, plain ones and ones with a map in
turn: half of the places start with the row, a quarter at level 0.7, and a quarter never. `ratio` is the median over
the rounds of the time of a step with maps by that of the plain one beside it; `low` and `high` are the lowest and the
highest round. `bytes_a_slot` is what the slots hold for a map: source latent, noise and levels.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from step_times import SMALL, TOKENS

from wanbatch.pipeline.batching.denoiser import Denoiser
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.samples import Region, Sample
from wanbatch.pipeline.loading.random_model import TRANSFORMER, transformer_like
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import single_frame_transformer
from wanbatch.pipeline.loading.weights import DTYPES
from wanbatch.pipeline.sampling.solvers import solve


@click.command(help=__doc__)
@click.option("--steps", default=8, show_default=True)
@click.option("--slots", default=8, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--precision", "precisions", type=click.Choice(["fp32", "bf16", "fp8"]), multiple=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(steps: int, slots: int, rounds: int, precisions: tuple[str, ...], out: Path | None) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = []
    for precision in precisions or ("bf16", "fp8"):
        found.append({"precision": precision, **measure(device, precision, steps, slots, rounds)})
        click.echo("  ".join(f"{name} {value}" for name, value in found[-1].items()))
    result = {
        "what": "milliseconds a guided step and picture, without and with a creativity map",
        "command": " ".join(["python", *sys.argv]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "diffusers")}},
        "settings": {"steps": steps, "slots": slots, "rounds": rounds},
        "results": found,
    }
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(device: torch.device, precision: str, steps: int, slots: int, rounds: int) -> dict[str, Any]:
    """Times and memory of one precision, plain and mapped in turn."""
    found, mapped = compared(device, precision, steps, slots, rounds, "mapped", with_region)
    region = mapped[0].region
    assert region is not None
    held = sum(one.numel() * one.element_size() for one in (region.latent, region.noise, region.levels))
    return {**found, "bytes_a_slot": held}


@torch.inference_mode()
def compared(
    device: torch.device,
    precision: str,
    steps: int,
    slots: int,
    rounds: int,
    name: str,
    change: Callable[[Sample], Sample],
) -> tuple[dict[str, Any], list[Sample]]:
    """Times and memory of plain rows and of the same ones changed, in turn; and the changed rows.

    Args:
        device: where they are denoised; on a CPU by a small model of the same form.
        precision: of the transformer.
        steps: of each row.
        slots: rows that are denoised together.
        rounds: how often each kind is timed.
        name: of the changed rows.
        change: what is done to a row.
    """
    large = device.type == "cuda"
    config = TRANSFORMER if large else TRANSFORMER | SMALL
    dtype = DTYPES["float32" if precision == "fp32" else "bfloat16"]
    model = single_frame_transformer(transformer_like(config, device, dtype), Runtime(fp8=precision == "fp8"), device)
    plain = rows_of(config, device, dtype, steps, slots, (44, 80) if large else (4, 4))
    arms = {"plain": plain, name: [change(row) for row in plain]}
    denoiser = Denoiser([model], slots)
    peaks = {arm: peak_of(denoiser, rows, device) for arm, rows in arms.items()}
    for rows in arms.values():  # so that what is compiled or recorded once is not timed
        list(denoiser.run(rows))
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for number in range(rounds):
        for arm in sorted(arms, reverse=number % 2 == 0):
            begin = synchronized_time(device)
            list(denoiser.run(arms[arm]))
            times[arm].append((synchronized_time(device) - begin) * 1000 / steps / slots)
    ratios = sorted(changed / plain for plain, changed in zip(times["plain"], times[name], strict=True))
    found = {
        "plain_ms": round(statistics.median(times["plain"]), 3),
        f"{name}_ms": round(statistics.median(times[name]), 3),
        "ratio": round(statistics.median(ratios), 4),
        "low": round(ratios[0], 4),
        "high": round(ratios[-1], 4),
        "peak_more_bytes": peaks[name] - peaks["plain"],
    }
    return found, arms[name]


def peak_of(denoiser: Denoiser, rows: list[Sample], device: torch.device) -> int:
    """The most memory of the device that a run of these rows takes, with nothing kept of others; 0 on a CPU."""
    denoiser.forget()
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    list(denoiser.run(rows))
    return torch.cuda.max_memory_allocated(device)


def rows_of(
    config: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    steps: int,
    count: int,
    size: tuple[int, int],
) -> list[Sample]:
    """Guided rows of random prompts, without a map."""
    torch.manual_seed(0)
    prompt, negative = (torch.randn(tokens, config["text_dim"], device=device, dtype=dtype) for tokens in TOKENS)
    solution = solve("unipc", steps, 5.0, 1.0, "linear", None)
    start = torch.randn(config["in_channels"], *size, device=device)
    return [Sample(str(number), start, solution, 5.0, prompt, negative, number) for number in range(count)]


def with_region(row: Sample) -> Sample:
    """The same row with a map: left half at once, of the right one the upper quarter at 0.7 and the lower never."""
    height, width = row.start.shape[1:]
    levels = torch.full((height, width), float("inf"), device=row.start.device)
    levels[: height // 2, width // 2 :], levels[height // 2 :, width // 2 :] = 0.7, 0.0
    region = Region(torch.randn_like(row.start), row.start, levels)
    return Sample(row.id, row.start, row.solution, row.guidance, row.prompt, row.negative, row.seed, region=region)


if __name__ == "__main__":
    main()
