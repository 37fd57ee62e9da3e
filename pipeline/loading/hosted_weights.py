"""Weights that stay on the host, in memory from which a GPU copies fast, and are on the device while they are needed.

Nothing is ever copied back, because weights do not change: a part leaves the device by giving up its copy there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from wanbatch.pipeline.loading.host_memory import pin

ALIGNMENT = 256
"""Bytes that each stretch of memory starts at a multiple of."""


class Movable(Protocol):
    """Modules that can be on a device or on the host."""

    def to_device(self) -> None:
        """Have the modules on the device."""

    def to_host(self) -> None:
        """Give up the device's memory."""


@dataclass(slots=True)
class Extent:
    """A stretch of memory without gaps, and the tensors in it.

    Attributes:
        start: Its address.
        end: The address after it.
        tensors: Those that lie in it, overlapping each other.
    """

    start: int
    end: int
    tensors: list[Tensor] = field(default_factory=list)


def extents_of(module: nn.Module) -> list[Extent]:
    """The memory of a module's parameters and buffers; what they share is in it once."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.numel()}
    found: list[Extent] = []
    for tensor in sorted(tensors.values(), key=lambda one: (one.data_ptr(), -_bytes_spanned(one))):
        start, end = tensor.data_ptr(), tensor.data_ptr() + _bytes_spanned(tensor)
        if found and start < found[-1].end and found[-1].tensors[0].device == tensor.device:
            found[-1].end = max(found[-1].end, end)
            found[-1].tensors.append(tensor)
        else:
            found.append(Extent(start, end, [tensor]))
    return found


def size_of(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers; what they share counts once."""
    return sum(extent.end - extent.start for extent in extents_of(module))


class ModuleMover:
    """Modules that torch moves, with all that they are.

    Args:
        module: What moves.
        device: Where it goes.
    """

    def __init__(self, module: nn.Module, device: torch.device):
        self._module, self._device = module, device

    def to_device(self) -> None:
        """Move the modules to the device."""
        self._module.to(self._device)

    def to_host(self) -> None:
        """Move them to the host."""
        self._module.to("cpu")


class HostedWeights:
    """Weights that are copied to a device in one piece from one piece of pinned memory, on a stream of their own.

    Args:
        module: Whose parameters and buffers these are, on the host. They are laid together there, one after the
            other, so that no more than one of them is there twice at a time.
        device: Where they go.

    Attributes:
        pinned: Whether the device copies from the host's memory without a detour.
    """

    def __init__(self, module: nn.Module, device: torch.device):
        self._device = device
        self._places: list[tuple[Tensor, int]] = []  # tensors, and their first bytes
        extents = extents_of(module)
        starts, total = [], 0
        for extent in extents:
            starts.append(total)
            total += -(-(extent.end - extent.start) // ALIGNMENT) * ALIGNMENT
        self._host = torch.empty(total, dtype=torch.uint8)
        self._there: Tensor | None = None
        for start, extent in zip(starts, extents, strict=True):
            self._host[start : start + extent.end - extent.start].copy_(_bytes_of(extent))
            places = [(tensor, start + tensor.data_ptr() - extent.start) for tensor in extent.tensors]
            _show(self._host, places)
            self._places += places
        self.pinned = device.type == "cuda" and pin(self, self._host)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @torch.inference_mode(False)
    def to_device(self) -> None:
        """Have a copy on the device, and the modules use it."""
        there = torch.empty_like(self._host, device=self._device)
        if self._stream is None:
            there.copy_(self._host)
        else:
            working = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(working)  # it may still read what was in this memory
            with torch.cuda.stream(self._stream):
                there.copy_(self._host, non_blocking=True)
            working.wait_stream(self._stream)
        _show(there, self._places)
        self._there = there

    @torch.inference_mode(False)
    def to_host(self) -> None:
        """Have the modules use what is on the host, and give up the copy on the device."""
        _show(self._host, self._places)
        self._there = None


def _bytes_spanned(tensor: Tensor) -> int:
    """From a tensor's first element to its last one."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.size(), tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def _bytes_of(extent: Extent) -> Tensor:
    """All that lies in a stretch of memory, uint8 [bytes]."""
    storage = extent.tensors[0].untyped_storage()
    empty = torch.empty(0, dtype=torch.uint8, device=storage.device)
    return empty.set_(storage, extent.start - storage.data_ptr(), (extent.end - extent.start,), (1,))


def _show(memory: Tensor, places: Iterable[tuple[Tensor, int]]) -> None:
    """Have tensors be what lies in some memory.

    Args:
        memory: uint8 [bytes].
        places: Tensors, each with the first of its bytes.
    """
    for tensor, first in places:
        whole = memory.view(tensor.dtype)
        tensor.data = whole.as_strided(tensor.size(), tensor.stride(), first // tensor.element_size())
