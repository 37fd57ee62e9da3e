"""What adapters of rows cost: milliseconds a step with mixed adapters against none, in bf16 and FP8.

    python benchmarks/adapters.py --out benchmarks/results/adapters-h200.json

Random weights of Wan2.2 TI2V-5B (on a CPU: of a model of its form with 6 small blocks), eight slots, each row with
another adapter of rank 32 on all 300 layers: with 4 steps, guided and not, and guided with 24 steps. Of 4 steps there
are 32 rows, and each that enters a slot brings another adapter than the one before it had, so that filling slots
counts as often as it does in a run. Each round runs all rows through their schedules without adapters and with, so
that both see the same machine; figures are medians over the rounds. `merged` has one adapter merged into the weights
before they are fused and quantised. With `--rows merged` the rows' adapters are not added to the products, but merged
into weights that each slot has of its own: in bf16 that takes some 110 GB of a GPU for the whole measurement, 8 slots
of 10 GB among them. Then: the time to put an adapter into a slot, whether a row alone has the bits
that it has among others, and how far an evaluation is from that of the merged weights and both from float32. Each
figure is printed, and written, as soon as it is there, in bf16 first: with `--precisions fp8` FP8 alone, for which
nothing else is needed. Beside other work an H200 got through bf16 in 260 seconds; how long FP8 takes was not
measured. Both take less with fewer `--sizes` or `--ways`. Needs torch, diffusers and safetensors alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from random_adapters import random_adapter
from step_times import SMALL, TOKENS

from wanbatch.pipeline.adapters.merging import merge
from wanbatch.pipeline.adapters.store import AdapterStore, stack_rank
from wanbatch.pipeline.adapters.tensors import AdapterTensors
from wanbatch.pipeline.batching.denoiser import Denoiser
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.samples import Sample
from wanbatch.pipeline.loading.random_model import TRANSFORMER, transformer_like
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import single_frame_transformer
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.sampling.solvers import solve

SIZES = {"1280x704": (44, 80), "512x512": (32, 32)}  # of latents; the second is small enough for CUDA graphs


def main() -> None:
    """Measure and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--ways", nargs="*", default=["4:1", "4:5", "24:5"], help="steps:guidance, of each row")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--precisions", nargs="*", default=["bf16", "fp8"])
    parser.add_argument("--rows", choices=["added", "merged"], default="added", help="how they have their adapters")
    parser.add_argument("--sizes", nargs="*", default=list(SIZES))
    given = parser.parse_args()
    large = torch.cuda.is_available()
    device = torch.device("cuda" if large else "cpu")
    config = TRANSFORMER if large else TRANSFORMER | SMALL
    adapters = {
        f"adapter-{number}": random_adapter(config, given.rank, number, device) for number in range(given.slots)
    }
    found: list[dict[str, Any]] = []
    result = {
        "what": "milliseconds a step of the whole batch, without adapters and with one a row",
        "command": " ".join(["python", *sys.argv]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": torch.cuda.get_device_name() if large else f"CPU, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "diffusers")}},
        "settings": {name: value for name, value in vars(given).items() if name != "out"},
        "found": found,
    }
    begin = time.monotonic()
    for precision in given.precisions:
        for one in measured(given, precision, config, device, adapters):
            found.append(one)
            print(f"{time.monotonic() - begin:.0f} s", json.dumps(one), flush=True)
            if given.out is not None:
                given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


@torch.inference_mode()
def measured(
    given: argparse.Namespace,
    precision: str,
    config: dict[str, Any],
    device: torch.device,
    adapters: Mapping[str, AdapterTensors],
) -> Iterator[dict[str, Any]]:
    """What each size takes in one precision, each way."""
    own_weights = given.rows == "merged"
    plain = built(config, device, precision, None, own_weights)
    merged = built(config, device, precision, adapters["adapter-0"])
    of_rows = torch.float32 if own_weights else plain.dtype
    store = AdapterStore({name: ((tensors,), 1.0) for name, tensors in adapters.items()}, device, of_rows)
    for size in given.sizes:
        shape = SIZES[size] if device.type == "cuda" else (8, 8)
        for way in given.ways:
            steps, guidance = int(way.partition(":")[0]), float(way.partition(":")[2])
            passes = 4 if steps <= 8 else 1
            rows = samples(config, device, plain.dtype, steps, given.slots * passes, shape, guidance)
            mixed = [
                replace(row, adapters=store.applied([(f"adapter-{_of_row(number, given.slots)}", 1.0)]))
                for number, row in enumerate(rows)
            ]
            yield {
                "precision": precision, "size": size, "steps": steps, "guidance": guidance, "rows": len(rows),
                "kernels": plain.fused,
                **times_of(plain, merged, given, rows, mixed, device),
            }  # fmt: skip
        one = replace(rows[0], adapters=store.applied([("adapter-0", 1.0)]))
        yield {
            "precision": precision, "size": size, "kernels": plain.fused,
            "bits_are_those_of_the_row_alone": bits_alone(plain, given.slots, mixed[: given.slots]),
            "fill_ms_a_slot": round(fill_milliseconds(plain, store, given, device), 3),
            "velocity": velocities(plain, merged, config, device, one, given.slots, adapters["adapter-0"]),
        }  # fmt: skip
    del plain, merged, store
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _of_row(number: int, slots: int) -> int:
    """Which adapter a row has: all those of the slots differ, and the next row of a slot has another one."""
    return (number + number // slots) % slots


def times_of(
    plain: FrameTransformer,
    merged: FrameTransformer,
    given: argparse.Namespace,
    rows: list[Sample],
    mixed: list[Sample],
    device: torch.device,
) -> dict[str, Any]:
    """Milliseconds a step of all slots, in turn without adapters, with one a row, and with one merged."""
    runs = {
        "none": (Denoiser([plain], given.slots), rows),
        "mixed": (Denoiser([plain], given.slots), mixed),
        "merged": (Denoiser([merged], given.slots), rows),
    }
    steps = rows[0].solution.steps * len(rows) / given.slots
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(given.rounds + 1):
        for name, (denoiser, its) in runs.items():
            begin = synchronized_time(device)
            list(denoiser.run(its))
            if number:  # the first compiles, records and warms up
                times[name].append((synchronized_time(device) - begin) * 1000 / steps)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "ms_a_step": {name: round(value, 3) for name, value in medians.items()},
        "spread": {name: round(max(values) / min(values), 3) for name, values in times.items()},
        "mixed_over_none": round(medians["mixed"] / medians["none"], 4),
        "merged_over_none": round(medians["merged"] / medians["none"], 4),
    }


