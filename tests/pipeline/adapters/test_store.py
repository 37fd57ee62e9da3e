"""Adapters of rows on their way from the host to the device: the numbers, who has them brought, what goes wrong."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from stored_adapters import (
    ADAPTERS,
    COMBINED,
    CPU,
    NAMES,
    WEIGHTS,
    bytes_of,
    coming,
    counted,
    expected,
    pairs_of,
    same,
    store_of,
    tensors_of,
)

from wanbatch.pipeline.adapters import copying, host_adapters
from wanbatch.pipeline.adapters.copying import Staging
from wanbatch.pipeline.adapters.host_adapters import HostAdapter, views
from wanbatch.pipeline.adapters.store import AdapterStore
from wanbatch.pipeline.adapters.tensors import AdapterTensors
from wanbatch.pipeline.core.requests import ComingRow


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


def test_what_is_expected_is_there_when_its_rows_come(monkeypatch):
    store = store_of()
    made = counted(store, monkeypatch)
    store.expect("unit", coming([wanted for wanted in COMBINED for _ in range(3)] + [()]))
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
    store.expect("unit", coming([[("neon", float(weight))] for weight in (1, 2, 2, 3)]))
    store.expect("next", coming([[("neon", float(weight))] for weight in (4, 5)], "next"))

    def weights() -> list[float]:
        store.wait()
        return [key[0][1] for key, _ in made]

    assert weights() == [1.0, 2.0, 3.0]
    each = ((1.0, [1, 2, 3, 4]), (2.0, [1, 2, 3, 4]), (2.0, [1, 2, 3, 4, 5]), (3.0, [1, 2, 3, 4, 5]))
    for number, (weight, there) in enumerate(each):
        row = store.applied([("neon", weight)], f"unit {number}")
        row.pairs(0)
        row.entered(0)
        assert weights() == there
    assert [key[0][1] for key, _ in store.resident] == [4.0, 2.0, 5.0, 3.0]


def test_rows_that_begin_in_the_second_transformer_do_not_wait_for_what_others_need_of_the_first(monkeypatch):
    size = bytes_of("neon")
    store = store_of(device_bytes=4 * size)  # three of them are for what is expected
    made = counted(store, monkeypatch)
    store.expect("unit", coming([[("neon", float(weight))] for weight in (1, 1, 2, 3)]))

    def brought() -> list[tuple[float, int]]:
        store.wait()
        return [(key[0][1] / WEIGHTS["neon"], expert) for key, expert in made]

    there = [(1.0, 0), (1.0, 1), (2.0, 0)]
    assert brought() == there
    for number, (weight, more) in enumerate(((1.0, []), (1.0, [(2.0, 1), (3.0, 0)]), (2.0, [(3.0, 1)]), (3.0, []))):
        row = store.applied([("neon", weight)], f"unit {number}")
        row.pairs(1)
        row.entered(1)
        there += more
        assert brought() == there  # all of the second one's came before their rows
    assert not store._residents.wanted
    assert store._residents.held == set()


def test_a_row_that_passes_through_both_transformers_uses_each_once():
    store = store_of()
    store.expect("unit", coming([COMBINED[0]] * 2))
    store.wait()
    rows = [store.applied(COMBINED[0], f"unit {number}") for number in range(2)]
    for number, expert, left in ((0, 0, {0, 1}), (0, 1, {0, 1}), (1, 0, {1}), (1, 1, set())):
        rows[number].entered(expert)
        assert {its for _, its in store._residents.held} == left


def test_rows_that_are_tried_again_use_up_nothing_of_the_next_unit():
    """After an error of the pipeline a unit's rows enter once more, while the next unit's wait."""
    store = store_of()
    for unit in ("unit", "next"):
        store.expect(unit, coming([COMBINED[0]] * 2, unit))
    store.wait()
    for number in (0, 1, 0, 1, 1):
        store.applied(COMBINED[0], f"unit {number}").entered(0)
    store.applied(COMBINED[0]).entered(0)  # of a row that nobody expected
    assert {its for _, its in store._residents.held} == {0, 1}
    assert store._residents._wants["next"][(("crayon", 1.0),), 0].uses == 2
    store.release("unit")
    for number, left in ((0, {0, 1}), (1, {1})):
        store.applied(COMBINED[0], f"next {number}").entered(0)
        assert {its for _, its in store._residents.held} == left


def test_nothing_comes_for_a_transformer_that_rows_do_not_enter(monkeypatch):
    """Sources of little creativity begin below the boundary of A14B's two, and those of none need neither."""
    store = store_of(boundary=0.875)
    made = counted(store, monkeypatch)
    levels = {1.0: 0.875, 2.0: 0.6, 3.0: 0.0, 4.0: 1.0}
    store.expect("unit", [ComingRow(f"{weight}", [("neon", weight)], level) for weight, level in levels.items()])
    store.wait()
    assert [(key[0][1] / WEIGHTS["neon"], expert) for key, expert in made] == [
        (1.0, 0), (1.0, 1), (2.0, 1), (4.0, 0), (4.0, 1),
    ]  # fmt: skip


def test_three_quarters_of_the_devices_share_are_for_expected_rows_and_they_keep_it(monkeypatch):
    size = bytes_of("neon")
    one_expert = {name: (ADAPTERS[name][0][:1], 1.0) for name in NAMES}
    store = AdapterStore(one_expert, CPU, torch.float32, device_bytes=4 * size)
    made = counted(store, monkeypatch)
    rows = [[("neon", weight)] for weight in (1.0, 2.0, 3.0, 4.0)]
    store.expect("unit", coming(rows))
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


def test_small_copies_take_turns_between_the_two_pieces():
    staging = Staging(None, 64)
    targets = [torch.zeros(16, dtype=torch.uint8) for _ in range(2)]
    for value, target in enumerate(targets, 1):
        staging.copy(torch.full((16,), value, dtype=torch.uint8), target)
    assert [int(target.max()) for target in targets] == [1, 2]
    assert staging._pieces[:, 0].tolist() == [1, 2]


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
        store.expect(unit, coming([COMBINED[index] for index in units[unit]], f"{unit}"))

    def use(unit: int, prepared) -> bool:
        prepared.result(60)
        right_here = []
        for number, index in enumerate(units[unit]):
            row = store.applied(COMBINED[index], f"{unit} {number}")
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
