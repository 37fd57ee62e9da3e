"""Offloading: groups of a model's modules that take turns in a GPU's memory, where it has no room for all of them.

`residency.py` decides which do. A group stays where it is until others need the room, so with enough memory nothing
ever moves, and while no new prompt comes the text encoder does not come back. A group is never split.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import nn

from wanbatch.errors import UserError
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.loading.hosted_weights import HostedWeights, ModuleMover, Movable, size_of
from wanbatch.pipeline.loading.residency import GIB, Residency, plan_residency


def groups_to_offload(
    wanted: Collection[str], resident: Sequence[str], sizes: Mapping[str, int], missing: int
) -> list[str]:
    """The groups that must leave the device before others can work there: the fewest bytes that make enough room.

    Args:
        wanted: The groups that are to work together.
        resident: Those on the device, least recently used first, who leave first where it makes no difference.
        sizes: Bytes of each group's weights.
        missing: Bytes that the device lacks.

    Raises:
        UserError: If there is too little room even without all others.
    """
    if missing <= 0:
        return []
    others = [name for name in resident if name not in wanted]
    for leaving in sorted(
        (chosen for count in range(1, len(others) + 1) for chosen in combinations(others, count)),
        key=lambda chosen: sum(sizes[name] for name in chosen),
    ):
        if sum(sizes[name] for name in leaving) >= missing:
            return list(leaving)
    lacking = (missing - sum(sizes[name] for name in others)) / GIB
    parts = " and ".join(repr(name) for name in wanted)
    raise UserError(
        f"the GPU has no room for the part {parts} of the model: {lacking:.1f} GiB too little; use a larger GPU, a "
        "smaller model or --precision fp8"
    )


class Moved(NamedTuple):
    """What was moved to a device.

    Attributes:
        moves: How many groups were, one of them as often as it came.
        seconds: That these and making room for them took.
    """

    moves: int = 0
    seconds: float = 0.0


class Offloader:
    """Moves groups of modules between the host and a device. All begin on the host.

    Args:
        groups: The modules, by the groups' names.
        device: Where they work.
        free: Gives the bytes of the device that nothing uses, now.
        working: Bytes that each kind of work needs, as of `residency.plan_residency`.
        make_room: Gives up what else is held on the device, and what was recorded of where the modules are. Called
            before anything leaves.

    Attributes:
        residency: Which groups take turns.
        resident: The groups on the device, least recently used first.
        moved: All that was moved so far.

    Raises:
        UserError: Not even one group at a time fits.
    """

    def __init__(
        self,
        groups: Mapping[str, nn.Module],
        device: torch.device,
        free: Callable[[], int],
        working: Mapping[str, int],
        make_room: Callable[[], None] = lambda: None,
    ):
        self._device, self._free, self._working = device, free, dict(working)
        self._make_room = make_room
        self._modules = dict(groups)
        self._sizes = {name: size_of(group) for name, group in groups.items()}
        self._groups: dict[str, Movable] = {}
        self.resident: list[str] = []
        self.moved = Moved()
        self.residency = self.plan()

    @property
    def pinned(self) -> bool:
        """Whether all that takes turns is in memory that the device copies from without a detour."""
        return bool(self._groups) and all(getattr(group, "pinned", False) for group in self._groups.values())

    def to_host(self) -> None:
        """Have all groups on the host."""
        for name in self.resident:
            self._groups[name].to_host()
        self.resident.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def plan(self) -> Residency:
        """Decide which groups take turns, by the memory that is free when all are on the host, where they go first.

        Raises:
            UserError: Not even one group at a time fits.
        """
        self.to_host()
        self.residency = plan_residency(self._sizes, self._working, self._free())
        hosted = self.residency.moves and self._device.type != "meta"
        kind = HostedWeights if hosted else ModuleMover
        if not all(isinstance(self._groups.get(name), kind | HostedWeights) for name in self._modules):
            self._groups = {name: kind(group, self._device) for name, group in self._modules.items()}
        return self.residency

    def ensure_on_device(self, names: Sequence[str], work: str) -> None:
        """Have groups on the device that work together, and offload others if there is no room beside them.

        Args:
            names: The groups.
            work: What is to be done, a key of `working`.

        Raises:
            UserError: If there is no room for them even without all others.
        """
        coming = [name for name in names if name not in self.resident]
        missing = self._working[work] + sum(self._sizes[name] for name in coming) - self._free()
        begin = synchronized_time(self._device) if coming or missing > 0 else None
        if missing > 0:
            self._make_room()
            missing = self._working[work] + sum(self._sizes[name] for name in coming) - self._free()
        for other in groups_to_offload(names, self.resident, self._sizes, missing):
            self._groups[other].to_host()
            self.resident.remove(other)
        if begin is not None and self._device.type == "cuda":
            torch.cuda.empty_cache()
        for name in coming:
            self._groups[name].to_device()
            self.resident.append(name)  # now: the next one may fail
        self.resident = [*(name for name in self.resident if name not in names), *names]
        if begin is not None:
            seconds = synchronized_time(self._device) - begin
            self.moved = Moved(self.moved.moves + len(coming), self.moved.seconds + seconds)


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
