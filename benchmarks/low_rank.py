"""Microseconds of each kernel for adapters of rows, in several tile sizes, beside what is there without it.

    python benchmarks/low_rank.py [--out benchmarks/results/low-rank-h200.json] [--rank 32] [--only gelu ...]

Eight slots with guidance at 1280x704: 16 sequences of 880 tokens, of the full width (on a CPU, in Triton's
interpreter with `TRITON_INTERPRET=1`: a few of small width, in float32, whose times say nothing). `none` is what the
block does there without adapters, `plain` the same with batched products of PyTorch in passes of their own, as the
plain path adds adapters; in FP8 without the second copy of each activation that this once took. `now` is our kernel
with the tiles that are set, then come others, as rows, columns, share, warps, stages. `off` is the distance of
the result from the one of `plain`, by its norm. Both make the inner part of a product's change from its inputs, too;
`down` is that alone. Times are medians over calls with a cold cache, each recorded as a CUDA graph before: what the
host takes to ask for kernels, which in a step it does ahead of the GPU, is not in them. Each line is printed as soon
as it is there. Some four minutes on an H200, most of it compiling. Needs torch and Triton alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from circumstances import circumstances
from torch import Tensor
from triton.runtime.errors import TritonError

from wanbatch.pipeline.models import fp8, kernels
from wanbatch.pipeline.models.adapter_stacks import LayerStack, add_low_rank
from wanbatch.pipeline.models.kernels import Activation, PendingResidual, low_rank, low_rank_gelu, low_rank_norms
from wanbatch.pipeline.models.kernels.low_rank import Tiles

LARGE = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if LARGE else ("cpu", torch.float32)
WIDE = str(DTYPE).removeprefix("torch.")
SLOTS, SEQUENCES, TOKENS, DIM, INNER, HEADS = (8, 16, 880, 3072, 14336, 24) if LARGE else (2, 4, 20, 64, 96, 2)
REPEATS = 20 if LARGE else 1
CACHE_BYTES = 2**28 if LARGE else 1  # that are written between two calls
DOWN_TILES = [
    Tiles(64, 64, 1024, 4, 4),
    Tiles(64, 64, 3072, 4, 4),
    Tiles(64, 64, 1536, 4, 6),
    Tiles(64, 128, 1536, 4, 4),
    Tiles(128, 64, 1536, 8, 4),
    Tiles(128, 128, 1536, 8, 3),
    Tiles(64, 256, 1536, 8, 3),
]
SHAPES = [
    (64, 64, 4, 2),
    (64, 64, 4, 3),
    (64, 64, 4, 4),
    (32, 128, 4, 3),
    (128, 64, 8, 2),
    (64, 128, 8, 2),
    (32, 128, 4, 2),
    (32, 64, 4, 2),
    (64, 32, 4, 2),
]
SHARES = {DIM: [1024, 3072], INNER: [1792, 3584]} if LARGE else {DIM: [32], INNER: [64]}


Found = Tensor | Activation | kernels.LowRankTerm
Work = Callable[[Tensor], Any]
"""Of a product, to which what adapters add is added in place; gives one of `Found`."""


class Case(NamedTuple):
    """One kernel.

    Attributes:
        name: Of it.
        product: What it reads.
        none: What is done there without adapters; None: nothing.
        plain: The same with adapters by passes of their own.
        ours: The same by the kernel.
        settings: Modules and names of the tiles that are tried together.
        tiles: Which ones.
    """

    name: str
    product: Tensor
    none: Work | None
    plain: Work
    ours: Work
    settings: list[tuple[ModuleType, str]]
    tiles: list[Tiles]


def main() -> None:
    """Measure and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--only", nargs="*", help="words, one of which a kernel's name must have")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    result = {
        "what": "microseconds of the kernels for adapters of rows",
        **circumstances(("torch", "triton"), gpu=torch.cuda.get_device_name() if LARGE else None),
        "settings": {"rank": given.rank, "sequences": SEQUENCES, "tokens": TOKENS, "dtype": str(DTYPE)},
        "found": found,
    }
    for make in (downs, norms, adds, residuals, gelus):
        for case in make(given.rank):
            if not given.only or any(word in case.name for word in given.only):
                found.append(measured(case))
                if given.out is not None:
                    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


