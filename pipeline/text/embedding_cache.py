"""Text embeddings on disk, so that the prompts of an earlier run are not encoded again.

One safetensors file a prompt. Its name is a hash of everything that the embedding depends on, so a file is never
out of date: another model, dtype, device or way of encoding looks for another name. A damaged file counts as
missing and is written anew. Nothing is ever removed: the folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wanbatch.errors import UserError
from wanbatch.pipeline.core.tensor_files import save_tensors

NAME = "embedding"


class TextCache:
    """A folder of embeddings, which several processes may share.

    Args:
        folder: Made if it is not there.
        recipe: What an embedding depends on besides the prompt: weights, dtype, device, batches, versions.

    Raises:
        UserError: If the folder cannot be made.
    """

    def __init__(self, folder: Path, recipe: str):
        self.folder, self.recipe = folder, recipe
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"setting text_cache: {folder} cannot be made ({error.strerror or error}): choose another folder"
            ) from error

    @classmethod
    def kept_in(cls, folder: str | None, recipe: Callable[[], str]) -> TextCache | None:
        """The cache in a folder, which may begin with `~`; None: none is kept."""
        return None if folder is None else cls(Path(folder).expanduser(), recipe())

    def path(self, text: str) -> Path:
        """Where the embedding of a cleaned prompt is, or would be."""
        name = hashlib.sha256(f"{self.recipe}\0{text}".encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def get(self, text: str) -> Tensor | None:
        """An embedding [tokens, dim], on the CPU. None if there is none, or it is not whole."""
        path = self.path(text)
        try:
            with safe_open(path, framework="pt") as file:
                embedding = file.get_tensor(NAME)
                whole = (file.metadata() or {}).get("sha256") == _digest(embedding)
        except (OSError, SafetensorError):
            return None
        return embedding if whole else None

    def put(self, text: str, embedding: Tensor) -> None:
        """Store an embedding; readers see all of it or nothing. A full disk only costs the time it would save."""
        path = self.path(text)
        on_cpu = embedding.detach().cpu().contiguous()
        with contextlib.suppress(OSError, SafetensorError):
            path.parent.mkdir(exist_ok=True)
            save_tensors({NAME: on_cpu}, path, {"sha256": _digest(on_cpu)})


def _digest(embedding: Tensor) -> str:
    return hashlib.sha256(embedding.view(torch.uint8).numpy().tobytes()).hexdigest()