def built(
    config: dict[str, Any],
    device: torch.device,
    precision: str,
    tensors: AdapterTensors | None,
    merged_rows: bool = False,
) -> FrameTransformer:
    """The random model in a precision, with an adapter merged into it."""
    model = transformer_like(config, device, torch.bfloat16)
    if precision == "fp32":
        model = model.float()  # the same weights
    if tensors is not None:
        merge(model, tensors)
    return single_frame_transformer(model, Runtime(fp8=precision == "fp8", merged_rows=merged_rows), device)


def samples(config, device, dtype, steps: int, count: int, size, guidance: float) -> list[Sample]:
    """Rows that differ in their noise, with one prompt."""
    torch.manual_seed(0)
    prompt, negative = (torch.randn(tokens, config["text_dim"], device=device, dtype=dtype) for tokens in TOKENS)
    solution = solve("unipc", steps, 5.0, 1.0, "linear", None)
    starts = torch.randn(count, config["in_channels"], *size, device=device)
    return [
        Sample(str(number), starts[number], solution, guidance, prompt, negative, number) for number in range(count)
    ]


def fill_milliseconds(plain: FrameTransformer, store: AdapterStore, given, device: torch.device) -> float:
    """To put an adapter that is on the device into a slot."""
    stacks, applied = plain.adapter_stacks(given.slots, stack_rank(given.rank)), store.applied([("adapter-0", 1.0)])
    assert applied is not None
    times = []
    for _ in range(4):
        begin = synchronized_time(device)
        stacks.fill(0, applied.pairs(0))
        times.append((synchronized_time(device) - begin) * 1000)
    return min(times)


def bits_alone(plain: FrameTransformer, slots: int, mixed: list[Sample]) -> bool:
    """Whether two steps of each of three rows give the same bits alone and beside all others."""
    short = [replace(row, solution=solve("unipc", 2, 5.0, 1.0, "linear", None)) for row in mixed]
    together = {one.sample.id: one.latent for one in Denoiser([plain], slots).run(short)}
    for row in (short[0], short[-1], short[len(short) // 2]):
        (alone,) = Denoiser([plain], slots).run([row])
        if not torch.equal(alone.latent, together[row.id]):
            return False
    return True


def velocities(plain, merged, config, device, row: Sample, slots: int, tensors: AdapterTensors) -> dict[str, float]:
    """Relative distances of one evaluation: with the row's adapter, with merged weights, and both from float32."""
    one = replace(row, solution=solve("euler", 1, 1.0, 1.0, "linear", None), guidance=1.0)
    without = replace(one, adapters=None)

    def latent(model: FrameTransformer, sample: Sample) -> torch.Tensor:
        (done,) = Denoiser([model], slots).run([sample])
        return (done.latent - sample.start).float()

    with_row, with_merged, base = latent(plain, one), latent(merged, without), latent(plain, without)
    exact_model = built(config, device, "fp32", tensors)
    texts = (text.float() for text in (row.prompt, row.negative))
    exact = latent(exact_model, replace(without, **dict(zip(("prompt", "negative"), texts, strict=True))))

    def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
        return float(f"{float((ours - theirs).norm() / theirs.norm()):.3g}")

    return {
        "row_from_merged": relative(with_row, with_merged),
        "row_from_float32": relative(with_row, exact),
        "merged_from_float32": relative(with_merged, exact),
        "without_from_merged": relative(base, with_merged),
    }


if __name__ == "__main__":
    main()
