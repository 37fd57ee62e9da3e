"""Offloading: groups of a model's modules that take turns in a GPU's memory, where it has no room for all of them.

There are two groups: `text` (the text encoder) and `picture` (transformer and VAE, which work in turn within a
unit). A group stays where it is until another needs the room, so with enough memory nothing ever moves, and while
no new prompt comes the text encoder does not come back. A group is never split.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from wanbatch.errors import UserError

GIB = 1 << 30
# Bytes that a group works in, besides its weights: activations, and what the allocator cannot use.
WORKING_BYTES = {"text": GIB, "picture": 3 * GIB}


def missing_bytes(
    wanted: str, resident: Sequence[str], sizes: Mapping[str, int], free: int, working: Mapping[str, int]
) -> int:
    """The bytes that a device lacks for a group to work there beside all that is there; see `groups_to_offload`."""
    return working[wanted] + (0 if wanted in resident else sizes[wanted]) - free


def groups_to_offload(
    wanted: str, resident: Sequence[str], sizes: Mapping[str, int], free: int, working: Mapping[str, int]
) -> list[str]:
    """The groups that must leave the device before one can work there.

    Args:
        wanted: The group that is to work.
        resident: Those on the device, least recently used first.
        sizes: Bytes of each group's weights.
        free: Bytes of the device that nothing uses.
        working: Bytes that each group works in.

    Raises:
        UserError: If the group does not fit even alone.
    """
    needed = missing_bytes(wanted, resident, sizes, free, working)
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


class Offloader:
    """Moves groups of modules between the host and a device. All begin on the host.

    Args:
        groups: The modules, by the groups' names.
        device: Where they work.
        free: Gives the bytes of the device that nothing uses, now.
        working: Bytes that each group works in.
        make_room: Gives up what else is held on the device, and what was recorded of where the modules are. Called
            before anything leaves.

    Attributes:
        resident: The groups on the device, least recently used first.
        moves: How often a group was moved to the device.
    """

    def __init__(
        self,
        groups: Mapping[str, nn.Module],
        device: torch.device,
        free: Callable[[], int],
        working: Mapping[str, int] = WORKING_BYTES,
        make_room: Callable[[], None] = lambda: None,
    ):
        self._groups, self._device, self._free, self._working = dict(groups), device, free, working
        self._make_room = make_room
        self._sizes = {name: size_of(group) for name, group in groups.items()}
        self.resident: list[str] = []
        self.moves = 0

    @property
    def all_fit(self) -> bool:
        """Whether all groups fit at once beside what each works in; meant for before anything has moved."""
        return sum(self._sizes.values()) + max(self._working[name] for name in self._groups) <= self._free()

    def ensure_on_device(self, name: str) -> None:
        """Have a group on the device, and offload others if there is no room beside them.

        Raises:
            UserError: If it does not fit even alone.
        """
        if self._missing(name) > 0:
            self._make_room()
        for other in groups_to_offload(name, self.resident, self._sizes, self._free(), self._working):
            self._groups[other].to("cpu")
            self.resident.remove(other)
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        if name in self.resident:
            self.resident.remove(name)
        else:
            self._groups[name].to(self._device)
            self.moves += 1
        self.resident.append(name)

    def _missing(self, name: str) -> int:
        return missing_bytes(name, self.resident, self._sizes, self._free(), self._working)


def size_of(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers; what they share counts once."""
    tensors = [*module.parameters(), *module.buffers()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that this process may still use: free ones, and those that its allocator holds unused.

    On a CPU, as many as there can be: nothing is ever offloaded from there.
    """
    if device.type != "cuda":
        return sys.maxsize
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    return min(free + held, int(total * share) - torch.cuda.memory_allocated(device))
