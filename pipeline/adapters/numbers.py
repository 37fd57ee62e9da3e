"""Whether the tensors of an adapter file are numbers. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

import numpy as np

from wanbatch.errors import UserError
from wanbatch.pipeline.adapters.header import Header, readable

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
BYTES_AT_ONCE = 1 << 22


def digest_of_numbers(header: Header, keys: Iterable[str]) -> str:
    """Check tensors of an adapter file while its digest is taken, so that the file is read once.

    Args:
        header: Of the file.
        keys: Of the tensors that become weights.

    Returns:
        SHA-256 of the whole file, hex.

    Raises:
        UserError: One holds NaN or infinity, or whole numbers; or the file cannot be read.
    """
    spans = []
    for key in keys:
        kind, (first, last) = header.entries[key]["dtype"], header.entries[key]["data_offsets"]
        if kind not in NOT_FINITE:
            raise UserError(
                f"adapter {header.path}: {key} is of type {kind}, whose scale is nowhere in the file: take the "
                "adapter in bfloat16, float16 or float32"
            )
        spans.append((header.start + first, last - first, kind, key))
    total = hashlib.sha256()
    with readable(header.path) as file:
        for begin, size, kind, key in sorted(spans):
            for piece in _pieces(file, begin - file.tell()):
                total.update(piece)
            finite = True
            for piece in _pieces(file, size):
                total.update(piece)
                finite = finite and _finite(piece, kind)
            if not finite:
                raise UserError(
                    f"adapter {header.path}: {key} holds NaN or infinity, as a training that went wrong leaves it, "
                    "so that no picture could be made with it: take an earlier state of that training"
                )
        for piece in _pieces(file, None):
            total.update(piece)
    return total.hexdigest()


def _pieces(file: BinaryIO, size: int | None) -> Iterator[bytes]:
    """The next bytes of a file, a few at a time; None: all that are left."""
    while piece := file.read(BYTES_AT_ONCE if size is None else min(BYTES_AT_ONCE, size)):
        size = None if size is None else size - len(piece)
        yield piece


def _finite(piece: bytes, kind: str) -> bool:
    form, looked_at, least = NOT_FINITE[kind]
    whole = len(piece) // np.dtype(form).itemsize  # of a file that is cut off meanwhile, too
    return not np.any((np.frombuffer(piece, form, whole) & looked_at) >= least)
