"""What only a GPU can show of adapters of rows: they come while it works, and nothing writes where it still reads.

Skipped without one. `python -m pytest tests/pipeline/test_gpu_adapters.py` takes a minute or two.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
import pytest
import torch
from adapter_making import random_pairs
from picture_requests import PLAIN, make
from repeating import meanwhile

from wanbatch.pipeline.adapters import store as store_module
from wanbatch.pipeline.adapters.host_adapters import HostAdapter
from wanbatch.pipeline.adapters.merging import merge
from wanbatch.pipeline.adapters.store import AdapterStore
from wanbatch.pipeline.adapters.tensors import AdapterTensors, LowRank
from wanbatch.pipeline.core.requests import ComingRow
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry, weights
from wanbatch.pipeline.loading.host_memory import clear_last_error, pin, whole_pages
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.models.fp8 import float8_linear
from wanbatch.pipeline.models.slot_weights import SlotLinear
from wanbatch.pipeline.models.weight_merging import merged

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU = torch.device("cuda")
LONG = 4_000_000_000  # cycles: some two seconds
LAYERS, RANK, WIDTH = 40, 32, 3072
NAMES = ("first", "second", "third", "fourth")
SIZE = 2 * 2 * LAYERS * RANK * WIDTH  # bytes of one on the device
ALREADY_REGISTERED = 712  # cudaErrorHostMemoryAlreadyRegistered


class Owner:
    """Of some memory."""


def tensors_of(seed: int) -> AdapterTensors:
    """As large as a tenth of one for TI2V-5B."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for layer in range(LAYERS):
        down, up = torch.randn(RANK, WIDTH, generator=generator), torch.randn(WIDTH, RANK, generator=generator)
        pairs[f"blocks.{layer}.attn1.to_q"] = LowRank(down.bfloat16(), up.bfloat16(), 0.5)
    return AdapterTensors(pairs)


@pytest.fixture(scope="module")
def adapters():
    made = {name: ((tensors_of(seed),), 1.0) for seed, name in enumerate(NAMES)}
    for kind in ("pinned", "staged"):  # kernels are loaded when they first run, for which the driver may wait
        store = store_of(made, kind)
        for wanted in ([("first", 1.0)], [("first", 2.0), ("second", 1.0)]):
            copies_of(pairs_of(store, *wanted))
    torch.cuda.synchronize()
    return made


def store_of(adapters, kind: str = "pinned", device_bytes: int = 100 * SIZE) -> AdapterStore:
    """Adapters in pinned memory, or in such from which they go through a small pinned piece."""
    return AdapterStore(adapters, GPU, torch.bfloat16, device_bytes, {"pinned": 1 << 30, "staged": 0}[kind])


def pairs_of(store: AdapterStore, *wanted: tuple[str, float]):
    return store.applied(wanted).pairs(0)


def right(adapters, *wanted: tuple[str, float]):
    """What a row gets, made on the CPU."""
    return pairs_of(AdapterStore(adapters, torch.device("cpu"), torch.bfloat16), *wanted)


def copies_of(pairs) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """As a slot's stacks have them: copied in the order of the device's work."""
    return {layer: (down.clone(), up.clone()) for layer, (down, up) in pairs.items()}


def same(ours, theirs) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(one.cpu(), other.cpu())
        for layer in ours
        for one, other in zip(ours[layer], theirs[layer], strict=True)
    )


def bring(store: AdapterStore, unit: str, *rows) -> None:
    """As a worker's thread has it that prepares units; the store has a thread of its own that copies."""
    store.expect(unit, [ComingRow(f"{unit} {number}", wanted) for number, wanted in enumerate(rows)])
    store.wait()


@pytest.mark.parametrize("kind", ["pinned", "staged"])
def test_expected_adapters_are_there_before_the_work_that_the_device_had(adapters, kind):
    store = store_of(adapters, kind)
    bring(store, "before", [("fourth", 3.0)])  # its small pinned piece is made
    torch.cuda.synchronize()
    torch.cuda._sleep(LONG)
    work = torch.cuda.Event()
    work.record()
    bring(store, "unit", [("first", 1.0)], [("second", 0.5), ("third", 2.0)])
    arrived = store._side.moment()
    arrived.synchronize()
    assert not work.query()  # nobody waited for it, neither here nor there
    found = copies_of(pairs_of(store, ("first", 1.0)))
    joined = copies_of(pairs_of(store, ("second", 0.5), ("third", 2.0)))
    assert not work.query()
    assert same(found, right(adapters, ("first", 1.0)))
    assert same(joined, right(adapters, ("second", 0.5), ("third", 2.0)))


