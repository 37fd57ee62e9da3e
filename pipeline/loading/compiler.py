"""What this process can compile, and what the compilers need to know before the first call."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from wanbatch.pipeline.loading.runtime import Runtime, default_compile_cache


def kernels_usable(device: torch.device) -> bool:
    """Whether our own kernels run on a device: a GPU, with Triton installed."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def set_up_compiler(cache: str | None) -> None:
    """What `torch.compile` needs to know in this process, before the first call.

    Args:
        cache: Folder of compiled code; None for the default. Inductor looks there before it compiles, so that a
            second start, or another worker, takes seconds instead of a minute.
    """
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


@contextmanager
def compiler_set_up(runtime: Runtime) -> Iterator[None]:
    """Set the compiler up meanwhile, if there is anything to compile: importing it takes seconds.

    Args:
        runtime: How the model is run.

    Raises whatever `set_up_compiler` raises.
    """
    if not runtime.compile:
        yield
        return
    with ThreadPoolExecutor(1, "compiler") as beside:
        imported = beside.submit(set_up_compiler, runtime.compile_cache)
        yield
        imported.result()
