"""The adapters that rows may name, in the memory of the host, and those that rows need or used last on the device.

They come to the device on a stream of their own: when a row needs them at the latest, but before, while other rows
are computed, if whoever prepares rows says so (`AdapterStore.expect`).
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wanbatch.pipeline.adapters.copying import PIECE_BYTES, SideStream, rows_in_pieces
from wanbatch.pipeline.adapters.host_adapters import (
    HostAdapter,
    Pairs,
    joined_forms,
    pinned_share,
    views,
    views_of_parts,
)
from wanbatch.pipeline.adapters.residents import Residents
from wanbatch.pipeline.adapters.tensors import AdapterTensors
from wanbatch.pipeline.core.requests import ComingRow

_log = logging.getLogger(__name__)

DEVICE_BYTES = 2 << 30
"""Of adapters that are kept on the device besides those in the slots."""

EXPECTED_PART = 3 / 4
"""Of these that adapters of expected rows may hold; the rest is for those that come when a row needs them."""

MOST_SHORTAGES = 4
"""How often the device may lack memory before adapters come only when rows need them: each attempt makes torch free
what it has cached, for which the model's work waits."""

SMALLEST_RANK = 16
"""Of stacks; smaller ones save no time on a GPU."""

Weighted = tuple[tuple[str, float], ...]
"""Adapters of a row with their weights."""


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
    _row: str | None = None  # whose they are

    def pairs(self, expert: int) -> Pairs:
        """What a transformer gets, on the device: one pair a layer, with all ranks after each other."""
        return self._store.joined(self.key, expert)

    def entered(self, expert: int) -> None:
        """Take note that the row has what it needs of a transformer's."""
        self._store.entered(self._row, self.key, expert)


@dataclass(slots=True)
class _Coming:
    """A row that is expected.

    Attributes:
        holder: Who expects it.
        entered: The transformers that it has entered.
    """

    holder: Hashable
    entered: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True, eq=False)
class _Joined:
    """Adapters of a row on the device.

    Attributes:
        pairs: One a layer.
        memory: What they lie in.
        made: When they are there; None: they are.
    """

    pairs: Pairs
    memory: tuple[Tensor, Tensor]
    made: torch.cuda.Event | None


