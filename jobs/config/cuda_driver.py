"""What GPUs this process can use, asked of NVIDIA's driver: a command that only hands out work needs no torch for it.

To import torch takes 4 to 5 s on a host with GPUs, in which Ray starts and has to share Python's lock with it. The
driver's library is what torch asks, too, so that names and order are the same, and `CUDA_VISIBLE_DEVICES` holds.
"""

from __future__ import annotations

import ctypes
import importlib.util
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wanbatch.jobs.config.hardware import Hardware, detect_hardware

LIBRARY = "libcuda.so.1"
CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h
NAME_BYTES = 256


def hardware_here(device: str) -> Hardware:
    """What a run on this machine has.

    Args:
        device: `cuda`, `cpu` or `auto`; for `cpu`, and where only torch can tell, torch is imported.
    """
    return (None if device == "cpu" else gpus_by_driver()) or detect_hardware()


def gpus_by_driver(open_library: Callable[[str], Any] = ctypes.CDLL) -> Hardware | None:
    """The GPUs that torch would see here, without its instruction set on the CPU; None: only torch can tell.

    Args:
        open_library: Opens a shared library by its name.
    """
    build = _torch_build()
    if not build.get("cuda"):
        return None  # built for CPUs, or for other GPUs
    try:
        cuda = open_library(LIBRARY)
        _done(cuda.cuInit(0))
        if _number(cuda.cuDriverGetVersion) // 1000 < int(build["cuda"].partition(".")[0]):
            return None  # too old for this build of torch, which says so itself
        count = _number(cuda.cuDeviceGetCount)
        if not count:
            return None
        device = ctypes.c_int()
        _done(cuda.cuDeviceGet(ctypes.byref(device), 0))
        name = ctypes.create_string_buffer(NAME_BYTES)
        _done(cuda.cuDeviceGetName(name, NAME_BYTES, device))
        major, minor = (_number(cuda.cuDeviceGetAttribute, attribute, device) for attribute in CAPABILITY)
    except (OSError, AttributeError, ValueError, _RefusedError):
        return None
    return Hardware(count, (major, minor), name.value.decode(errors="replace"), str(build["__version__"]))


class _RefusedError(Exception):
    """A call of the driver's gave an error."""


def _done(result: int) -> None:
    if result != 0:
        raise _RefusedError(result)


def _number(function: Callable[..., int], *arguments: Any) -> int:
    """What a function of the driver's writes to its first argument."""
    found = ctypes.c_int()
    _done(function(ctypes.byref(found), *arguments))
    return found.value


def _torch_build() -> Mapping[str, Any]:
    """What the installed torch says of its build: `__version__`, `cuda`; empty: it is not as expected."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return {}
    try:
        return runpy.run_path(str(Path(found.origin).with_name("version.py")))
    except Exception:  # noqa: BLE001  whatever such a file may raise: torch itself is asked then
        return {}
