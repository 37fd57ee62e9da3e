"""What the tests of faults look for in the folder of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Set
from pathlib import Path

import numpy as np
from job_making import commit_records, pictures, rows_by_id

from wanbatch.jobs.planning.seeds import derived_seed


def expected_hashes(*names: str, size: int = 32) -> dict[str, str]:
    """id -> hash of the pixels that fake_pipelines.py makes of a row without a source, worked out here."""
    return {name: hashlib.sha256(_noise(derived_seed(0, name, 0), size).tobytes()).hexdigest() for name in names}


def _noise(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def require_whole(out: Path, made: Set[str], quarantined: Set[str] = frozenset(), size: int = 32) -> None:
    """Every row is in exactly one place, once; readers, commits and pixels agree."""
    data = rows_by_id(out) if made else {}
    assert set(data) == made
    assert pictures(out) == expected_hashes(*made, size=size) if made else True
    assert {name: row["sha256"] for name, row in data.items()} == expected_hashes(*made, size=size)
    assert (set(rows_by_id(out, "timings")) if made else set()) == made
    assert (set(rows_by_id(out, "failures")) if quarantined else set()) == quarantined
    records = commit_records(out)
    committed = [name for record in records for name in (*record["ids"], *record["failed"])]
    assert sorted(committed) == sorted(made | quarantined)
    assert not (made & quarantined)
