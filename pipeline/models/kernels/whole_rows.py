"""Whole rows of a product that adapters change, in registers: what the kernels of `low_rank_rows.py` are made of.

**Layout.** What a thread gets of a dot on tensor cores (`mma.m16n8k16` of PTX) is not what it loads in one piece of
16 bytes, and bringing one to the other takes shared memory and many barriers. The order of a dot's columns and
summands is free, though. So the columns of `up` are taken in such an order that a thread's results are eight
neighbouring columns of two rows, and the ranks so that its share of `up` is one piece: thread q of four has columns
8 q to 8 q + 7 and ranks 8 q to 8 q + 7 of every `WIDTH`. Chunks are [2, groups, 8, 4, PIECE] here: column 32 a + 8
b + c of row 8 d + e is at [d, a, e, b, c]. They are loaded and written as matrices of pieces, which Triton gives to
threads in that order, so that each group of `WIDTH` columns is with one warp, as the dot has it. Nothing but sums
over columns then crosses threads. If Triton chose otherwise, results would be the same and it would be slow.
`tests/pipeline/models/test_compiled_kernels.py` sees to it.

Rows must be of some chunks of a power of two. Where they cannot be, or what is kept does not fit, there is no
`RowPlan`, and the kernels of several passes are used.
"""

# ruff: noqa: RUF005 - Triton's compiler does not know how to unpack a tuple within another.
# mypy: disable-error-code="assignment, var-annotated"
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

ROWS = tl.constexpr(16)  # of a program, as many as a dot takes
WIDTH = tl.constexpr(32)  # columns of a warp, and ranks of a dot
PIECE = tl.constexpr(8)  # columns of a thread
MOST_WIDTHS = 2  # of `WIDTH` ranks each, whose matrices fit beside what is kept
MOST_CHUNKS = 12  # that are written out in a program
MOST_BYTES = 2**17  # that are kept: half of a processor's registers
SIZE = 2  # bytes of a number, with which a dot on a GPU has the order that is written here


class RowTiles(NamedTuple):
    """How the work of a kernel that has whole rows is cut.

    Attributes:
        columns: Of a chunk at most, a power of two.
        warps: Of a program at most; each has `WIDTH` columns of a chunk, or several times as many.
        ahead: Chunks that are loaded before the one that is worked on.
    """

    columns: int
    warps: int
    ahead: int


@dataclass(frozen=True, slots=True)
class RowPlan:
    """The tiles of one launch.

    Attributes:
        tiles: Whose columns and warps are those of a chunk.
        chunks: Of a row.
        widths: How many times `WIDTH` ranks there are.
    """

    tiles: RowTiles
    chunks: int
    widths: int

    @property
    def constants(self) -> dict[str, int]:
        """What both kernels take of it."""
        tiles = self.tiles
        return {
            "chunk": tiles.columns, "chunks": self.chunks, "widths": self.widths, "ahead": tiles.ahead,
            "warps": tiles.warps, "num_warps": tiles.warps,
        }  # fmt: skip


