"""Adapters of rows on their way from the host to the device: the numbers, who has them brought, what goes wrong."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from adapter_making import random_pairs
from small_models import random_transformer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wanbatch.pipeline.adapters import copying, host_adapters
from wanbatch.pipeline.adapters import store as store_module
from wanbatch.pipeline.adapters.copying import SideStream, Staging
from wanbatch.pipeline.adapters.host_adapters import HostAdapter, views
from wanbatch.pipeline.adapters.store import MOST_SHORTAGES, AdapterStore
from wanbatch.pipeline.adapters.tensors import AdapterTensors, LowRank

CPU = torch.device("cpu")
NAMES = ("crayon", "ink", "neon", "large")
RANKS = dict(zip(NAMES, (4, 12, 16, 20), strict=True))
WEIGHTS = dict(zip(NAMES, (1.0, 0.5, 2.0, -0.3), strict=True))


def tensors_of(name: str, expert: int = 0) -> AdapterTensors:
    pairs = random_pairs(random_transformer().config, RANKS[name], 10 * expert + len(name), size=0.3)
    if name == "ink":  # not every layer has one
        pairs = {layer: pair for layer, pair in pairs.items() if "ffn" not in layer}
    return AdapterTensors({layer: LowRank(down, up, 0.5) for layer, (down, up) in pairs.items()})


ADAPTERS = {name: (tuple(tensors_of(name, expert) for expert in (0, 1)), WEIGHTS[name]) for name in NAMES}


def store_of(names=NAMES, dtype=torch.float32, **more) -> AdapterStore:
    return AdapterStore({name: ADAPTERS[name] for name in names}, CPU, dtype, **more)


def pairs_of(store: AdapterStore, wanted, expert: int = 0):
    applied = store.applied(wanted)
    assert applied is not None
    return applied.pairs(expert)


def expected(wanted, expert: int, dtype: torch.dtype) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Layer by layer, as the words of `AdapterStore.joined` have it."""
    parts = [(ADAPTERS[name][0][expert].pairs, WEIGHTS[name] * own) for name, own in wanted]
    found = {}
    for layer in {layer for pairs, _ in parts for layer in pairs}:
        its = [(pairs[layer], weight) for pairs, weight in parts if layer in pairs]
        downs = [pair.down.to(dtype) for pair, _ in its]
        ups = [(weight * (pair.scale * pair.up.float())).to(dtype) for pair, weight in its]
        found[layer] = torch.cat(downs), torch.cat(ups, dim=1)
    return found


def same(ours, theirs) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(one, other) for layer in ours for one, other in zip(ours[layer], theirs[layer], strict=True)
    )


def bytes_of(name: str) -> int:
    return sum(4 * (pair.down.numel() + pair.up.numel()) for pair in ADAPTERS[name][0][0].pairs.values())


