"""Parts of the model that take turns in a GPU's memory, where it has no room for all of them.

There are two parts: `text` (the text encoder) and `picture` (transformer and VAE, which work in turn within a
unit). A part stays where it is until another needs the room, so with enough memory nothing ever moves, and with
an empty queue of new prompts the text encoder does not come back. It does not split a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from wanbatch.errors import UserError

GIB = 1 << 30
# Memory that a part works in, besides its weights: activations, and what the allocator cannot use.
WORKING = {"text": GIB, "picture": 3 * GIB}


def to_leave(
    wanted: str, resident: Sequence[str], sizes: Mapping[str, int], free: int, working: Mapping[str, int]
) -> list[str]:
    """The parts that must leave the device before one can work there.

    wanted: the part. resident: those on the device, least recently used first. sizes: bytes of their weights.
    free: bytes of the device that nothing uses. working: bytes that a part works in.
    Raises UserError if it does not fit even alone.
    """
    needed = working[wanted] + (0 if wanted in resident else sizes[wanted]) - free
    leaving = []
    for name in resident:
        if needed <= 0:
            break
        if name != wanted:
            leaving.append(name)
            needed -= sizes[name]
    if needed > 0:
        raise UserError(
            f"the GPU has no room for the part {wanted!r} of the model: {needed / GIB:.1f} GiB too little; use a "
            "larger GPU, a smaller model or --precision fp8"
        )
    return leaving


class Residency:
    """Which parts are on the device. All begin on the host.

    free: bytes of the device that nothing uses, now.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        device: torch.device,
        free: Callable[[], int],
        working: Mapping[str, int] = WORKING,
    ):
        self.parts, self.device, self.free, self.working = dict(parts), device, free, working
        self.sizes = {name: size_of(part) for name, part in parts.items()}
        self.resident: list[str] = []  # least recently used first
        self.moves = 0  # to the device

    @property
    def together(self) -> bool:
        """Whether all parts fit at once beside what each works in; meant for before anything has moved."""
        return sum(self.sizes.values()) + max(self.working[name] for name in self.parts) <= self.free()

    def need(self, name: str) -> None:
        """Have a part on the device. Raises UserError if there is no room for it."""
        for other in to_leave(name, self.resident, self.sizes, self.free(), self.working):
            self.parts[other].to("cpu")
            self.resident.remove(other)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        if name in self.resident:
            self.resident.remove(name)
        else:
            self.parts[name].to(self.device)
            self.moves += 1
        self.resident.append(name)


def size_of(part: nn.Module) -> int:
    """Bytes of a module's parameters and buffers; what they share counts once."""
    tensors = [*part.parameters(), *part.buffers()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that this process may still use: free ones, and those that its allocator holds unused."""
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    return min(free + held, int(total * share) - torch.cuda.memory_allocated(device))