def row_plan(tiles: RowTiles | None, dim: int, rank: int, product: Tensor) -> RowPlan | None:
    """How a launch is cut, or None where whole rows are not for it.

    Args:
        tiles: None for the kernels of several passes.
        dim: Columns of a row.
        rank: Of the adapters.
        product: With rows of so many columns, or several of them side by side.
    """
    size = product.dtype.itemsize
    if tiles is None or (product.is_cuda and size > SIZE):
        return None
    chunk, widths = math.gcd(dim, tiles.columns), triton.cdiv(rank, WIDTH.value)
    fits = ROWS.value * dim * size <= MOST_BYTES and widths <= MOST_WIDTHS
    if not fits or chunk < WIDTH.value or dim // chunk > MOST_CHUNKS:
        return None
    warps = min(tiles.warps, chunk // WIDTH.value)
    return RowPlan(tiles._replace(columns=chunk, warps=warps), dim // chunk, widths)


@triton.jit
def pieces_of_program(groups: tl.constexpr):
    """The tokens and first columns of the pieces of a program's chunk, [2 * groups * 8 * 4] each."""
    piece = tl.arange(0, 2 * groups * WIDTH)
    token = tl.program_id(0) * ROWS + piece // (groups * WIDTH) * 8 + piece // 4 % 8
    return token, piece // WIDTH % groups * WIDTH + piece % 4 * PIECE


@triton.jit
def load_chunk(states, starts, mask, number, chunk: tl.constexpr):
    """A chunk of a program's rows, [2, groups, 8, 4, PIECE], whose pieces start at these places; zeros if masked."""
    place = (starts + number * chunk)[:, None] + tl.arange(0, PIECE)[None, :]
    x = tl.load(states + place, mask=mask[:, None], other=0.0)
    return tl.reshape(x, (2, chunk // WIDTH, 8, 4, PIECE))


@triton.jit
def store_chunk(out, starts, mask, number, x, chunk: tl.constexpr):
    """Write a chunk to where its pieces start."""
    place = (starts + number * chunk)[:, None] + tl.arange(0, PIECE)[None, :]
    x = tl.reshape(x, (2 * chunk, PIECE)).to(out.dtype.element_ty)
    tl.store(out + place, x, mask=mask[:, None])


@triton.jit
def load_vector(vectors, number, chunk: tl.constexpr):
    """A chunk of a vector, [1, groups, 8, 4, PIECE], float32, loaded by halves: its numbers may have four bytes."""
    piece = tl.arange(0, chunk)
    column = number * chunk + piece // WIDTH * WIDTH + piece % 4 * PIECE
    place = vectors + column[:, None] + tl.arange(0, PIECE // 2)[None, :]
    x = tl.permute(tl.join(tl.load(place), tl.load(place + PIECE // 2)), (0, 2, 1))
    return tl.reshape(x, (1, chunk // WIDTH, 8, 4, PIECE)).to(tl.float32)


@triton.jit
def inner_parts(
    lows, split_stride, row_stride, first_row, tokens, part, rank,
    dtype: tl.constexpr, splits: tl.constexpr, widths: tl.constexpr,
):  # fmt: skip
    """The inner part of a program's rows, [ROWS, WIDTH] for each `WIDTH` ranks, in the dot's order of summands."""
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, WIDTH)
    order = k // 2 % 4 * 8 + k // 16 * 4 + k // 8 % 2 * 2 + k % 2
    low = ()
    for width in tl.static_range(widths):
        ranks = width * WIDTH + order
        place = lows + (first_row + token)[:, None] * row_stride + part * rank + ranks[None, :]
        inside = (token < tokens)[:, None] & (ranks < rank)[None, :]
        total = tl.load(place, mask=inside, other=0.0)
        for split in tl.static_range(1, splits):
            total += tl.load(place + split * split_stride, mask=inside, other=0.0)
        low = low + (total.to(dtype),)
    return low


@triton.jit
def up_chunk(up, number, rank, chunk: tl.constexpr, widths: tl.constexpr, warps: tl.constexpr):
    """A chunk of a slot's `up`, [chunk, WIDTH] for each `WIDTH` ranks, columns in the order of the dot's results."""
    n = tl.arange(0, chunk)
    group = n // (WIDTH * warps) * warps + n // 8 % warps
    column = number * chunk + group * WIDTH + n // 2 % 4 * 8 + n // (8 * warps) % 4 * 2 + n % 2
    matrices = ()
    for width in tl.static_range(widths):
        ranks = width * WIDTH + tl.arange(0, WIDTH)
        place = up + column[:, None] * rank + ranks[None, :]
        matrices = matrices + (tl.load(place, mask=(ranks < rank)[None, :], other=0.0),)
    return matrices


@triton.jit
def change_of_chunk(low, matrices, chunk: tl.constexpr, widths: tl.constexpr, warps: tl.constexpr):
    """What a slot's adapter adds to a chunk of a program's rows, [2, groups, 8, 4, PIECE]."""
    times: tl.constexpr = chunk // (WIDTH * warps)
    x = tl.zeros((ROWS, chunk), dtype=tl.float32)
    for width in tl.static_range(widths):
        matrix = tl.permute(tl.reshape(matrices[width], (chunk, 4, 2, 2, 2)), (0, 2, 3, 1, 4))
        matrix = tl.trans(tl.reshape(matrix, (chunk, WIDTH)))
        x = tl.dot(low[width], matrix, x, input_precision="ieee")
    x = tl.permute(tl.reshape(x, (2, 8, times, 4, warps, 4, 2)), (0, 2, 4, 1, 5, 3, 6))
    return tl.reshape(x, (2, times * warps, 8, 4, PIECE))


@triton.jit
def over_columns(x, largest: tl.constexpr):
    """Sums over a chunk's columns, or the largest numbers, [2, 1, 8, 1, 1]."""
    if largest:
        x = tl.max(tl.max(tl.max(x, axis=4), axis=3), axis=1)
    else:
        x = tl.sum(tl.sum(tl.sum(x, axis=4), axis=3), axis=1)
    return x[:, None, :, None, None]


@triton.jit
def factor_and_offset(kept, eps, centred: tl.constexpr, chunk: tl.constexpr, chunks: tl.constexpr):
    """What rows are multiplied by and what is added then to make their norm, [2, 1, 8, 1, 1] each.

    That this is not `(x - mean) * factor` keeps the compiler from keeping `x - mean` of whole rows in registers.
    """
    mean = 0.0
    if centred:
        total = tl.zeros((2, chunk // WIDTH, 8, 4, PIECE), dtype=tl.float32)
        for number in tl.static_range(chunks):
            total += kept[number].to(tl.float32)
        mean = over_columns(total, False) / (chunk * chunks)
    squares = tl.zeros((2, chunk // WIDTH, 8, 4, PIECE), dtype=tl.float32)
    for number in tl.static_range(chunks):
        x = kept[number].to(tl.float32) - mean
        squares += x * x
    factor = tl.rsqrt(over_columns(squares, False) / (chunk * chunks) + eps)
    return factor, -mean * factor
