"""Triton kernels for what lies between the matrix products of a block: each tensor is read and written once.

A program has one row (a token), or some rows that share what they read, and no row's result depends on the others.
Arithmetic is in float32, results are rounded once. Where a kernel's output feeds an FP8 layer it is quantised on the
way out (one scale a row, as `fp8.quantise` does), which saves two more passes. What adapters of the rows add is made
by the kernels that read a product's output (`low_rank.py`).

They need a GPU, or Triton's interpreter (`TRITON_INTERPRET=1`) on a CPU, as the tests use it.
"""

from wanbatch.pipeline.models.kernels.activation import gated_gelu, gelu, quantise
from wanbatch.pipeline.models.kernels.attention import attend_text, holds_text
from wanbatch.pipeline.models.kernels.common import FORMAT, Activation, LowRankTerm, PendingResidual
from wanbatch.pipeline.models.kernels.low_rank import add_low_rank, low_rank_term
from wanbatch.pipeline.models.kernels.low_rank_gelu import gelu_low_rank
from wanbatch.pipeline.models.kernels.low_rank_norms import norm_rotate_low_rank
from wanbatch.pipeline.models.kernels.merging import merge_low_rank
from wanbatch.pipeline.models.kernels.norms import add, add_norm, norm_rotate

__all__ = [
    "FORMAT",
    "Activation",
    "LowRankTerm",
    "PendingResidual",
    "add",
    "add_low_rank",
    "add_norm",
    "attend_text",
    "gated_gelu",
    "gelu",
    "gelu_low_rank",
    "holds_text",
    "low_rank_term",
    "merge_low_rank",
    "norm_rotate",
    "norm_rotate_low_rank",
    "quantise",
]
