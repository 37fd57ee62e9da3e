"""Kernels for adapters of rows are compiled for GPUs that are not there, and fit into them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

SCRIPT = Path(__file__).parents[2] / "support" / "compile_kernels.py"
SHARED_MEMORY = {80: 163 << 10, 90: 227 << 10}  # that a program may take on GPUs of these compute capabilities
LEAST_SHARED_MEMORY = 99 << 10  # on those of 8.6, 8.9 and 12.0
LOW_RANK = {"_down", "_add", "_norm_rotate_low_rank", "_gelu_and_down", "_add_residual"}
WHOLE_ROWS = {"_norm_rotate_rows", "_add_norm_rows"}
SUMS_AND_INNER_PART = 4096  # bytes; a chunk that goes through shared memory to change its layout takes 8192


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "rank"), [(80, 16), (89, 128), (90, 32), (90, 128), (90, 256), (120, 64)])
def test_kernels_for_adapters_fit_into_a_gpu(capability, rank):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), str(capability), str(rank)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    taken = [line.split() for line in done.stdout.splitlines()]
    expected = LOW_RANK | ({"_gelu_quantised"} if capability >= 89 else set())
    expected |= WHOLE_ROWS if rank <= 64 else set()
    assert {name for name, _ in taken} == expected
    room = SHARED_MEMORY.get(capability, LEAST_SHARED_MEMORY)
    assert all(0 < int(size) <= room for _, size in taken)
    assert all(int(size) <= SUMS_AND_INNER_PART for name, size in taken if name in WHOLE_ROWS)
