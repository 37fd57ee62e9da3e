"""Files that keep what a training needs to be gone on with: whole, and on the disk before they have their names."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from wanbatch.errors import UserError


def save_state(state: Any, path: Path) -> None:
    """Write a state whole, then put it in place of the one before.

    Args:
        state: What `torch.save` takes.
        path: Of the file.
    """
    unfinished = path.with_suffix(".new")
    with unfinished.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def load_state(path: Path, device: torch.device | str = "cpu") -> Any:
    """What `save_state` wrote.

    Args:
        path: Of the file.
        device: Where its tensors go.

    Raises:
        UserError: If the file is damaged.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise UserError(f"{path}: is damaged: remove it, and what it kept is made anew") from error
