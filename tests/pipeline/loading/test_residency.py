"""Which parts of a model share a GPU, by bytes alone."""

from __future__ import annotations

import runpy
from itertools import pairwise
from math import prod
from pathlib import Path

import pytest
import torch

from wanbatch.errors import UserError
from wanbatch.pipeline.loading import registry, weights
from wanbatch.pipeline.loading.offload import size_of
from wanbatch.pipeline.loading.residency import (
    GIB,
    Residency,
    choices,
    fits_whole,
    plan_residency,
    require_whole,
    shapes_in,
    weight_sizes,
    working_for,
)
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import single_frame_transformer

CPU = torch.device("cpu")
BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
ONE = {"text": 11, "transformer": 10, "vae": 2}
TWO = {"text": 11, "high_noise": 28, "low_noise": 28, "vae": 1}
WORKING = {"text": 1, "denoising": 5, "vae": 3}


@pytest.mark.parametrize(
    ("sizes", "free", "expected"),
    [
        (ONE, 28, Residency()),
        (ONE, 27, Residency(text_leaves=True)),
        (ONE, 17, Residency(text_leaves=True)),
        (ONE, 16, Residency(True, True, True)),
        (ONE, 15, Residency(True, True, True)),
        (TWO, 73, Residency()),
        (TWO, 72, Residency(text_leaves=True)),
        (TWO, 62, Residency(text_leaves=True)),
        (TWO, 61, Residency(True, True)),
        (TWO, 34, Residency(True, True)),
        (TWO, 33, Residency(True, True, True)),
    ],
)
def test_no_more_parts_take_turns_than_the_memory_asks_for(sizes, free, expected):
    assert plan_residency(sizes, WORKING, free) == expected


@pytest.mark.parametrize(
    ("sizes", "free", "message"),
    [
        (ONE, 14, r"the GPU has 14.0 GiB free, and a transformer alone needs 15.0 GiB .*: use .*--precision fp8"),
        (TWO, 32, r"a transformer alone needs 33.0 GiB with what it works in"),
        (
            {**ONE, "text": 20},
            20,
            r"the text encoder alone needs 21.0 GiB .*: use a larger GPU, --text-precision fp8, or a smaller model$",
        ),
    ],
)
def test_what_does_not_fit_in_any_way_is_refused_with_the_part_that_lacks_room(sizes, free, message):
    with pytest.raises(UserError, match=message):
        plan_residency(*({name: size * GIB for name, size in one.items()} for one in (sizes, WORKING)), free * GIB)


def test_what_is_beside_a_transformer_that_works():
    ways = [residency.beside_transformer(TWO) for residency, _ in choices(TWO, WORKING)]
    assert ways == [11 + 28 + 1, 28 + 1, 1, 0]


@pytest.mark.parametrize("sizes", [ONE, TWO])
def test_each_way_needs_less_than_the_one_before(sizes):
    needed = [needed for _, needed in choices(sizes, WORKING)]
    assert all(one > other for one, other in pairwise(needed))


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(BENCHMARKS / "gpu_memory.py"))


def test_cards_that_the_models_fit_on(script):
    """By reckoning: all of A14B on 80 GB with few slots, all in FP8 on 48 GB, where experts in bf16 take turns."""

    def gigabytes(*which) -> list[float]:
        return [needed / 1e9 for needed in script["bytes_by_way"](*which).values()]

    whole, text, turns, _ = gigabytes("a14b", 4, False)
    assert 70 < whole < 80
    assert text < whole - 10
    assert 32 < turns < 40
    assert 48 < gigabytes("a14b", 4, True)[0] < 52  # an H200 with 80 GB allowed: 50.7 at most were allocated
    assert 21 < gigabytes("a14b", 4, True)[2] < 24  # with 24 GB allowed: 21.8
    assert gigabytes("a14b", 4, True, True)[0] < 48
    whole, text, every = gigabytes("5b", 4, False)
    assert 22.5 < whole < 26  # with 24 GB the text encoder took turns, and the most that was allocated was 22.1 GB
    assert 12 < text < 16
    assert 12 < every < 13  # the text encoder alone


