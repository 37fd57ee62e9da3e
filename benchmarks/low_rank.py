"""Microseconds of each kernel for adapters of rows, in several tile sizes, beside what is there without it.

    python benchmarks/low_rank.py [--out benchmarks/results/low-rank-h200.json] [--rank 32] [--only gelu ...]

Eight slots with guidance at 1280x704: 16 sequences of 880 tokens, of the full width (on a CPU, in Triton's
interpreter with `TRITON_INTERPRET=1`: a few of small width, in float32, whose times say nothing). `none` is what the
block does there without adapters, `plain` the same with batched products of PyTorch in passes of their own, as the
plain path adds adapters; in FP8 without the second copy of each activation that this once took. `now` is our kernel
with the tiles that are set, then come others: of kernels of several passes as rows, columns, share, warps, stages;
of those that have whole rows as columns of a chunk, warps, chunks ahead. `off` is the distance of the result from
the one of `plain`, by its norm, the largest of all tiles. Both make the inner part of a product's change from its
inputs, too; `down` is that alone. Times are medians over calls with a cold cache, each recorded as a CUDA graph
before: what the host takes to ask for kernels, which in a step it does ahead of the GPU, is not in them. Each line is
printed as soon as it is there. Tiles that do not compile or fit are named and left out. Most of the time goes into
compiling, which `BUILDERS` processes do first, each its share of the tiles, into the cache of Triton that all use.
Needs torch and Triton alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from circumstances import circumstances
from low_rank_cases import DEVICE, DTYPE, LARGE, SEQUENCES, TOKENS, Case, Found, Settings, Work, cases
from torch import Tensor
from triton.runtime.errors import TritonError

from wanbatch.pipeline.models import kernels
from wanbatch.pipeline.models.kernels import Activation

REPEATS = 20 if LARGE else 1
CACHE_BYTES = 2**28 if LARGE else 1  # that are written between two calls
BUILDERS = min(8, (os.cpu_count() or 1) // 2) if LARGE else 0


def main() -> None:
    """Measure and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--only", nargs="*", help="words, one of which a kernel's name must have")
    parser.add_argument("--builder", type=int, help="compile the tiles of this share, for the process that measures")
    given = parser.parse_args()
    if given.builder is not None:
        return build(given)
    wait_for_builders()
    found: list[dict[str, Any]] = []
    result = {
        "what": "microseconds of the kernels for adapters of rows",
        **circumstances(("torch", "triton"), gpu=torch.cuda.get_device_name() if LARGE else None),
        "settings": {"rank": given.rank, "sequences": SEQUENCES, "tokens": TOKENS, "dtype": str(DTYPE)},
        "found": found,
    }
    for case in cases(given.rank, given.only):
        found.append(measured(case))
        if given.out is not None:
            given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def wait_for_builders() -> None:
    """Have other processes compile what is to be measured; what they fail at is said when it is its turn here."""
    command = [sys.executable, *sys.argv, "--builder"]
    builders = [subprocess.Popen([*command, str(share)], stdout=subprocess.DEVNULL) for share in range(BUILDERS)]
    for builder in builders:
        builder.wait()


@torch.inference_mode()
def build(given: argparse.Namespace) -> None:
    """Compile every so manieth of all tiles, by using it once."""
    number = 0
    for case in cases(given.rank, given.only):
        for _, tiles in case.trials():
            number += 1
            if number % BUILDERS == given.builder:
                with set_tiles(tiles), suppress(RuntimeError, TritonError):
                    case.ours(case.product.clone())


@contextmanager
def set_tiles(tiles: Settings) -> Iterator[None]:
    """Others than those that are set, for a while."""
    before = [(module, name, getattr(module, name)) for module, name, _ in tiles]
    try:
        for module, name, value in tiles:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


@torch.inference_mode()
def measured(case: Case) -> dict[str, Any]:
    """A kernel's times, printed when all are there."""
    times: dict[str, float] = {}
    wanted = case.plain(case.product.clone())
    for name, work in (("none", case.none), ("plain", case.plain)):
        if work is not None:
            times[name] = microseconds(work, case.product.clone())
    off, now = None, {}
    for label, tiles in case.trials():
        if label == "now":
            now = {name: value for _, name, value in tiles}
        try:
            with set_tiles(tiles):
                found = distance(case.ours(case.product.clone()), wanted)
                off = found if off is None else max(off, found)
                times[label] = microseconds(case.ours, case.product.clone())
        except (RuntimeError, TritonError) as error:  # tiles that do not fit
            lines = str(error).splitlines() or [""]
            print(f"    {case.name}, {label}: {type(error).__name__}: {lines[0][:100]}", flush=True)
    fixed = ("none", "plain", "now")
    line = sorted(
        times.items(), key=lambda item: (item[0] not in fixed, fixed.index(item[0]) if item[0] in fixed else item[1])
    )
    far = "?" if off is None else f"{off:.1e}"
    print(f"{case.name} (off {far}):", "; ".join(f"{name} {value:.0f}" for name, value in line), flush=True)
    return {"kernel": case.name, "off": off, "now": now, "microseconds": times}


def distance(ours: Found, theirs: Found) -> float:
    wanted = as_tensor(theirs).float()
    return float((as_tensor(ours).float() - wanted).norm() / wanted.norm())


def as_tensor(found: Found) -> Tensor:
    """What an activation stands for, or the inner part with its summands added up."""
    if isinstance(found, kernels.LowRankTerm):
        return found.low.sum(0).view(SEQUENCES, TOKENS, -1)
    if isinstance(found, Activation):
        return found.values if found.scale is None else found.values.float() * found.scale
    return found


def microseconds(work: Work, product: Tensor) -> float:
    """The median of some calls, each after the GPU's cache was filled with something else."""
    work(product)
    if not LARGE:
        begin = time.perf_counter()
        work(product)
        return round((time.perf_counter() - begin) * 1e6, 1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work(product)
    filler = torch.empty(CACHE_BYTES, dtype=torch.int8, device=DEVICE)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(REPEATS)]
    for begin_event, end_event in events:
        filler.zero_()
        begin_event.record()
        graph.replay()
        end_event.record()
    torch.cuda.synchronize()
    return round(statistics.median(begin.elapsed_time(end) for begin, end in events) * 1000, 1)


if __name__ == "__main__":
    main()
