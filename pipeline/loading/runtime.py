"""How a model is run: compiled or not, in FP8 or not, and where what takes long is kept between runs. No torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from wanbatch.errors import UserError

ADDED, MERGED = "added", "merged"
"""How rows have their adapters: beside the model's weights, or in weights of each slot's own."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Choices that are made before a model is loaded.

    Attributes:
        compile: Compile blocks and VAE, for the exact shapes that come.
        fp8: Run the blocks' large linear layers in FP8.
        int8: Run them in INT8 instead.
        text_fp8: Keep the text encoder's weights in FP8.
        merged_rows: Merge the adapters of rows into weights that each slot has of its own, instead of adding what
            they change to each product.
        compile_cache: Folder of compiled code; None for `default_compile_cache`.
        text_cache: Folder of text embeddings; None to keep them in memory only.
        offload: Let parts leave the device when another needs the room.
        step_cache: What is skipped at which step; see `step_cache.parse`.
    """

    compile: bool = False
    fp8: bool = False
    int8: bool = False
    text_fp8: bool = False
    merged_rows: bool = False
    compile_cache: str | None = None
    text_cache: str | None = None
    offload: bool = False
    step_cache: str = "none"


def default_compile_cache() -> Path:
    """`wanbatch/compile` in the user's cache folder.

    Raises:
        UserError: There is no such folder, since the user has no home.
    """
    if not (cache := os.environ.get("XDG_CACHE_HOME")):
        try:
            cache = str(Path.home() / ".cache")
        except RuntimeError as error:  # a user without a name, as containers have them
            raise UserError(
                "there is no home folder to keep compiled code in: set HOME, XDG_CACHE_HOME or --compile-cache"
            ) from error
    return Path(cache) / "wanbatch" / "compile"
