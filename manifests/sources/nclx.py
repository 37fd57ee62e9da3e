"""Colours of HEIC and AVIF files that are given by numbers (`nclx`, ISO/IEC 23091-2) where they have no profile."""

from __future__ import annotations

HEAD_BYTES = 1 << 16
"""How much of a file is looked at: its boxes stand before its pixels."""

_BOX = b"colrnclx"
_PRIMARIES_OF_SRGB = (1, 2, 5, 6, 7)  # BT.709, not said, and those of standard television, which are near
_TRANSFERS_OF_HDR = (16, 18)  # PQ and HLG


def is_not_srgb(head: bytes) -> bool:
    """Whether an image says that its colours are those of a wide gamut (BT.2020, P3, ...) or of HDR.

    Args:
        head: the first `HEAD_BYTES` of a file.
    """
    at = head.find(_BOX)
    if at < 0 or len(head) < at + len(_BOX) + 4:
        return False
    numbers = head[at + len(_BOX) :]
    primaries, transfer = int.from_bytes(numbers[:2], "big"), int.from_bytes(numbers[2:4], "big")
    return primaries not in _PRIMARIES_OF_SRGB or transfer in _TRANSFERS_OF_HDR
