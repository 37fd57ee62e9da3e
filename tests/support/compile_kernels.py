"""Compiles kernels for a GPU that need not be there: `python compile_kernels.py CAPABILITY RANK`.

A kernel that is asked for is compiled for the arguments that it is given, tensors without memory, and not launched.
Prints a line a kernel: its name and the bytes of shared memory that a program of it takes. Runs in a process of its
own, since Triton's interpreter, which the tests use, takes the place of its compiler in a whole process.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from triton import compile as compiled
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from wanbatch.pipeline.models import kernels
from wanbatch.pipeline.models.adapter_stacks import LayerStack
from wanbatch.pipeline.models.kernels import low_rank_rows
from wanbatch.pipeline.models.kernels.whole_rows import RowTiles

TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float8_e4m3fn: "*fp8e4nv"}
SLOTS, SEQUENCES, TOKENS, DIM, INNER, HEADS = 2, 4, 880, 3072, 14336, 24
FP8_SINCE = 89


def compile_instead(capability: int) -> None:
    """Have kernels compiled, and not launched, from now on in this process."""

    def run(self: Any, *arguments: Any, grid: Any, warmup: bool, num_warps: int, num_stages: int = 3, **named: Any):
        given = dict(zip(self.arg_names, arguments, strict=False)) | named
        signature, constants, attributes = {}, {}, {}
        for index, parameter in enumerate(self.params):
            name, value = parameter.name, given[parameter.name]
            if parameter.is_constexpr or (isinstance(value, int) and value == 1):
                signature[name], constants[(index,)] = "constexpr", value
                continue
            tensor = isinstance(value, torch.Tensor)
            signature[name] = TYPES[value.dtype] if tensor else "fp32" if isinstance(value, float) else "i32"
            if tensor or (isinstance(value, int) and value % 16 == 0):
                attributes[(index,)] = [["tt.divisibility", 16]]
        source = ASTSource(self, signature, constants, attributes)
        options = {"num_warps": num_warps, "num_stages": num_stages}
        made = compiled(source, target=GPUTarget("cuda", capability, 32), options=options)
        print(self.__name__, made.metadata.shared, flush=True)

    JITFunction.run = run


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def choose(rows: RowTiles | None = None) -> None:
    """Have kernels with these tiles used where they can be; None: those of several passes, for all sizes."""
    low_rank_rows.RESIDUAL_ROWS = low_rank_rows.JOINED_ROWS = low_rank_rows.ALONE_ROWS = rows


def ask_for_all(rank: int, fp8: bool) -> None:
    """Every kernel for adapters of rows that is for all sizes, at those of Wan2.2 TI2V-5B."""
    choose()
    wide = kernels.Activation(empty(SEQUENCES * TOKENS, DIM))
    small = kernels.Activation(
        empty(SEQUENCES * TOKENS, DIM, dtype=kernels.FORMAT), empty(SEQUENCES * TOKENS, 1, dtype=torch.float32)
    )
    joined = LayerStack(empty(SLOTS, 3 * rank, DIM), empty(3, SLOTS, DIM, rank))
    first = LayerStack(empty(SLOTS, rank, DIM), empty(1, SLOTS, INNER, rank))
    second = LayerStack(empty(SLOTS, rank, INNER), empty(1, SLOTS, DIM, rank))
    rotary = (empty(TOKENS, 1, DIM // HEADS // 2, dtype=torch.float32),) * 2
    for activation in (wide, small) if fp8 else (wide,):
        term = kernels.low_rank_term(activation, *joined, TOKENS)
        weights = empty(DIM), empty(DIM)
        kernels.norm_rotate_low_rank(empty(SEQUENCES, TOKENS, 3 * DIM), weights, 1e-6, rotary, HEADS, term)
        term = kernels.low_rank_term(activation, *first, TOKENS)
        product = empty(SEQUENCES, TOKENS, INNER)
        _, term = kernels.gelu_low_rank(product, term, *second, activation is small)
        hidden, gate = empty(SEQUENCES, TOKENS, DIM), empty(SEQUENCES, DIM, dtype=torch.float32)
        kernels.add(hidden, kernels.PendingResidual(hidden, gate, term))


def ask_for_rows(rank: int, fp8: bool) -> None:
    """The kernels that have whole rows, of ranks that they take."""
    choose(rows=RowTiles(256, 8, 1))
    rotary = (empty(TOKENS, 1, DIM // HEADS // 2, dtype=torch.float32),) * 2
    hidden, low = empty(SEQUENCES, TOKENS, DIM), empty(1, SEQUENCES * TOKENS, 3 * rank, dtype=torch.float32)
    vectors = empty(SEQUENCES, 3, DIM, dtype=torch.float32).unbind(1)
    term = kernels.LowRankTerm(low, empty(3, SLOTS, DIM, rank))
    kernels.norm_rotate_low_rank(empty(SEQUENCES, TOKENS, 3 * DIM), (empty(DIM),) * 2, 1e-6, rotary, HEADS, term)
    term = kernels.LowRankTerm(low[..., :rank], empty(1, SLOTS, DIM, rank))
    kernels.norm_rotate_low_rank(hidden, (empty(DIM),), 1e-6, None, HEADS, term)
    gate, scale, shift = vectors
    kernels.add_norm(hidden, kernels.PendingResidual(hidden, gate, term), scale, shift, 1e-6, modulated=True, fp8=fp8)
    kernels.add_norm(hidden, kernels.PendingResidual(hidden, None, term), empty(DIM), empty(DIM), 1e-6, fp8=False)


if __name__ == "__main__":
    compile_instead(int(sys.argv[1]))
    ask_for_all(int(sys.argv[2]), fp8=int(sys.argv[1]) >= FP8_SINCE)
    if int(sys.argv[2]) <= 64:
        ask_for_rows(int(sys.argv[2]), fp8=int(sys.argv[1]) >= FP8_SINCE)