COMBINED = [
    [("crayon", 1.0)],
    [("neon", -0.7)],
    [("crayon", 0.7), ("ink", 0.5)],
    [("ink", 1.0), ("large", 0.1), ("crayon", 3.0)],
    [("crayon", 1.0), ("crayon", 0.25)],
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wanted", COMBINED)
def test_what_a_row_gets_is_each_layers_matrices_one_after_the_other(wanted, dtype):
    store = store_of(dtype=dtype)
    for expert in (0, 1):
        found = pairs_of(store, wanted, expert)
        assert same(found, expected(wanted, expert, dtype))
        assert {tensor.dtype for pair in found.values() for tensor in pair} == {dtype}


def test_of_two_adapters_one_or_both_may_leave_a_transformer_as_it_is():
    """As those are whose file is for one transformer of A14B."""
    of_one = {name: ((tensors_of(name), AdapterTensors()), 1.0) for name in ("crayon", "ink")}
    of_both = {"neon": ((tensors_of("neon"), tensors_of("neon", 1)), 1.0)}
    store = AdapterStore(of_one | of_both, CPU, torch.float32)
    assert pairs_of(store, [("crayon", 1.0), ("ink", 0.5)], 1) == {}
    assert len(pairs_of(store, [("crayon", 1.0), ("ink", 0.5)], 0)) > 0
    assert same(pairs_of(store, [("crayon", 1.0), ("neon", 0.5)], 1), pairs_of(store, [("neon", 0.5)], 1))


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


@pytest.mark.parametrize("elements", [1, 6, 7, 12, 100])
def test_pieces_follow_each_other_and_are_cut_between_rows(elements):
    matrices = [torch.arange(12).view(3, 4), torch.empty(5, 0), torch.arange(12, 26).view(7, 2).t()]
    pieces = list(copying.rows_in_pieces(matrices, elements))
    flat = torch.cat([part.reshape(-1) for piece in pieces for part in piece])
    assert torch.equal(flat, torch.cat([matrix.reshape(-1) for matrix in matrices]))
    sizes = [sum(part.numel() for part in piece) for piece in pieces]
    rows = [part for piece in pieces for part in piece if len(part) == 1]
    assert all(size <= elements or size in {row.numel() for row in rows} for size in sizes)
    assert len(pieces) == {1: 5, 6: 5, 7: 5, 12: 3, 100: 1}[elements]


def counted(store: AdapterStore, monkeypatch) -> list[object]:
    made: list[object] = []
    own = store._made
    monkeypatch.setattr(store, "_made", lambda key, expert: made.append((key, expert)) or own(key, expert))
    return made


def test_what_is_expected_is_there_when_its_rows_come(monkeypatch):
    store = store_of()
    made = counted(store, monkeypatch)
    store.expect("unit", [wanted for wanted in COMBINED for _ in range(3)] + [()])
    store.wait()
    assert len(made) == len(COMBINED) * 2  # of two transformers
    assert [expert for _, expert in made] == [0, 1] * len(COMBINED)
    for wanted in COMBINED:
        for expert in (0, 1):
            assert same(pairs_of(store, wanted, expert), expected(wanted, expert, torch.float32))
    assert len(made) == len(COMBINED) * 2


def test_what_rows_expect_stays_until_they_have_entered_and_then_the_next_ones_come(monkeypatch):
    size = bytes_of("neon")
    one_expert = {name: (ADAPTERS[name][0][:1], 1.0) for name in NAMES}
    store = AdapterStore(one_expert, CPU, torch.float32, device_bytes=4 * size)
    made = counted(store, monkeypatch)
    store.expect("unit", [[("neon", float(weight))] for weight in (1, 2, 2, 3)])
    store.expect("next", [[("neon", float(weight))] for weight in (4, 5)])

    def weights() -> list[float]:
        store.wait()
        return [key[0][1] for key, _ in made]

    assert weights() == [1.0, 2.0, 3.0]
    for weight, there in ((1.0, [1, 2, 3, 4]), (2.0, [1, 2, 3, 4]), (2.0, [1, 2, 3, 4, 5]), (3.0, [1, 2, 3, 4, 5])):
        row = store.applied([("neon", weight)])
        row.pairs(0)
        row.entered(0)
        assert weights() == there
    assert [key[0][1] for key, _ in store.resident] == [4.0, 2.0, 5.0, 3.0]


def test_rows_that_begin_in_the_second_transformer_do_not_wait_for_what_others_need_of_the_first(monkeypatch):
    size = bytes_of("neon")
    store = store_of(device_bytes=4 * size)  # three of them are for what is expected
    made = counted(store, monkeypatch)
    store.expect("unit", [[("neon", float(weight))] for weight in (1, 1, 2, 3)])

    def brought() -> list[tuple[float, int]]:
        store.wait()
        return [(key[0][1] / WEIGHTS["neon"], expert) for key, expert in made]

    there = [(1.0, 0), (1.0, 1), (2.0, 0)]
    assert brought() == there
    for weight, more in ((1.0, []), (1.0, [(2.0, 1), (3.0, 0)]), (2.0, [(3.0, 1)]), (3.0, [])):
        row = store.applied([("neon", weight)])
        row.pairs(1)
        row.entered(1)
        there += more
        assert brought() == there  # all of the second one's came before their rows
    assert not store._residents.wanted
    assert store._residents.held == set()


def test_a_row_that_passes_through_both_transformers_uses_each_once():
    store = store_of()
    store.expect("unit", [COMBINED[0]] * 2)
    store.wait()
    row = store.applied(COMBINED[0])
    for expert, left in ((0, {0, 1}), (1, {0, 1}), (0, {1}), (1, set())):
        row.entered(expert)
        assert {its for _, its in store._residents.held} == left


def test_three_quarters_of_the_devices_share_are_for_expected_rows_and_they_keep_it(monkeypatch):
    size = bytes_of("neon")
    one_expert = {name: (ADAPTERS[name][0][:1], 1.0) for name in NAMES}
    store = AdapterStore(one_expert, CPU, torch.float32, device_bytes=4 * size)
    made = counted(store, monkeypatch)
    rows = [[("neon", weight)] for weight in (1.0, 2.0, 3.0, 4.0)]
    store.expect("unit", rows)
    store.wait()
    first = [(("neon", 1.0),), (("neon", 2.0),), (("neon", 3.0),)]
    assert [key for key, _ in store.resident] == first
    for _ in range(2):
        for weight in range(4, 9):
            pairs_of(store, [("neon", float(weight))])
    assert [key for key, _ in store.resident[:3]] == first
    assert len(store.resident) == 4
    assert len(made) == 3 + 10
    store.release("unit")
    for weight in (10.0, 11.0, 12.0, 13.0):
        pairs_of(store, [("neon", weight)])
    assert [key for key, _ in store.resident] == [(("neon", weight),) for weight in (10.0, 11.0, 12.0, 13.0)]


def test_no_memory_for_what_is_expected_is_no_error_until_a_row_needs_it(monkeypatch):
    store, own, left = store_of(), SideStream.copied, [3]

    def full(self, source, pinned):
        left[0] -= 1
        if left[0] < 0:
            raise torch.OutOfMemoryError("no memory")
        return own(self, source, pinned)

    monkeypatch.setattr(SideStream, "copied", full)
    store.expect("unit", COMBINED[:3])
    store.wait()
    assert [key for key, _ in store.resident] == [(("crayon", 1.0),)]
    with pytest.raises(torch.OutOfMemoryError):
        pairs_of(store, [("neon", -0.7)])
    left[0] = 1000
    assert same(pairs_of(store, [("neon", -0.7)]), expected([("neon", -0.7)], 0, torch.float32))
    store.release("unit")


def test_small_copies_take_turns_between_the_two_pieces():
    staging = Staging(None, 64)
    targets = [torch.zeros(16, dtype=torch.uint8) for _ in range(2)]
    for value, target in enumerate(targets, 1):
        staging.copy(torch.full((16,), value, dtype=torch.uint8), target)
    assert [int(target.max()) for target in targets] == [1, 2]
    assert staging._pieces[:, 0].tolist() == [1, 2]


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
    store.expect("unit", COMBINED)
    store.wait()
    store.expect("next", COMBINED)
    store.entered(COMBINED[1], 0)
    store.wait()
    assert tried == ["crayon"]
    assert (store._residents.wanted, store._residents.held, store.resident) == (False, set(), [])
    errors.clear()
    store.release("unit")
    store.wait()
    assert tried == ["crayon"]
    store.expect("third", COMBINED[:2])
    store.wait()
    assert tried == ["crayon"] * 3 + ["neon"] * 2


def test_where_memory_is_short_again_and_again_adapters_come_only_with_their_rows(failing):
    store, errors, tried = failing
    for unit in range(3 * MOST_SHORTAGES):
        store.expect(unit, COMBINED)
        store.wait()
        store.release(unit)
    assert tried == ["crayon"] * MOST_SHORTAGES
    errors.clear()
    assert same(pairs_of(store, COMBINED[1]), expected(COMBINED[1], 0, torch.float32))


def test_what_the_model_needs_the_memory_of_leaves_whoever_expects_it():
    store = store_of()
    store.expect("unit", COMBINED[:2])
    store.wait()
    row = store.applied(COMBINED[0])
    in_use = row.pairs(0)
    assert store.spare_memory() == 2 * (bytes_of("crayon") + bytes_of("neon"))
    assert (store.resident, store._residents.wanted) == ([], False)
    assert store.spare_memory() == 0
    assert same(in_use, expected(COMBINED[0], 0, torch.float32))
    store.expect("next", COMBINED)
    store.wait()
    assert store.resident == []
    store.release("unit")
    store.expect("third", COMBINED[:1])
    store.wait()
    assert len(store.resident) == 2


def test_the_first_failure_of_each_class_is_told_and_the_rest_are_counted(failing, caplog):
    store, errors, _ = failing
    for error in (IndexError("a mistake\nof ours"), RuntimeError("CUDA error"), IndexError("another")):
        errors[:] = [error]
        for unit in range(6):
            store.expect(unit, COMBINED[:1])
            store.wait()
            store.release(unit)
    assert store.failures == {"IndexError": 12, "RuntimeError": 6}
    told = "adapters could not be brought before rows need them"
    assert caplog.messages == [
        f"{told}, and come with the rows: IndexError: a mistake",
        f"{told}, and come with the rows: RuntimeError: CUDA error",
        f"{told} 10 times: IndexError",
    ]


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_goes_through_a_small_piece_of_memory_arrives_whole(piece, dtype):
    staging = Staging(None, piece)
    for elements in (0, 1, 31, 200):
        source, target = torch.randn(elements).to(dtype), torch.zeros(elements, dtype=dtype)
        staging.copy(source, target)
        assert torch.equal(source, target)


def test_the_host_pins_the_first_adapters_up_to_its_share(monkeypatch):
    pinned = []
    monkeypatch.setattr(host_adapters, "pin", lambda owner, memory: pinned.append(memory.data_ptr()) or True)
    size = bytes_of("crayon")
    store = store_of(("crayon", "ink", "neon"), pinned_bytes=2 * size + 100)
    assert store.pinned_bytes == 2 * size  # both transformers' of the first; nothing of the second has room
    assert len(pinned) == 2
    assert all(address % 4096 == 0 for address in pinned)
    assert same(pairs_of(store, [("ink", 1.0)]), expected([("ink", 1.0)], 0, torch.float32))
    assert store_of().pinned_bytes == 0  # without a GPU


def test_memory_that_cannot_be_pinned_is_used_as_it_is(monkeypatch):
    monkeypatch.setattr(host_adapters, "pin", lambda owner, memory: False)
    store = store_of(("crayon",), pinned_bytes=1 << 30)
    assert store.pinned_bytes == 0
    assert same(pairs_of(store, COMBINED[0]), expected(COMBINED[0], 0, torch.float32))


def test_the_share_that_is_pinned_follows_the_hosts_free_memory(monkeypatch):
    shares = []
    for free in (16 << 30, 64 << 30, 2 << 40):
        monkeypatch.setattr(host_adapters, "available_memory", lambda free=free: free)
        shares.append(host_adapters.pinned_share(torch.device("cuda")))
    assert shares == [512 << 20, 2 << 30, 8 << 30]
    assert host_adapters.pinned_share(CPU) == 0


def test_one_file_for_both_transformers_is_in_memory_once():
    tensors = tensors_of("neon")
    store = AdapterStore({"neon": ((tensors, tensors), 1.0)}, CPU, torch.float32)
    first, second = store._host["neon"]
    assert first is second


def test_an_adapter_without_pairs_changes_nothing():
    empty = HostAdapter(AdapterTensors(), torch.float32, pin_bytes=1 << 20)
    assert (empty.elements, empty.rank, empty.pinned_bytes) == (0, 0, 0)
    assert views(empty.downs, empty.ups, empty.forms) == {}


def test_two_threads_get_the_right_numbers_while_adapters_come_and_go():
    """One thread has adapters brought for units to come, the other one uses them; a device with room for few."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    store = store_of(device_bytes=3 * bytes_of("large"))
    right = [expected(wanted, 0, torch.float32) for wanted in COMBINED]
    chosen = np.random.default_rng(0)
    units = [chosen.permutation(len(COMBINED))[: chosen.integers(1, 5)] for _ in range(60)]

    def prepare(unit: int) -> None:
        store.expect(unit, [COMBINED[index] for index in units[unit]])

    def use(unit: int, prepared) -> bool:
        prepared.result(60)
        right_here = []
        for index in units[unit]:
            row = store.applied(COMBINED[index])
            right_here.append(same(row.pairs(0), right[index]))
            row.entered(0)
        store.release(unit)
        return all(right_here)

    try:
        with ThreadPoolExecutor(1) as prepares, ThreadPoolExecutor(1) as generates:
            prepared = [prepares.submit(prepare, unit) for unit in range(len(units))]
            used = [generates.submit(use, unit, one) for unit, one in enumerate(prepared)]
            assert all(one.result(60) for one in used)
        assert store._residents.held == set()
    finally:
        sys.setswitchinterval(before)


def test_a_device_without_streams_makes_copies_at_once():
    side = copying.SideStream(CPU)
    source = torch.arange(3)
    with side.working():
        assert side.copied(source, pinned=False) is source
    assert side.moment() is None
    side.take([source], None)
