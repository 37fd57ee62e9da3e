"""Whether the tensors of an adapter file are numbers. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from wanbatch.errors import UserError
from wanbatch.pipeline.adapters.header import tensor_entries

NOT_FINITE: Mapping[str, tuple[str, int, int]] = {
    "F64": ("<u8", 0x7FFF << 48, 0x7FF0 << 48),
    "F32": ("<u4", 0x7FFFFFFF, 0x7F800000),
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "BF16": ("<u2", 0x7FFF, 0x7F80),
    "F8_E5M2": ("<u1", 0x7F, 0x7C),
    "F8_E4M3": ("<u1", 0x7F, 0x7F),
}
"""By types of safetensors: how bits are read, which of them are looked at, and from which value on these are NaN or
infinity. The sign is left out; what has all bits of the exponent set is no number (IEEE 754), in F8_E4M3 only if all
others are set, too (OCP's 8-bit formats)."""
AT_ONCE = 1 << 24


def check_numbers(path: Path, keys: Iterable[str]) -> None:
    """Check tensors of an adapter file.

    Args:
        path: The file.
        keys: Of the tensors that become weights.

    Raises:
        UserError: One holds NaN or infinity, or whole numbers.
    """
    entries, start = tensor_entries(path)
    for key in keys:
        kind, (first, last) = entries[key]["dtype"], entries[key]["data_offsets"]
        if kind not in NOT_FINITE:
            raise UserError(
                f"adapter {path}: {key} is of type {kind}, whose scale is nowhere in the file: take the adapter in "
                "bfloat16, float16 or float32"
            )
        if first < last and not _finite(path, kind, start + first, last - first):
            raise UserError(
                f"adapter {path}: {key} holds NaN or infinity, as a training that went wrong leaves it, so that no "
                "picture could be made with it: take an earlier state of that training"
            )


def _finite(path: Path, kind: str, offset: int, size: int) -> bool:
    form, looked_at, least = NOT_FINITE[kind]
    bits = np.memmap(path, np.dtype(form), "r", offset, (size // np.dtype(form).itemsize,))
    parts = (bits[begin : begin + AT_ONCE] for begin in range(0, len(bits), AT_ONCE))
    return not any(np.any((part & looked_at) >= least) for part in parts)
