"""Adapters of rows and the device's memory: what making them takes besides, and what happens when there is none."""

from __future__ import annotations

import pytest
import torch
from stored_adapters import COMBINED, bytes_of, coming, expected, pairs_of, same, store_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wanbatch.pipeline.adapters import store as store_module
from wanbatch.pipeline.adapters.copying import SideStream
from wanbatch.pipeline.adapters.store import MOST_SHORTAGES


class Allocations(TorchDispatchMode):
    """Notes all memory that operations give or take while it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, torch.UntypedStorage] = {}  # which also keeps it from being used again

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, result)):
            if isinstance(tensor, torch.Tensor):
                self.seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("piece", [256, 1000, 4096])
@pytest.mark.parametrize("wanted", COMBINED)
def test_making_adapters_takes_no_more_than_small_pieces_besides_and_the_same_bits(wanted, piece, dtype, monkeypatch):
    whole = pairs_of(store_of(dtype=dtype), wanted)
    monkeypatch.setattr(store_module, "PIECE_BYTES", piece)
    store = store_of(dtype=dtype)
    of_host = [tensor for experts in store._host.values() for one in experts for tensor in (one.ups, one.downs)]
    with Allocations() as allocations:
        found = pairs_of(store, wanted)
    assert same(found, whole)
    assert same(found, expected(wanted, 0, dtype))
    stays = [tensor for pair in found.values() for tensor in pair] + of_host
    besides = allocations.seen.keys() - {tensor.untyped_storage().data_ptr() for tensor in stays}
    assert 0 < max(allocations.seen[address].nbytes() for address in besides) <= piece


def test_no_memory_for_what_is_expected_is_no_error_until_a_row_needs_it(monkeypatch):
    store, own, left = store_of(), SideStream.copied, [3]

    def full(self, source, pinned):
        left[0] -= 1
        if left[0] < 0:
            raise torch.OutOfMemoryError("no memory")
        return own(self, source, pinned)

    monkeypatch.setattr(SideStream, "copied", full)
    store.expect("unit", coming(COMBINED[:3]))
    store.wait()
    assert [key for key, _ in store.resident] == [(("crayon", 1.0),)]
    with pytest.raises(torch.OutOfMemoryError):
        pairs_of(store, [("neon", -0.7)])
    left[0] = 1000
    assert same(pairs_of(store, [("neon", -0.7)]), expected([("neon", -0.7)], 0, torch.float32))
    store.release("unit")


@pytest.fixture
def failing(monkeypatch):
    """A store that cannot make anything while there is an error here, and notes what it was to make."""
    store, errors, tried = store_of(), [torch.OutOfMemoryError("no memory\nof 80 GiB")], []
    own = store._made

    def made(key, expert):
        tried.append(key[0][0])
        if errors:
            raise errors[0]
        return own(key, expert)

    monkeypatch.setattr(store, "_made", made)
    return store, errors, tried


def test_without_memory_nothing_more_is_tried_until_rows_are_done(failing):
    store, errors, tried = failing
    store.expect("unit", coming(COMBINED))
    store.wait()
    store.expect("next", coming(COMBINED, "next"))
    store.applied(COMBINED[1], "unit 1").entered(0)
    store.wait()
    assert tried == ["crayon"]
    assert (store._residents.wanted, store._residents.held, store.resident) == (False, set(), [])
    errors.clear()
    store.release("unit")
    store.wait()
    assert tried == ["crayon"]
    store.expect("third", coming(COMBINED[:2], "third"))
    store.wait()
    assert tried == ["crayon"] * 3 + ["neon"] * 2


def test_where_memory_is_short_again_and_again_adapters_come_only_with_their_rows(failing):
    store, errors, tried = failing
    for unit in range(3 * MOST_SHORTAGES):
        store.expect(unit, coming(COMBINED, f"{unit}"))
        store.wait()
        store.release(unit)
    assert tried == ["crayon"] * MOST_SHORTAGES
    errors.clear()
    assert same(pairs_of(store, COMBINED[1]), expected(COMBINED[1], 0, torch.float32))


def test_what_the_model_needs_the_memory_of_leaves_whoever_expects_it():
    store = store_of()
    store.expect("unit", coming(COMBINED[:2]))
    store.wait()
    row = store.applied(COMBINED[0])
    in_use = row.pairs(0)
    assert store.spare_memory() == 2 * (bytes_of("crayon") + bytes_of("neon"))
    assert (store.resident, store._residents.wanted) == ([], False)
    assert store.spare_memory() == 0
    assert same(in_use, expected(COMBINED[0], 0, torch.float32))
    store.expect("next", coming(COMBINED, "next"))
    store.wait()
    assert store.resident == []
    store.release("unit")
    store.expect("third", coming(COMBINED[:1], "third"))
    store.wait()
    assert len(store.resident) == 2


def test_the_first_failure_of_each_class_is_told_and_the_rest_are_counted(failing, caplog):
    store, errors, _ = failing
    for error in (IndexError("a mistake\nof ours"), RuntimeError("CUDA error"), IndexError("another")):
        errors[:] = [error]
        for unit in range(6):
            store.expect(unit, coming(COMBINED[:1], f"{unit}"))
            store.wait()
            store.release(unit)
    assert store.failures == {"IndexError": 12, "RuntimeError": 6}
    told = "adapters could not be brought before rows need them"
    assert caplog.messages == [
        f"{told}, and come with the rows: IndexError: a mistake",
        f"{told}, and come with the rows: RuntimeError: CUDA error",
        f"{told} 10 times: IndexError",
    ]