@torch.inference_mode()
def measured(case: Case) -> dict[str, Any]:
    """A kernel's times, printed when all are there."""
    times: dict[str, float] = {}
    wanted = case.plain(case.product.clone())
    for name, work in (("none", case.none), ("plain", case.plain)):
        if work is not None:
            times[name] = microseconds(work, case.product.clone())
    before = [getattr(*setting) for setting in case.settings]
    off = None
    for tiles in (None, *case.tiles):
        for (module, name), own in zip(case.settings, before, strict=True):
            setattr(module, name, own if tiles is None else tiles)
        try:
            found = distance(case.ours(case.product.clone()), wanted)
            off = found if off is None else max(off, found)
            times["now" if tiles is None else str(tuple(tiles))] = microseconds(case.ours, case.product.clone())
        except (RuntimeError, TritonError) as error:  # tiles that do not fit
            print(f"    {tiles}: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
    for (module, name), own in zip(case.settings, before, strict=True):
        setattr(module, name, own)
    fixed = ("none", "plain", "now")
    line = sorted(
        times.items(), key=lambda item: (item[0] not in fixed, fixed.index(item[0]) if item[0] in fixed else item[1])
    )
    print(f"{case.name} (off {off:.1e}):", "; ".join(f"{name} {value:.0f}" for name, value in line), flush=True)
    return {"kernel": case.name, "off": off, "now": [tuple(own) for own in before], "microseconds": times}


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


def random(*shape: int, dtype: torch.dtype = DTYPE, size: float = 1.0) -> Tensor:
    return torch.randn(*shape, device=DEVICE).mul_(size).to(dtype)


def stack(rank: int, parts: int, inputs: int, out: int) -> LayerStack:
    """Adapters whose changes are a tenth as large as the product."""
    return LayerStack(
        random(SLOTS, parts * rank, inputs, size=inputs**-0.5), random(parts, SLOTS, out, rank, size=0.1 * rank**-0.5)
    )


def plainly(layer: LayerStack, states: Tensor) -> Tensor:
    """The inner part by PyTorch."""
    down = layer.down.transpose(1, 2)
    return torch.cat([torch.bmm(states[own], down) for own in halves()])


def halves() -> Iterator[slice]:
    return (slice(first, first + SLOTS) for first in range(0, SEQUENCES, SLOTS))


def term_of(layer: LayerStack, activation: Activation) -> kernels.LowRankTerm:
    return kernels.low_rank_term(activation, *layer, TOKENS)


def downs(rank: int) -> Iterator[Case]:
    """The inner parts: of inputs in FP8 and as they are, of three layers together and of one."""
    states = random(SEQUENCES, TOKENS, DIM)
    rows = states.flatten(0, 1)
    for name, parts in (("qkv", 3), ("one layer", 1)):
        layer = stack(rank, parts, DIM, DIM)
        for kind, activation in (("fp8", Activation(*fp8.quantise(rows))), (WIDE, Activation(rows))):
            yield Case(
                f"down, {name}, {kind}",
                rows[:1],
                None,
                lambda _, layer=layer: plainly(layer, states),
                lambda _, layer=layer, given=activation: term_of(layer, given),
                [(low_rank, "DOWN")],
                DOWN_TILES,
            )


def others(columns: int) -> list[Tiles]:
    """Tiles to try for a kernel that reads a product of so many columns."""
    return [
        Tiles(rows, block, share, warps, stages) for share in SHARES[columns] for rows, block, warps, stages in SHAPES
    ]


def norms(rank: int) -> Iterator[Case]:
    """Norm and rotation of query and key, with the change of the value, and of the query for texts."""
    angles = random(TOKENS, 1, DIM // HEADS // 2, dtype=torch.float32)
    for name, parts, rotary, tiles in (
        ("qkv", 3, (angles.cos(), angles.sin()), "JOINED"), ("text query", 1, None, "ALONE")
    ):  # fmt: skip
        layer, weights = stack(rank, parts, DIM, DIM), tuple(random(DIM) for _ in range(max(1, parts - 1)))
        states = random(SEQUENCES, TOKENS, DIM)
        inputs, given = Activation(states.flatten(0, 1)), (weights, 1e-6, rotary, HEADS)
        yield Case(
            f"norm and rotation, {name}",
            random(SEQUENCES, TOKENS, parts * DIM),
            lambda product, given=given: kernels.norm_rotate(product, *given)[0],
            lambda product, given=given, states=states, layer=layer: kernels.norm_rotate(
                add_low_rank(product, states, layer), *given
            )[0],
            lambda product, given=given, layer=layer, inputs=inputs: kernels.norm_rotate_low_rank(
                product, *given, term_of(layer, inputs)
            )[0],
            [(low_rank_norms, tiles)],
            others(DIM),
        )


def adds(rank: int) -> Iterator[Case]:
    """The change of a product in place."""
    layer, states = stack(rank, 1, DIM, DIM), random(SEQUENCES, TOKENS, DIM)
    inputs = Activation(states.flatten(0, 1))
    yield Case(
        "add in place",
        random(SEQUENCES, TOKENS, DIM),
        None,
        lambda product: add_low_rank(product, states, layer),
        lambda product: kernels.add_low_rank(product, term_of(layer, inputs)),
        [(low_rank, "ADD")],
        others(DIM),
    )


def residuals(rank: int) -> Iterator[Case]:
    """The sum with the hidden states, and the norm after it."""
    layer, states, hidden = stack(rank, 1, DIM, DIM), random(SEQUENCES, TOKENS, DIM), random(SEQUENCES, TOKENS, DIM)
    scale, shift, gate = random(SEQUENCES, 3, DIM, dtype=torch.float32).unbind(1)
    rows = states.flatten(0, 1)
    inputs = {"fp8": Activation(*fp8.quantise(rows)), WIDE: Activation(rows)}

    def normed(values: Tensor, kind: str, term: kernels.LowRankTerm | None = None) -> Tensor:
        pending = PendingResidual(values, gate, term)
        return kernels.add_norm(hidden, pending, scale, shift, 1e-6, modulated=True, fp8=kind == "fp8")[0]

    for kind in ("fp8", WIDE):
        yield Case(
            f"residual and norm, {kind}",
            random(SEQUENCES, TOKENS, DIM),
            lambda product, kind=kind: normed(product, kind),
            lambda product, kind=kind: normed(add_low_rank(product, states, layer), kind),
            lambda product, kind=kind: normed(product, kind, term_of(layer, inputs[kind])),
            [(low_rank, "RESIDUAL")],
            others(DIM),
        )


def gelus(rank: int) -> Iterator[Case]:
    """GELU with the next product's inner part, in FP8 and as it is, which without adapters is part of the product."""
    layer, following = stack(rank, 1, DIM, INNER), stack(rank, 1, INNER, DIM)
    states = random(SEQUENCES, TOKENS, DIM)
    rows = states.flatten(0, 1)
    inputs = {"fp8": Activation(*fp8.quantise(rows)), WIDE: Activation(rows)}

    def plain_fp8(product: Tensor) -> Activation:
        inner = kernels.gelu(add_low_rank(product, states, layer).flatten(0, 1))
        plainly(following, product)  # as large as the copy that it read
        return inner

    def plain(product: Tensor) -> Activation:
        inner = F.gelu(add_low_rank(product, states, layer), approximate="tanh")
        plainly(following, inner)
        return Activation(inner.flatten(0, 1))

    for kind, none, by_passes, tiles in (
        ("fp8", lambda product: kernels.gelu(product.flatten(0, 1)), plain_fp8, ("MEASURE", "QUANTISE")),
        (WIDE, None, plain, ("GELU",)),
    ):
        yield Case(
            f"gelu and down, {kind}",
            random(SEQUENCES, TOKENS, INNER),
            none,
            by_passes,
            lambda product, kind=kind: kernels.gelu_low_rank(
                product, term_of(layer, inputs[kind]), *following, kind == "fp8"
            )[0],
            [(low_rank_gelu, one) for one in tiles],
            others(INNER),
        )


if __name__ == "__main__":
    main()
