"""Writing tensors to files, whole or not at all, for whoever may read the other files of their folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file; readers see all of it or what was there before.

    It gets the permissions of any new file. safetensors by itself lets nobody but the user read what it writes, and
    nodes of a cluster may run as others.

    Args:
        tensors: contiguous ones that share no memory, by their names.
        path: of the file, in a folder that is there.
        metadata: what the header says.

    Raises:
        OSError, SafetensorError: It cannot be written.
    """
    path = Path(path)
    draft = path.with_name(f"{path.name}-{uuid.uuid4().hex}.tmp")  # another process may write the same file
    try:
        draft.touch()
        usual = draft.stat().st_mode
        save_file(dict(tensors), draft, dict(metadata) if metadata is not None else None)
        with suppress(OSError):  # a file system without permissions
            draft.chmod(usual)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
