"""What this process can compile, and what the compilers need to know before the first call."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from wanbatch.pipeline.loading.runtime import Runtime, default_compile_cache
from wanbatch.pipeline.models.own_kernels import kernels_usable


def set_up_compiler(cache: str | None) -> None:
    """Say where this process keeps compiled code; before the first kernel is built, and the first call of a compiler.

    Args:
        cache: Folder of compiled code; None for the default. Inductor and Triton look there before they compile, so
            that a second start, or another worker, takes seconds instead of a minute.
    """
    folder = Path(cache) if cache else default_compile_cache()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder.expanduser().absolute())
    os.environ["TRITON_CACHE_DIR"] = str(folder.expanduser().absolute() / "triton")


def set_up_dynamo() -> None:
    """What `torch.compile` needs to know in this process, before its first call. Importing it takes seconds."""
    # Shapes are static, so each size class (height, width, guided, length of the text) is compiled for itself. All
    # blocks share one code object, so these many classes are what dynamo must be ready to hold: its own limit of
    # 8 is meant to catch accidents, and with fullgraph=True going over it is an error.
    torch._dynamo.config.recompile_limit = 1024
    torch._dynamo.config.accumulated_recompile_limit = 4096
    # No choice of a kernel by timing where it changes the order of a sum: workers would differ in the last bits.
    torch._inductor.config.deterministic = True


@contextmanager
def compiler_set_up(runtime: Runtime, device: torch.device) -> Iterator[None]:
    """Set the compiler up; meanwhile import it, where all of the model will need it.

    Args:
        runtime: How the model is run.
        device: Where. With our own kernels there is most often nothing to compile, so nothing is imported.

    Raises whatever `set_up_compiler` and `set_up_dynamo` raise.
    """
    if runtime.compile:
        set_up_compiler(runtime.compile_cache)
    if not runtime.compile or kernels_usable(device):
        yield
        return
    with ThreadPoolExecutor(1, "compiler") as beside:
        imported = beside.submit(set_up_dynamo)
        yield
        imported.result()
