"""Between the host and a device: copies that nobody waits for, and times that are true.

A GPU does its work in order, long after the host has asked for it. Whoever waits for it in between leaves it without
work for as long as the host then takes. So what is read from it is a `PendingRead`, and times are between `Moment`s
in the order of its work.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, replace

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
    if device.type != "cuda":
        return tensor.to(device)
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    np.copyto(pinned.numpy(), array)  # by this thread alone: torch's own copy has all cores wait for each other
    return pinned.to(device, non_blocking=True)


class Moment:
    """A point in the order of a device's work: on a GPU it is reached when all that was asked for before is done.

    Args:
        device: Whose work it is.
    """

    def __init__(self, device: torch.device):
        self._event: torch.cuda.Event | None = None
        self._clock = 0.0
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True, blocking=True)
            self._event.record(torch.cuda.current_stream(device))
        else:
            self._clock = time.perf_counter()

    def seconds_since(self, earlier: Moment) -> float:
        """Seconds from an earlier moment of the same device to this one; waits until it is reached."""
        if self._event is None or earlier._event is None:
            return self._clock - earlier._clock
        self._event.synchronize()
        return earlier._event.elapsed_time(self._event) / 1000


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a device's time, or somebody's share of it.

    Attributes:
        begin: When it begins.
        end: When it ends.
        share: What to multiply it by.
    """

    begin: Moment
    end: Moment
    share: float = 1.0

    @property
    def seconds(self) -> float:
        """Of the share; waits for the end."""
        return self.end.seconds_since(self.begin) * self.share

    def divided(self, among: int) -> Span:
        """The share of one of so many."""
        return replace(self, share=self.share / max(1, among))


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
            self._event = torch.cuda.Event(blocking=True)
            self._event.record()
        else:
            self._host = values

    @property
    def here(self) -> bool:
        """Whether the values can be had without waiting."""
        return self._event is None or self._event.query()

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
