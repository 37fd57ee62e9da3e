"""The kernels that `low_rank.py` measures, with the tiles that it tries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wanbatch.pipeline.models import fp8, kernels
from wanbatch.pipeline.models.adapter_stacks import LayerStack, add_low_rank
from wanbatch.pipeline.models.kernels import (
    Activation,
    PendingResidual,
    low_rank,
    low_rank_gelu,
    low_rank_norms,
    low_rank_rows,
)
from wanbatch.pipeline.models.kernels.low_rank import Tiles
from wanbatch.pipeline.models.kernels.whole_rows import RowTiles

LARGE = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if LARGE else ("cpu", torch.float32)
WIDE = str(DTYPE).removeprefix("torch.")
SLOTS, SEQUENCES, TOKENS, DIM, INNER, HEADS = (8, 16, 880, 3072, 14336, 24) if LARGE else (2, 4, 20, 64, 96, 2)
DOWN_TILES = [
    Tiles(64, 64, 1024, 4, 4),
    Tiles(64, 64, 3072, 4, 4),
    Tiles(64, 128, 1536, 4, 4),
    Tiles(128, 64, 1536, 8, 4),
    Tiles(128, 128, 1536, 8, 3),
]
SHAPES = {DIM: [(64, 64, 4, 4), (32, 128, 4, 3), (64, 128, 8, 2)], INNER: [(64, 64, 4, 3), (64, 64, 4, 4)]}
SHARES = {DIM: [1024, 3072], INNER: [1792, 3584]} if LARGE else {DIM: [32], INNER: [64]}
ROW_TILES = (
    [RowTiles(256, 8, ahead) for ahead in (0, 1, 2, 3)]
    + [RowTiles(512, 8, 0), RowTiles(512, 8, 1), RowTiles(512, 16, 0), RowTiles(512, 16, 1), RowTiles(1024, 16, 0)]
    if LARGE
    else [RowTiles(32, 1, 1)]
)


Found = Tensor | Activation | kernels.LowRankTerm
Work = Callable[[Tensor], Any]
"""Of a product, to which what adapters add is added in place; gives one of `Found`."""
Settings = list[tuple[ModuleType, str, Tiles | RowTiles | None]]
"""Modules and the names of their constants, with what these are set to."""


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
        rows: The name of the tiles of the kernel that has whole rows instead; None: there is none.
    """

    name: str
    product: Tensor
    none: Work | None
    plain: Work
    ours: Work
    settings: list[tuple[ModuleType, str]]
    tiles: list[Tiles]
    rows: str | None = None

    def trials(self) -> Iterator[tuple[str, Settings]]:
        """What is tried: its name in the result and all tiles that are set for it."""
        whole = [] if self.rows is None else [(low_rank_rows, self.rows)]
        yield "now", [(module, name, getattr(module, name)) for module, name in self.settings + whole]
        passes = [(module, name, None) for module, name in whole]
        for tiles in self.tiles:
            yield str(tuple(tiles)), [*((module, name, tiles) for module, name in self.settings), *passes]
        for tiles in ROW_TILES if whole else ():
            yield f"whole rows {tuple(tiles)}", [(module, name, tiles) for module, name in whole]


def cases(rank: int, words: list[str] | None) -> Iterator[Case]:
    """The kernels whose names have one of the words; all of them without words."""
    for make in (downs, residuals, norms, adds, gelus):
        for case in make(rank):
            if not words or any(word in case.name for word in words):
                yield case


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
                [(low_rank, "DOWN_FP8" if kind == "fp8" else "DOWN")],
                DOWN_TILES,
            )


def others(columns: int) -> list[Tiles]:
    """Tiles to try for a kernel that reads a product of so many columns."""
    return [
        Tiles(rows, block, share, warps, stages)
        for share in SHARES[columns]
        for rows, block, warps, stages in SHAPES[columns]
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
            f"{tiles}_ROWS",
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
            "RESIDUAL_ROWS",
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