@pytest.mark.parametrize("kind", ["pinned", "staged"])
def test_rows_wait_for_adapters_that_are_still_on_their_way(adapters, kind):
    store = store_of(adapters, kind)
    with store._side.working():
        torch.cuda._sleep(LONG)
        late = store._side.moment()
    if kind == "pinned":  # else the host waits for its small piece of memory
        bring(store, "unit", [("first", 1.0)])
        assert not late.query()
    found = copies_of(pairs_of(store, ("first", 1.0)))
    assert same(found, right(adapters, ("first", 1.0)))


@pytest.mark.parametrize("kind", ["pinned", "staged"])
def test_memory_that_the_device_still_reads_is_not_written(adapters, kind):
    """The device has room for one, and four come one after the other while it has not begun to read the first."""
    store = store_of(adapters, kind, device_bytes=int(1.5 * SIZE))
    torch.cuda._sleep(LONG)
    work = torch.cuda.Event()
    work.record()
    found = {name: copies_of(pairs_of(store, (name, 1.0))) for name in NAMES}
    assert not work.query()
    assert [key[0][0] for key, _ in store.resident] == ["fourth"]
    for name, pairs in found.items():
        assert same(pairs, right(adapters, (name, 1.0)))


def pinned(memory: torch.Tensor) -> bool:
    """Whether the driver has this memory pinned: it does not do it again. Not `is_pinned`: see `host_memory.py`.

    Args:
        memory: From the first byte that was pinned to the last one, if it is.
    """
    driver, address = torch.cuda.cudart(), memory.data_ptr()
    code = int(driver.cudaHostRegister(address, memory.nbytes, 0))
    if code == 0:
        assert int(driver.cudaHostUnregister(address)) == 0
        return False
    clear_last_error()
    assert code == ALREADY_REGISTERED
    assert int(torch.ones(1, device=GPU)) == 1  # a launch reports no error of before
    return True


def whole(one: HostAdapter) -> torch.Tensor:
    """All that an adapter takes on the host, in whole pages; it keeps the memory, but not the adapter."""
    return one.ups.view(torch.uint8).as_strided((one.ups.nbytes + one.downs.nbytes,), (1,))


def test_a_part_of_the_hosts_memory_is_pinned_and_given_back(adapters):
    host_bytes = 6 * LAYERS * RANK * WIDTH  # up is kept in float32
    assert host_bytes % PAGESIZE == 0
    store = AdapterStore(adapters, GPU, torch.bfloat16, pinned_bytes=int(2.5 * host_bytes))
    kept = [whole(one) for (one,) in store._host.values()]
    assert [pinned(memory) for memory in kept] == [True, True, False, False]
    assert store.pinned_bytes == 2 * host_bytes
    del store
    assert not any(pinned(memory) for memory in kept)


def test_what_the_driver_refuses_to_pin_stays_as_it_was():
    memory, first, second = whole_pages(1 << 20), Owner(), Owner()
    assert not pinned(memory)
    assert pin(first, memory)
    assert not pin(second, memory)
    assert int(torch.ones(1, device=GPU)) == 1
    del second
    assert pinned(memory)
    del first
    assert not pinned(memory)


@pytest.mark.parametrize("kind", ["pinned", "staged"])
def test_adapters_take_little_memory_besides_that_in_which_they_stay(adapters, kind, monkeypatch):
    piece = 1 << 20
    monkeypatch.setattr(store_module, "PIECE_BYTES", piece)
    store = store_of(adapters, kind)
    for wanted in ([("first", 0.7)], [(name, 0.7) for name in NAMES]):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found = pairs_of(store, *wanted)
        assert torch.cuda.max_memory_allocated() - before <= len(wanted) * SIZE + 4 * piece
        assert same(found, right(adapters, *wanted))


def adapters_that_come_and_go(wan: Wan, names) -> AbstractContextManager[None]:
    """Meanwhile another thread has adapters brought for units to come, again and again."""
    chosen = np.random.default_rng(0)

    def prepare(unit: int) -> None:
        wanted = [[(names[chosen.integers(len(names))], float(chosen.integers(1, 4)))] for _ in range(3)]
        wan.expect_adapters(unit, [ComingRow(f"{unit} {number}", one) for number, one in enumerate(wanted)])
        wan._adapters.wait()  # or it would only be asked for
        wan.release_adapters(unit)

    return meanwhile(prepare, least=11)


