"""Seeds of images: a row's own, or derived from the run's. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def derived_seed(seed: int, row_id: str, variant: int) -> int:
    """The seed of a row that gives none: 63 bits of BLAKE2b over the run's seed, the row's id and the variant."""
    text = f"{seed}\0{row_id}\0{variant}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def seeds_of(seed: int, row_ids: Sequence[str], variants: np.ndarray, given: Sequence[int | None]) -> list[int]:
    """The seed of each image: the row's own plus the variant, or derived."""
    return [
        derived_seed(seed, row_id, variant) if own is None else (own + variant) % 2**63
        for row_id, variant, own in zip(row_ids, variants.tolist(), given, strict=True)
    ]
