"""Pinning memory of the host, with a driver that keeps account of it; `test_gpu_adapters.py` asks the real one."""

from __future__ import annotations

from mmap import PAGESIZE

import pytest
import torch

from wanbatch.pipeline.adapters.store import AdapterStore
from wanbatch.pipeline.adapters.tensors import AdapterTensors, LowRank
from wanbatch.pipeline.core.requests import ComingRow
from wanbatch.pipeline.loading import host_memory


class Owner:
    """Of some memory."""


class Driver:
    """What of CUDA's runtime pins memory. It refuses what has been pinned, and more than `most` bytes at once."""

    def __init__(self, most: int):
        self.pinned: dict[int, int] = {}
        self._most = most

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        assert flags == 0
        if any(first < address + size and address < first + its for first, its in self.pinned.items()):
            return 712  # cudaErrorHostMemoryAlreadyRegistered
        if sum(self.pinned.values()) + size > self._most:
            return 2  # cudaErrorMemoryAllocation
        self.pinned[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        del self.pinned[address]
        return 0


@pytest.fixture
def driver(monkeypatch) -> Driver:
    made = Driver(1 << 20)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: made)
    return made


@pytest.fixture
def cleared(monkeypatch) -> list[str]:
    """What was done about errors of the driver."""
    done: list[str] = []
    monkeypatch.setattr(host_memory, "clear_last_error", lambda: done.append("cleared"))
    return done


@pytest.mark.parametrize("size", [1, PAGESIZE, PAGESIZE + 1, 100_000])
def test_pages_are_whole_and_hold_what_was_asked_for(size):
    memory = host_memory.whole_pages(size)
    assert memory.data_ptr() % PAGESIZE == 0
    assert memory.numel() % PAGESIZE == 0
    assert size <= memory.numel() < size + PAGESIZE


def test_memory_is_pinned_as_long_as_its_owner_is_there(driver, cleared):
    memory, owner = host_memory.whole_pages(10_000), Owner()
    assert host_memory.pin(owner, memory)
    assert driver.pinned == {memory.data_ptr(): memory.numel()}
    del owner
    assert driver.pinned == {}
    assert cleared == []


def test_who_is_refused_gives_nothing_back_and_leaves_no_error(driver, cleared):
    memory, first, second = host_memory.whole_pages(10_000), Owner(), Owner()
    assert host_memory.pin(first, memory)
    assert not host_memory.pin(second, memory)
    assert cleared == ["cleared"]
    del second
    assert driver.pinned == {memory.data_ptr(): memory.numel()}
    assert not host_memory.pin(Owner(), host_memory.whole_pages(1 << 20))
    assert cleared == ["cleared", "cleared"]


def test_memory_of_adapters_is_pinned_as_long_as_their_store_is_there(driver, cleared):
    pair = LowRank(torch.randn(4, 64), torch.randn(64, 4), 1.0)
    adapters = {name: ((AdapterTensors({"layer": pair}),), 1.0) for name in ("first", "second")}
    store = AdapterStore(adapters, torch.device("cpu"), torch.float32, pinned_bytes=1 << 20)
    assert store.pinned_bytes == 2 * 2 * 4 * 64 * 4
    assert sorted(driver.pinned) == sorted(one.ups.data_ptr() for (one,) in store._host.values())
    store.expect("unit", [ComingRow("a", [("first", 1.0)])])
    store.wait()
    del store
    assert driver.pinned == {}
