"""How a model is run: compiled or not, in FP8 or not, and where what takes long is kept between runs."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Runtime:
    """Choices that are made before a model is loaded.

    Attributes:
        compile: Compile blocks and VAE, for the exact shapes that come.
        fp8: Run the blocks' large linear layers in FP8.
        compile_cache: Folder of compiled code; None for `default_compile_cache`.
        text_cache: Folder of text embeddings; None to keep them in memory only.
        offload: Let parts leave the device when another needs the room.
        step_cache: What is skipped at which step; see `step_cache.parse`.
    """

    compile: bool = False
    fp8: bool = False
    compile_cache: str | None = None
    text_cache: str | None = None
    offload: bool = False
    step_cache: str = "none"


def kernels_usable(device: torch.device) -> bool:
    """Whether our own kernels run on a device: a GPU, with Triton installed."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def default_compile_cache() -> Path:
    """`wanbatch/compile` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wanbatch" / "compile"


def set_up_compiler(cache: str | None) -> None:
    """What `torch.compile` needs to know in this process, before the first call.

    Args:
        cache: Folder of compiled code; None for the default. Inductor looks there before it compiles, so that a
            second start, or another worker, takes seconds instead of a minute.
    """
    import torch

    folder = Path(cache) if cache else default_compile_cache()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder.expanduser().absolute())
    os.environ["TRITON_CACHE_DIR"] = str(folder.expanduser().absolute() / "triton")
    # Shapes are static, so each size class (height, width, guided, length of the text) is compiled for itself. All
    # blocks share one code object, so these many classes are what dynamo must be ready to hold: its own limit of
    # 8 is meant to catch accidents, and with fullgraph=True going over it is an error.
    torch._dynamo.config.recompile_limit = 1024
    torch._dynamo.config.accumulated_recompile_limit = 4096
    # No choice of a kernel by timing where it changes the order of a sum: workers would differ in the last bits.
    torch._inductor.config.deterministic = True
