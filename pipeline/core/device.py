"""Between the host and a device: copies that nobody waits for, and times that are true."""

from __future__ import annotations

import resource
import time

import numpy as np
import torch
from torch import Tensor


def synchronized_time(device: torch.device) -> float:
    """Seconds of a clock, read after all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy of an array on the device; on a GPU the host does not wait for it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class PendingRead:
    """A tensor on its way to the host. On a GPU neither side waits until the numbers are asked for.

    Args:
        values: The tensor, which must not change before the numbers were asked for if it is on the host already.
    """

    def __init__(self, values: Tensor):
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = values

    def numbers(self) -> np.ndarray:
        """The values, once they are here."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()


def peak_memory(device: torch.device) -> int:
    """Bytes: of a GPU since the process began, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
