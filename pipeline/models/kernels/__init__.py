"""Triton kernels for what lies between the matrix products of a block: each tensor is read and written once.

Every kernel gives one program a row (a token), so a row's result does not depend on the others. Arithmetic is in
float32, results are rounded once. Where a kernel's output feeds an FP8 layer it is quantised on the way out (one
scale a row, as `fp8.quantise` does), which saves two more passes.

They need a GPU, or Triton's interpreter (`TRITON_INTERPRET=1`) on a CPU, as the tests use it.
"""

from wanbatch.pipeline.models.kernels.activation import gated_gelu, gelu, quantise
from wanbatch.pipeline.models.kernels.attention import attend_text, holds_text
from wanbatch.pipeline.models.kernels.common import FORMAT, Activation, PendingResidual
from wanbatch.pipeline.models.kernels.norms import add, add_norm, norm_rotate

__all__ = [
    "FORMAT",
    "Activation",
    "PendingResidual",
    "add",
    "add_norm",
    "attend_text",
    "gated_gelu",
    "gelu",
    "holds_text",
    "norm_rotate",
    "quantise",
]
