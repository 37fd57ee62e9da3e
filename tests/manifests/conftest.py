"""Fixtures for the tests of `wanbatch.manifests`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wanbatch.errors import ManifestError
from wanbatch.manifests.reading.manifest import read_manifest


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows (objects, or lines as text or bytes) to shop.jsonl."""

    def write(*rows: dict | str | bytes, name: str = "shop.jsonl") -> Path:
        lines = [json.dumps(row) if isinstance(row, dict) else row for row in rows]
        raw = [line.encode() if isinstance(line, str) else line for line in lines]
        path = tmp_path / name
        path.write_bytes(b"\n".join(raw) + b"\n")
        return path

    return write


@pytest.fixture
def problems() -> Callable[..., list[str]]:
    """The problems of a bad manifest, with the folder's name taken out."""

    def read(path: Path, **options) -> list[str]:
        with pytest.raises(ManifestError) as caught:
            read_manifest(path, **options)
        assert caught.value.exit_code == 2
        return [str(problem).replace(f"{path.parent}/", "") for problem in caught.value.problems]

    return read


@pytest.fixture
def gradient() -> np.ndarray:
    """uint8 [24, 40, 3]; no two rotations or mirrorings of it are equal."""
    y, x = np.mgrid[0:24, 0:40]
    return np.stack([x * 6, y * 10, (x + y) * 3], axis=-1).astype(np.uint8)