RUNTIMES = {
    "eager": Runtime(),
    "compiled": Runtime(compile=True),
    "merged": Runtime(merged_rows=True),
    "merged in fp8": Runtime(fp8=True, merged_rows=True),
}


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES)
def test_pictures_are_the_same_with_adapters_that_were_brought_before(runtime):
    """Rows of a model whose launches are recorded meanwhile, on a device with room for two adapters."""
    modules = weights.load(registry.find("tiny"), GPU, torch.bfloat16)
    config = json.loads((Path(registry.find("tiny").folder) / "transformer" / "config.json").read_text())
    pairs = {name: random_pairs(config, 16, seed, size=0.5) for seed, name in enumerate(NAMES)}
    size = sum(2 * (down.numel() + up.numel()) for down, up in pairs["first"].values())
    of_rows = {
        name: ((AdapterTensors({layer: LowRank(*pair, 0.5) for layer, pair in its.items()}),), 1.0)
        for name, its in pairs.items()
    }
    rows = [replace(PLAIN, id=f"plain {seed}", width=128, height=128, seed=seed) for seed in range(2)]
    rows += [
        replace(PLAIN, id=f"{name} {seed}", width=128, height=128, seed=seed, adapters=((name, 1.0),))
        for name in NAMES
        for seed in range(2)
    ]
    rows.append(replace(rows[-1], id="two", adapters=(("first", 0.5), ("third", 1.0))))
    wan = Wan(modules, GPU, 4, runtime, adapters=of_rows)
    alone = make(wan, *rows)
    assert len({picture.tobytes() for picture in alone.values()}) == len(rows)
    for kind in ("pinned", "staged"):
        dtype, room = (torch.float32, 5 * size) if runtime.merged_rows else (torch.bfloat16, int(2.5 * size))
        wan._adapters = AdapterStore(of_rows, GPU, dtype, room, {"pinned": 1 << 30, "staged": 0}[kind])
        wan.use_slots(4)  # launches are recorded again
        with adapters_that_come_and_go(wan, NAMES):
            for shuffle in range(3):
                order = np.random.default_rng(shuffle).permutation(len(rows))
                again = make(wan, *[rows[index] for index in order])
                assert all(np.array_equal(again[name], alone[name]) for name in alone)


@pytest.mark.parametrize("fp8", [False, True], ids=["bf16", "fp8"])
def test_rows_with_weights_of_their_own_are_what_the_merged_adapter_gives(fp8):
    info = registry.find("tiny")
    config = json.loads((Path(info.folder) / "transformer" / "config.json").read_text())
    its = AdapterTensors(
        {layer: LowRank(*pair, 0.5) for layer, pair in random_pairs(config, 16, 1, size=0.2).items()}
    )
    asked = replace(PLAIN, id="one", width=128, height=128)
    own = Wan(
        weights.load(info, GPU, torch.bfloat16), GPU, 4, Runtime(fp8=fp8, merged_rows=True),
        adapters={"first": ((its,), 1.0)},
    )  # fmt: skip
    modules = weights.load(info, GPU, torch.bfloat16)
    for transformer in modules.transformers:
        merge(transformer, its)
    merged = Wan(modules, GPU, 4, Runtime(fp8=fp8))
    found, expected = (
        next(iter(make(wan, one).values())).astype(np.float32)
        for wan, one in ((own, replace(asked, adapters=(("first", 1.0),))), (merged, asked))
    )
    without = next(iter(make(own, asked).values())).astype(np.float32)
    far = np.abs(found - without).mean()  # small products have other kernels with fewer rows, and so other last bits
    assert np.abs(found - expected).mean() < far / 4
    assert far > 5


@pytest.mark.parametrize("fp8", [False, True], ids=["bf16", "fp8"])
@pytest.mark.parametrize(("inputs", "outputs"), [(3072, 3072), (3072, 14336), (14336, 3072)])
@torch.no_grad()
def test_a_slot_of_full_size_has_the_bits_of_a_layer_merged_before(inputs, outputs, fp8):
    generator = torch.Generator(GPU).manual_seed(0)
    normal = partial(torch.randn, device=GPU, generator=generator)
    plain = torch.nn.Linear(inputs, outputs, device=GPU, dtype=torch.bfloat16)
    layer = float8_linear(plain.weight, plain.bias) if fp8 else plain
    slots = SlotLinear(layer, plain.weight, 4)
    rows = normal(4 * 2 * 880, inputs, dtype=torch.bfloat16)
    pairs = [(normal(32, inputs) * inputs**-0.5, normal(outputs, 32) * 0.05) for _ in range(4)]
    for slot, pair in enumerate(pairs):
        slots.fill(slot, [pair])
    from wanbatch.pipeline.models import kernels  # needs Triton

    quantised = kernels.quantise(rows)
    found = slots.multiply(quantised.values, quantised.scale, rows.dtype) if fp8 else slots.linear(rows)
    for slot, pair in enumerate(pairs):
        weight = merged(plain.weight, *pair)
        if fp8:
            whole = float8_linear(weight, plain.bias).multiply(quantised.values, quantised.scale, rows.dtype)
        else:
            whole = torch.nn.functional.linear(rows, weight, plain.bias)
        own = slice(slot * 2 * 880, (slot + 1) * 2 * 880)
        assert torch.equal(found[own], whole[own])
        assert not torch.equal(found[own], layer(rows)[own])