class AdapterStore:
    """Adapters by name, for the rows of a worker. Its methods may be called by any thread.

    Args:
        adapters: Name -> what each transformer gets, and the weight that a row's own is multiplied with; only
            low-rank pairs are used, see `Contents.only_merged`.
        device: Where rows need them.
        dtype: Of the model.
        device_bytes: What may stay on the device between rows, least recently used out first.
        pinned_bytes: What is pinned of the host's memory at most, the first adapters first; the others get to the
            device through a small pinned piece. None: see `pinned_share`.
        boundary: The second transformer takes noise levels below it; None: there is one.
        exact: Keep and give them in float32, for what merges them into weights.

    Attributes:
        failures: How often what was expected could not be brought, by the class of the error.
    """

    def __init__(
        self,
        adapters: Mapping[str, tuple[Sequence[AdapterTensors], float]],
        device: torch.device,
        dtype: torch.dtype,
        device_bytes: int = DEVICE_BYTES,
        pinned_bytes: int | None = None,
        boundary: float | None = None,
        exact: bool = False,
    ):
        dtype = torch.float32 if exact else dtype
        self._device, self._dtype, self._side = device, dtype, SideStream(device)
        self._weights = {name: weight for name, (_, weight) in adapters.items()}
        self._host: dict[str, list[HostAdapter]] = {}
        left = (pinned_share(device) if adapters else 0) if pinned_bytes is None else pinned_bytes
        for name, (experts, _) in adapters.items():
            made: dict[int, HostAdapter] = {}  # a file may give both transformers the same
            for tensors in experts:
                if id(tensors) not in made:
                    made[id(tensors)] = HostAdapter(tensors, dtype, left)
                    left -= made[id(tensors)].pinned_bytes
            self._host[name] = [made[id(tensors)] for tensors in experts]
        self._fetcher = ThreadPoolExecutor(1, "adapters")
        self._shortages, self._paused = 0, False
        self._boundary = boundary or 0.0
        self._coming: dict[str, _Coming] = {}  # by the ids of rows
        self._noting = threading.Lock()
        self.failures: Counter[str] = Counter()
        self._residents: Residents[tuple[Hashable, int], _Joined] = Residents(
            device_bytes, int(device_bytes * EXPECTED_PART)
        )

    def applied(self, wanted: Sequence[tuple[str, float]], row: str | None = None) -> AppliedAdapters | None:
        """The adapters of a row; None for none.

        Args:
            wanted: Names and weights.
            row: Its id, by which it was expected; None: it was not.
        """
        if not wanted:
            return None
        rank = stack_rank(sum(max(one.rank for one in self._host[name]) for name, _ in wanted))
        return AppliedAdapters(self._weighted(wanted), rank, self, row)

    @property
    def resident(self) -> list[tuple[Hashable, int]]:
        """Adapters of rows, with the transformer, that are on the device or come, least recently used first."""
        return self._residents.keys

    @property
    def pinned_bytes(self) -> int:
        """Of the host's memory that are pinned for adapters."""
        every = {id(one): one for experts in self._host.values() for one in experts}
        return sum(one.pinned_bytes for one in every.values())

    def expect(self, holder: Hashable, rows: Iterable[ComingRow]) -> None:
        """Have adapters of rows that come soon brought to the device, and kept there until the rows have entered.

        A thread of the store's own does it; nobody waits for it, nor it for the model's work. What has no room comes
        when other rows have entered, or when a row needs it. What cannot be brought is left to that row, too:
        whatever is wrong with the device is met again then, and told. Where the device has no memory, nothing that
        is expected comes before its rows until somebody's rows are released, and after `MOST_SHORTAGES` times never.
        Nothing comes for a transformer that a row does not enter.

        Args:
            holder: Who is to release what is left of them.
            rows: The first rows first.
        """
        if self._paused:
            return
        uses: Counter[tuple[Weighted, int]] = Counter()  # of one row for both transformers, then of the next row
        experts = max((len(of_experts) for of_experts in self._host.values()), default=0)
        for row in rows:
            if not row.adapters or row.level <= 0:
                continue
            for expert in range(int(row.level < self._boundary), experts):
                uses[self._weighted(row.adapters), expert] += 1
            with self._noting:
                self._coming[row.id] = _Coming(holder)
        if uses:
            self._residents.want(holder, [(key, self._size(*key), count) for key, count in uses.items()])
            self._fetcher.submit(self._fetch)

    def entered(self, row: str | None, wanted: Hashable, expert: int) -> None:
        """Take note that a row has what it needs of these adapters; what others expect may take their place.

        What it would have needed of earlier transformers is not expected for it any more: it began after them. A row
        that enters again, since it is tried again, was counted before.
        """
        with self._noting:
            if row is None or (coming := self._coming.get(row)) is None or expert in coming.entered:
                return
            coming.entered.add(expert)
        self._residents.used(coming.holder, (wanted, expert), [(wanted, earlier) for earlier in range(expert)])
        self._fetch_if_wanted()

    def release(self, holder: Hashable) -> None:
        """Keep nothing on the device for somebody's rows any more."""
        with self._noting:
            self._coming = {row: coming for row, coming in self._coming.items() if coming.holder != holder}
        self._residents.release(holder)
        self._paused = self._shortages >= MOST_SHORTAGES
        self._fetch_if_wanted()

    def spare_memory(self) -> int:
        """Let go of all adapters on the device, since the model's work has no memory; those in slots are copies.

        Those of the next rows come when these need them, until some rows are done.

        Returns:
            Bytes that are free now.
        """
        freed = self._residents.clear()
        if freed:
            self._leave_memory()
        return freed

    def wait(self) -> None:
        """Wait until all that is expected and has room is on its way to the device."""
        self._fetcher.submit(lambda: None).result()

    def _fetch_if_wanted(self) -> None:
        if self._residents.wanted:
            self._fetcher.submit(self._fetch)

    def _fetch(self) -> None:
        try:
            self._residents.fetch(lambda key: self._made(*key))
        except Exception as error:  # noqa: BLE001  a row that needs it meets it again
            self._note_failure(error)
            if isinstance(error, torch.OutOfMemoryError | MemoryError):
                self._leave_memory()
                self._residents.want_nothing()

    def _note_failure(self, error: Exception) -> None:
        """Log the first failure of each class, and then only how many there are."""
        kind = type(error).__name__
        self.failures[kind] += 1
        count = self.failures[kind]
        if count == 1:
            text = f"{kind}: {error}".splitlines()[0]
            _log.warning("adapters could not be brought before rows need them, and come with the rows: %s", text)
        elif str(count).rstrip("0") == "1":
            _log.warning("adapters could not be brought before rows need them %d times: %s", count, kind)

    def _leave_memory(self) -> None:
        """Expect nothing more until some rows are done; nothing at all if this has helped too few times."""
        self._shortages += 1
        self._paused = True

    def joined(self, wanted: Hashable, expert: int) -> Pairs:
        """Pairs of several adapters as one a layer, on the device, for work in this thread's stream.

        The weights go into `up`, rounded once.
        """
        found = self._residents.get((wanted, expert), self._size(wanted, expert), lambda: self._made(wanted, expert))
        self._side.take(found.memory, found.made)
        return found.pairs

    def _weighted(self, wanted: Sequence[tuple[str, float]]) -> Weighted:
        return tuple((name, self._weights[name] * own) for name, own in wanted)

    def _parts(self, wanted: Hashable, expert: int) -> list[tuple[HostAdapter, float]]:
        assert isinstance(wanted, tuple)
        return [(self._host[name][expert], weight) for name, weight in wanted]

    def _size(self, wanted: Hashable, expert: int) -> int:
        """In bytes, on the device."""
        return self._dtype.itemsize * sum(one.elements for one, _ in self._parts(wanted, expert))

    def _made(self, wanted: Hashable, expert: int) -> _Joined:
        """Adapters of a row, written straight into the memory in which they stay."""
        parts = self._parts(wanted, expert)
        forms = joined_forms([one.forms for one, _ in parts])
        with self._side.working():
            ups = self._empty(sum(len(one.ups) for one, _ in parts))
            if len(parts) == 1:
                one, weight = parts[0]
                downs = self._side.copied(one.downs, one.pinned_bytes > 0)
                self._write(one.ups, one, [ups.unsqueeze(1)], weight)
            else:
                downs = self._empty(sum(len(one.downs) for one, _ in parts))
                targets = views_of_parts(views(downs, ups, forms), [one.forms for one, _ in parts])
                for (one, weight), (its_downs, its_ups) in zip(parts, targets, strict=True):
                    self._write(one.downs, one, its_downs)
                    self._write(one.ups, one, its_ups, weight)
            return _Joined(views(downs, ups, forms), (downs, ups), self._side.moment())

    def _empty(self, elements: int) -> Tensor:
        return torch.empty(elements, dtype=self._dtype, device=self._device)

    def _write(
        self, source: Tensor, adapter: HostAdapter, targets: Sequence[Tensor], weight: float | None = None
    ) -> None:
        """Get what an adapter has on the host into its places, in pieces: what it takes besides is small.

        Args:
            source: [elements], `downs` or `ups` of the adapter.
            adapter: Whose.
            targets: [rows, columns] each, on the device, in the order of `source`.
            weight: What `source` is multiplied with, in float32, before it is rounded. None: it is in the model's
                dtype already.
        """
        first = 0
        for piece in rows_in_pieces(targets, PIECE_BYTES // source.itemsize):
            sizes = [part.numel() for part in piece]
            values = self._side.copied(source[first : first + sum(sizes)], adapter.pinned_bytes > 0)
            if weight is not None:
                values = (weight * values).to(self._dtype)
            parts = values.split(sizes)
            torch._foreach_copy_(piece, [part.view(to.shape) for part, to in zip(parts, piece, strict=True)])
            first += sum(sizes)
