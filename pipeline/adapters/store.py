"""The adapters that rows may name, in the memory of the host, and those that were used last on the device."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wanbatch.pipeline.adapters.tensors import AdapterTensors

DEVICE_BYTES = 2 << 30  # of adapters that are kept on the device besides those in the slots
SMALLEST_RANK = 16  # of stacks; smaller ones save no time on a GPU

Pairs = Mapping[str, tuple[Tensor, Tensor]]


def stack_rank(rank: int) -> int:
    """The rank of the stacks for adapters of some rank together: the next power of two.

    It follows from the row alone, so that what else a run knows changes no bits; and there are few, so that rows of
    different ranks share batches.
    """
    return max(SMALLEST_RANK, 1 << (rank - 1).bit_length())


@dataclass(frozen=True, slots=True, eq=False)
class AppliedAdapters:
    """The adapters of a row; the `RowAdapters` of `core/samples.py`."""

    key: Hashable
    rank: int
    _store: AdapterStore = field(repr=False)

    def pairs(self, expert: int) -> Pairs:
        """What a transformer gets, on the device: one pair a layer, with all ranks after each other."""
        return self._store.joined(self.key, expert)


class AdapterStore:
    """Adapters by name, for the rows of a worker.

    Args:
        adapters: Name -> what each transformer gets, and the weight that a row's own is multiplied with; only
            low-rank pairs are used, see `Contents.only_merged`.
        device: Where rows need them.
        dtype: Of the model.
        device_bytes: What may stay on the device between rows, least recently used out first.
    """

    def __init__(
        self,
        adapters: Mapping[str, tuple[Sequence[AdapterTensors], float]],
        device: torch.device,
        dtype: torch.dtype,
        device_bytes: int = DEVICE_BYTES,
    ):
        self._device, self._device_bytes = device, device_bytes
        self._host: dict[tuple[str, int], dict[str, tuple[Tensor, Tensor]]] = {}
        self._ranks: dict[str, int] = {}
        self._weights = {name: weight for name, (_, weight) in adapters.items()}
        for name, (experts, _) in adapters.items():
            for index, tensors in enumerate(experts):
                self._host[name, index] = {
                    layer: (_pinned(pair.down.to(dtype), device), _pinned((pair.scale * pair.up.float()), device))
                    for layer, pair in tensors.pairs.items()
                }
            ranks = [len(pair.down) for tensors in experts for pair in tensors.pairs.values()]
            self._ranks[name] = max(ranks, default=0)
        self._dtype = dtype
        self._resident: OrderedDict[tuple[Hashable, int], Pairs] = OrderedDict()  # least recently used first
        self._bytes = 0

    def applied(self, wanted: Sequence[tuple[str, float]]) -> AppliedAdapters | None:
        """The adapters of a row, by names and weights; None for none."""
        if not wanted:
            return None
        rank = stack_rank(sum(self._ranks[name] for name, _ in wanted))
        return AppliedAdapters(tuple((name, self._weights[name] * own) for name, own in wanted), rank, self)

    @property
    def resident(self) -> list[tuple[Hashable, int]]:
        """Adapters of rows, with the transformer, that are on the device, least recently used first."""
        return list(self._resident)

    def joined(self, wanted: Hashable, expert: int) -> Pairs:
        """Pairs of several adapters as one a layer, on the device; the weights go into `up`, rounded once."""
        key = wanted, expert
        if key not in self._resident:
            self._resident[key] = self._made(wanted, expert)
            self._bytes += _bytes(self._resident[key])
        self._resident.move_to_end(key)
        while self._bytes > self._device_bytes and len(self._resident) > 1:
            _, gone = self._resident.popitem(last=False)
            self._bytes -= _bytes(gone)
        return self._resident[key]

    def _made(self, wanted: Hashable, expert: int) -> Pairs:
        assert isinstance(wanted, tuple)
        given = [(self._host[name, expert], weight) for name, weight in wanted]
        pairs = {}
        for layer in dict.fromkeys(layer for layers, _ in given for layer in layers):
            parts = [(layers[layer], weight) for layers, weight in given if layer in layers]
            downs = [down.to(self._device, non_blocking=True) for (down, _), _ in parts]
            ups = [weight * up.to(self._device, non_blocking=True) for (_, up), weight in parts]
            pairs[layer] = torch.cat(downs), torch.cat(ups, dim=1).to(self._dtype)
        return pairs


def _pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """In memory that a GPU copies from on its own, where there is one."""
    tensor = tensor.contiguous()
    return tensor.pin_memory() if device.type == "cuda" else tensor


def _bytes(pairs: Pairs) -> int:
    return sum(tensor.nbytes for pair in pairs.values() for tensor in pair)
