"""What only a GPU can show: bits that do not depend on neighbours when compiled, in bf16 and FP8; FP8's own product.

Skipped without one. `python -m pytest tests/pipeline/test_gpu.py` takes some minutes, most of it compiling. It needs
neither Ray nor pydantic.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from first_use_making import hold_weights, note_first_uses
from picture_requests import PLAIN, difference, make, source
from small_card import SmallCard, sizes_of

from wanbatch.pipeline.batching.cuda_graphs import CudaGraphs
from wanbatch.pipeline.core.requests import Request
from wanbatch.pipeline.first_uses import beside_loading
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry, weights
from wanbatch.pipeline.loading.compiler import set_up_compiler
from wanbatch.pipeline.loading.random_model import Size, random_modules, with_float8_text
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import block_maker, text_maker
from wanbatch.pipeline.models.fp8 import CAPABILITY, Float8Linear

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

HAS_FP8 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= CAPABILITY
fp8 = pytest.param(Runtime(compile=True, fp8=True), id="fp8", marks=pytest.mark.skipif(not HAS_FP8, reason="no FP8"))
int8 = pytest.param(Runtime(compile=True, int8=True), id="int8")
RUNTIMES = [pytest.param(Runtime(), id="eager"), pytest.param(Runtime(compile=True), id="compiled"), fp8, int8]


def load(runtime: Runtime) -> Wan:
    return Wan.load(registry.find("tiny"), "cuda", "bfloat16", slots=4, runtime=runtime)


def offloading(runtime: Runtime) -> Wan:
    """The small model, ready to be offloaded; `Wan.load` would see that all of it fits and drop that."""
    modules = weights.load(registry.find("tiny"), torch.device("cpu"), torch.bfloat16)
    return Wan(modules, torch.device("cuda"), 4, runtime)


def rows() -> list[Request]:
    """Of two size classes, with sources, several schedules and samplers."""
    plain = replace(PLAIN, prompt="a large red heart on a striped purple background", width=128, height=128)
    return [
        plain,
        replace(plain, id="b", prompt="a small blue star", seed=8, steps=9),
        replace(plain, id="c", guidance=2.5, seed=9, sampler="euler"),
        replace(plain, id="d", sources=(_large(1),), creativity=0.6, seed=10),
        replace(plain, id="e", sampler="dpmpp_2m", shift=1.5, steps=4, seed=11),
        replace(plain, id="f", guidance=1.0, seed=12),
        replace(plain, id="g", sources=(_large(1), _large(2)), creativity=0.3, steps=12, seed=13),
    ]


def _large(seed: int):
    small = source(seed)
    return replace(small, pixels=np.kron(small.pixels, np.ones((2, 2, 1), dtype=np.uint8)))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_pixels_do_not_depend_on_neighbours_order_or_slot(runtime):
    wan, wanted = load(runtime), rows()
    together = make(wan, *wanted)
    for shuffle in range(3):
        order = np.random.default_rng(shuffle).permutation(len(wanted))
        again = make(wan, *[wanted[index] for index in order])
        assert all(np.array_equal(again[name], together[name]) for name in together)
    for row in wanted:
        assert np.array_equal(make(wan, row)[row.id], together[row.id]), row.id


@pytest.mark.parametrize("runtime", [Runtime(), Runtime(fp8=True, text_fp8=True)], ids=["bf16", "fp8"])
def test_weights_that_are_read_onto_the_gpu_are_those_that_a_cpu_reads(runtime):
    gpu, cpu, info = torch.device("cuda"), torch.device("cpu"), registry.find("tiny")
    makers = block_maker(runtime, gpu), text_maker(runtime, gpu)
    there, here = (weights.load(info, device, torch.bfloat16, *makers) for device in (gpu, cpu))
    for name in ("transformer", "vae", "text_encoder"):
        ours, theirs = (getattr(modules, name).state_dict() for modules in (there, here))
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert tensor.is_cuda, key
            assert torch.equal(tensor.cpu().view(torch.uint8), theirs[key].view(torch.uint8)), key


def test_a_second_process_would_make_the_same_pictures():
    """Another instance, which takes the compiled code from the cache."""
    first, second = (make(load(Runtime(compile=True)), *rows()) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("runtime", [Runtime(), Runtime(fp8=HAS_FP8, text_fp8=True)], ids=["bf16", "fp8"])
def test_what_is_built_while_weights_are_read_changes_no_picture_and_keeps_no_memory(runtime, monkeypatch):
    monkeypatch.setattr(beside_loading, "fits_whole", lambda *given: True)  # whatever else is on the card
    begun = note_first_uses(monkeypatch)
    hold_weights(monkeypatch, lambda: len(begun) >= 8)
    memory, pictures = [], []
    for prepare in (False, False, True):  # the first one leaves what libraries keep for the process
        before = torch.cuda.memory_allocated()
        examples = rows()[:1] if prepare else None
        wan = Wan.load(registry.find("tiny"), "cuda", "bfloat16", 4, runtime, examples=examples)
        assert wan.first_uses.failure == ""
        assert len(begun) >= (8 if prepare else 0)
        pictures.append(make(wan, *rows()))
        gc.collect()
        memory.append(torch.cuda.memory_allocated() - before)
        del wan
        gc.collect()
    assert memory[1] == memory[2]
    assert all(np.array_equal(pictures[1][name], pictures[2][name]) for name in pictures[1])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_pictures_stay_near_those_in_fp32(runtime):
    exact = make(Wan.load(registry.find("tiny"), "cuda", "float32", slots=4), *rows())
    rough = make(load(runtime), *rows())
    off = [np.abs(exact[name].astype(int) - rough[name]).mean() for name in exact]
    assert np.median(off) < (
        6 if runtime.fp8 or runtime.int8 else 3
    )  # one of the rows is near a fork, where bf16 takes another way
    assert all(difference(exact[name], rough[name]) > 0 for name in exact)


@pytest.mark.parametrize(
    "step_cache", ["none", "taylor:interval=2", "adaptive:threshold=0.05", "none+gate:interval=2"]
)
def test_replayed_evaluations_give_the_same_pictures(step_cache, monkeypatch):
    runs: list[object] = []
    run = CudaGraphs.run
    monkeypatch.setattr(CudaGraphs, "run", lambda self, key, *rest: runs.append(key) or run(self, key, *rest))
    replaying = load(Runtime(fp8=HAS_FP8, step_cache=step_cache))
    launching = load(Runtime(fp8=HAS_FP8, step_cache=step_cache))
    launching.denoiser.kept = 0  # as of a model that moves, of which nothing is recorded
    for wanted in (rows(), rows()[::-1]):
        ours, recorded = make(replaying, *wanted), len(runs)
        plain = make(launching, *wanted)
        assert recorded > 0
        assert len(runs) == recorded
        runs.clear()
        assert all(np.array_equal(ours[name], plain[name]) for name in plain)


def test_launches_that_were_recorded_are_forgotten_when_the_weights_leave(monkeypatch):
    card = SmallCard(monkeypatch)
    wan = card.hold(sum(sizes_of(load(Runtime())).values()), lambda: offloading(Runtime(offload=True)))
    assert not wan.offloaded
    before = make(wan, *rows())
    assert wan.denoiser.kept_classes > 0
    card.room -= 1
    moves = card.held.moved.moves
    make(wan, replace(rows()[0], prompt="a green circle"))  # moves weights away and back, to another place
    after = make(wan, *rows())
    assert card.held.moved.moves > moves
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.skipif(not HAS_FP8, reason="no FP8")
@pytest.mark.parametrize("tokens", [1, 15, 880])
def test_the_gpus_fp8_product_is_the_emulated_one(tokens):
    torch.manual_seed(0)
    layer = Float8Linear(torch.randn(608, 224).bfloat16(), torch.randn(608).bfloat16())
    x = (torch.randn(2, tokens, 224) * 3).bfloat16()
    emulated = layer(x).float()
    product = layer.cuda()(x.cuda()).float().cpu()
    assert float((product - emulated).norm() / emulated.norm()) < 5e-3


def test_embeddings_do_not_depend_on_what_else_is_encoded():
    wan = load(Runtime())
    prompts = [f"a {'large ' * (count % 40)}red heart {count}" for count in range(150)]
    together = wan.text.encode(prompts)
    for prompt in prompts[::10]:
        wan.text.forget()
        assert torch.equal(wan.text.encode([prompt])[prompt], together[prompt])


@pytest.mark.parametrize("least", [False, True], ids=["the text encoder", "all parts"])
def test_parts_that_take_turns_give_the_same_pictures(least, monkeypatch):
    resident = load(Runtime())
    sizes = sizes_of(resident)
    card = SmallCard(monkeypatch)
    room = max(sizes["text"], sizes["transformer"]) if least else sum(sizes.values()) - 1
    moving = card.hold(room, lambda: offloading(Runtime(offload=True)))
    assert moving.placement.residency.vae_leaves is least
    assert all(group.pinned for group in card.held._groups.values())
    made, expected = make(moving, *rows()), make(resident, *rows())
    assert card.held.moved.moves >= 3
    assert all(np.array_equal(made[name], expected[name]) for name in made)


# ---- the full size, with random weights -----------------------------------------------------------------------

FULL_SIZES = [(1280, 704), (704, 1280)]
FULL_RUNTIMES = [pytest.param(Runtime(compile=True), id="bf16"), fp8]


@pytest.fixture(scope="module", params=FULL_RUNTIMES)
def full_size(request) -> Iterator[Wan]:
    """Wan2.2 TI2V-5B with random weights, loaded once for each precision."""
    device = torch.device("cuda")
    set_up_compiler(request.param.compile_cache)
    yield Wan(random_modules(device, torch.bfloat16), device, 4, request.param)
    torch.cuda.empty_cache()


def full_rows(width: int, height: int, guidance: float) -> list[Request]:
    """Of one size class, one more than a batch of 4 has slots, so that rows leave and others enter."""
    plain = replace(PLAIN, width=width, height=height, guidance=guidance, shift=5.0)
    return [
        replace(plain, id="a", prompt="a red heart", seed=1, steps=3),
        replace(plain, id="b", prompt="a small blue star on a dotted background", seed=2, steps=2, sampler="euler"),
        replace(plain, id="c", prompt="a green circle", seed=3, steps=4, sampler="dpmpp_2m"),
        replace(plain, id="d", prompt="", seed=4, steps=2, shift=3.0),
        replace(plain, id="e", prompt="the red heart", seed=5, steps=1, sampler="heun"),
    ]


@pytest.mark.parametrize("slots", [3, 4, 8])
@pytest.mark.parametrize("guidance", [1.0, 5.0], ids=["plain", "guided"])
@pytest.mark.parametrize(("width", "height"), FULL_SIZES)
def test_at_full_size_a_rows_bits_are_the_same_alone_and_beside_others(full_size, width, height, guidance, slots):
    """Real shapes choose other kernels than small ones do, and other splits of their sums."""
    full_size.use_slots(slots)
    check_bits(full_size, full_rows(width, height, guidance))


def check_bits(wan: Wan, wanted: list[Request]) -> None:
    """Pictures have the same bits beside others, in another order and alone, with texts that are encoded anew."""

    def made(*requests: Request) -> dict[str, np.ndarray]:
        wan.text.forget()
        return make(wan, *requests)

    together = made(*wanted)
    shuffled = made(*[wanted[index] for index in (3, 0, 4, 2, 1)])
    for row in wanted:
        assert together[row.id].std() > 0
        assert np.array_equal(shuffled[row.id], together[row.id]), row.id
        assert np.array_equal(made(row)[row.id], together[row.id]), row.id
    different = {picture.tobytes() for picture in together.values()}
    assert len(different) == len(wanted)


def of_another(size: Size, **runtime: bool):
    """A model of a size, and how it is run."""
    known = f"{size} in {' and '.join(name for name in runtime if name != 'compile') or 'bf16'}"
    marks = [pytest.mark.skipif(not HAS_FP8, reason="no FP8")] if runtime.get("fp8") else []
    return pytest.param(size, Runtime(**runtime), id=known, marks=marks)


ROOM = {"5b": 40e9, "1.3b": 30e9, "a14b": 100e9}
"""Bytes of a GPU that a model of a size takes here: also as it was made, before its layers are joined and rounded."""


@pytest.mark.parametrize(
    ("size", "runtime"),
    [
        of_another("5b", compile=True, int8=True, text_fp8=True),
        of_another("1.3b"),
        of_another("1.3b", fp8=True),
        of_another("a14b"),
        of_another("a14b", fp8=True),
    ],
)
def test_at_full_size_bits_stay_in_other_models_and_precisions(size, runtime):
    """Of A14B, rows of four steps and of three pass from one expert to the other, those of fewer steps do not."""
    device = torch.device("cuda")
    if torch.cuda.get_device_properties(device).total_memory < ROOM[size]:
        pytest.skip(f"needs {ROOM[size] / 1e9:.0f} GB")
    set_up_compiler(runtime.compile_cache)
    modules = random_modules(device, torch.bfloat16, size)
    wan = Wan(with_float8_text(modules) if runtime.text_fp8 else modules, device, 4, runtime)
    del modules
    try:
        for guidance in (1.0, 5.0):
            check_bits(wan, [replace(row, shift=12.0) for row in full_rows(*FULL_SIZES[0], guidance)])
    finally:
        del wan
        gc.collect()
        torch.cuda.empty_cache()