def test_the_page_on_performance_has_the_table(script):
    page = (BENCHMARKS.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    there = page.split("<!-- memory: from benchmarks/gpu_memory.py -->\n")[1].split("<!-- end of memory -->")[0]
    assert there.splitlines() == list(script["table"]())


def test_a_folder_is_weighed_by_the_headers_of_its_files(model_folder):
    files = Path(model_folder).glob("*/*.safetensors")
    parts = {path.parent.name: sum(prod(shape) for shape in shapes_in(path).values()) for path in files}
    names = {"text": "text_encoder", "vae": "vae", "transformer": "transformer"}
    assert weight_sizes(model_folder, "bfloat16") == {name: 2 * parts[part] for name, part in names.items()}
    free = sum(weight_sizes(model_folder, "float32").values()) + max(working_for(model_folder, 2, 64 * 64).values())
    assert fits_whole(model_folder, "float32", False, 2, 64 * 64, free)
    assert not fits_whole(model_folder, "float32", False, 2, 64 * 64, free - 1)
    assert fits_whole(model_folder, "float32", True, 2, 64 * 64, free - 1)


def test_what_the_refusals_offer_makes_room(model_folder):
    """A larger GPU, weights in eight bits, fewer slots, fewer rows at a time."""

    def refused(room: int, eight_bits: bool = False, text_fp8: bool = False, slots: int = 8, **sizes: int) -> str:
        weights = weight_sizes(model_folder, "float32", eight_bits, text_fp8) | {"vae": 0, **sizes}
        try:
            plan_residency(weights, {"text": 0, "denoising": slots << 20, "vae": 0}, room)
        except UserError as error:
            return str(error)
        return "made room"

    sizes = weight_sizes(model_folder, "float32")
    room = sizes["transformer"] + (8 << 20)
    assert "a transformer alone needs" in refused(room - 1)
    assert refused(room) == refused(room - 1, eight_bits=True) == refused(room - 1, slots=4) == "made room"
    assert "the text encoder alone needs" in refused(sizes["text"] - 1, slots=0, transformer=0)
    assert refused(sizes["text"] - 1, slots=0, transformer=0, text_fp8=True) == "made room"

    room = choices(weight_sizes(model_folder, "float32"), working_for(model_folder, 4000, 1 << 24))[0][1]
    with pytest.raises(UserError, match=r"this needs all of m on the GPU .*fewer rows at a time \(--batch\)"):
        require_whole(model_folder, "m", "float32", 8000, 1 << 24, room)
    require_whole(model_folder, "m", "float32", 4000, 1 << 24, room)


def test_sizes_of_modules_are_those_of_their_files(wan, model_folder):
    sizes = weight_sizes(model_folder, "float32")
    assert size_of(wan.text.model) == pytest.approx(sizes["text"], rel=0.02)
    assert size_of(wan.experts[0]) == pytest.approx(sizes["transformer"], rel=0.1)  # rotary tables are not in files


@pytest.mark.parametrize("precision", [{"fp8": True}, {"int8": True}], ids=str)
def test_in_eight_bits_layers_that_stay_as_they_are_count_too(precision):
    """Those of the texts' keys and values, a sixth of A14B: without them a card of 48 GB seemed to have room."""
    info = registry.find()
    modules = weights.load(info, CPU, torch.bfloat16)
    transformer = single_frame_transformer(modules.transformer, Runtime(**precision), CPU)
    size = weight_sizes(Path(info.folder), "bfloat16", eight_bits=True)["transformer"]
    assert size_of(transformer) == pytest.approx(size, rel=0.05)  # the embedding of times is in float32


@pytest.mark.parametrize(
    "content", [b"", b"\x01", b"\xff" * 4000, b"\x10" + b"\0" * 7 + b'{"a": {"shape": [', b"\2" + b"\0" * 7 + b"[]"]
)
def test_a_file_whose_header_is_damaged_is_named(tmp_path, content):
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(
        UserError, match=r"weights.safetensors: is not a whole safetensors file .*: restore the model's"
    ):
        shapes_in(tmp_path / "weights.safetensors")
