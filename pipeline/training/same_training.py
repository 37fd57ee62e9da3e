"""A training's folder says which training it holds, so that no other one goes on in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wanbatch.errors import UserError

TRAINING_FILE = "training.json"


def ensure_same_training(
    out: Path,
    said: Mapping[str, Any],
    words: Mapping[str, str],
    defaults: Mapping[str, Any] = MappingProxyType({}),
    file: Path | None = None,
) -> None:
    """Write what a folder's training is, or compare it with what an earlier run wrote.

    Args:
        out: The folder; it exists. Or what is given as `--out`, whatever it is.
        said: Plain values by which a training is told from others.
        words: What to call one that differs, for those whose values tell a user nothing.
        defaults: What a training had that does not say, since it was begun before there was the value.
        file: That keeps it; None: `TRAINING_FILE` in the folder.

    Raises:
        UserError: If the folder is of another training, or its file is damaged.
    """
    file = file or out / TRAINING_FILE
    if not file.exists():
        unfinished = file.with_suffix(".new")
        unfinished.write_text(json.dumps(said, indent=1) + "\n")
        unfinished.replace(file)
        return
    try:
        before = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file}: is damaged ({error}): give another folder with --out") from error
    for key, value in json.loads(json.dumps(said)).items():
        had = before.get(key, defaults.get(key))
        if value != had:
            told = words.get(key, f"{key.replace('_', ' ')} {had}, not {value}")
            raise UserError(f"{out}: has a training with {told}: give what it was begun with, or another --out")
