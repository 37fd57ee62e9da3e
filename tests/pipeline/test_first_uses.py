"""What is built while weights are read: which texts and pictures, that a run then meets nothing new, and no harm.

Triton's interpreter runs the kernels of text encoder and transformer, as it does in the tests of these.
"""

from __future__ import annotations

import gc
import json
import logging
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_requests import PLAIN, make, source
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from wanbatch.errors import UserError
from wanbatch.pipeline import first_uses, generate
from wanbatch.pipeline.core.prompts import TEXT_LENGTHS, TEXT_TOKENS
from wanbatch.pipeline.core.requests import Request
from wanbatch.pipeline.first_uses import Example, FirstUse, FirstUses, Preparation, Size, chosen
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry, single_frame, weights
from wanbatch.pipeline.loading.filling import never
from wanbatch.pipeline.loading.random_model import PUBLISHED, TEXT
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.stand_ins import STAND_IN_BYTES, stand_ins
from wanbatch.pipeline.loading.tokenizer import read_tokenizer
from wanbatch.pipeline.text.encoder import LENGTHS

pytest.importorskip("wanbatch.pipeline.models.dit_fused", reason="Triton is not installed")

SMALL = Size(64, 32, guided=False, has_source=False)
GUIDED = replace(SMALL, guided=True)
SLOTS = 2


@pytest.fixture
def kernels(monkeypatch):
    """Our kernels run on the CPU, but for those of the VAE, which take long in the interpreter."""
    monkeypatch.setattr(first_uses, "kernels_usable", lambda device: True)
    monkeypatch.setattr(single_frame, "kernels_usable", lambda device: True)
    monkeypatch.setattr(generate, "runnable_vae", lambda vae, runtime, device: (vae, "eager"))


@pytest.fixture
def info(model_folder) -> ModelInfo:
    return registry.find(str(model_folder))


def example(size: Size, prompt: str | None = None) -> Example:
    return Example(size.width, size.height, size.guided, size.has_source, prompt, "")


def load(info: ModelInfo, **changes: Any) -> Wan:
    wanted = {"slots": SLOTS, "examples": [replace(PLAIN, width=32, height=32, guidance=1.0)]}
    return Wan.load(info, "cpu", "float32", **wanted | changes)


def prepared(info: ModelInfo, *sizes: Size) -> Preparation:
    return Preparation(
        info,
        torch.device("cpu"),
        "float32",
        SLOTS,
        [example(size) for size in sizes],
        lambda parts, how: Wan(parts, torch.device("cpu"), SLOTS, how),
    )


def tokenizer_of(info: ModelInfo) -> Any:
    return read_tokenizer(Path(info.folder) / "tokenizer")


# What is chosen


def test_a_text_of_each_length_and_a_picture_of_each_length_and_size_the_common_ones_first():
    other = replace(SMALL, width=32)
    uses = chosen([(example(SMALL), None, 1), (example(other), None, 1)])
    pictures = [use for use in uses if use.size is not None]
    assert pictures == [FirstUse(length, size) for length in (62, 126, 30, 254, 512) for size in (SMALL, other)]
    assert {use.tokens for use in uses if use.size is None} == set(LENGTHS)
    assert {use.tokens for use in pictures} == set(TEXT_LENGTHS)
    assert uses[:4] == [FirstUse(64), FirstUse(48), *pictures[:2]]  # texts come before pictures of their length
    assert len(uses) == len(set(uses))


def test_the_examples_come_first_and_only_once():
    uses = chosen([(example(SMALL, "x"), 200, 1)])
    assert uses[:2] == [FirstUse(256), FirstUse(254, SMALL)]
    assert len(uses) == len(set(uses)) == len(LENGTHS) + len(TEXT_LENGTHS)


def test_guided_pictures_are_never_shorter_than_their_negative_prompt():
    uses = chosen([(example(GUIDED, "x"), 10, 130)])
    assert uses[:3] == [FirstUse(16), FirstUse(192), FirstUse(254, GUIDED)]
    assert {use.tokens for use in uses if use.size is not None} == {254, 512}
    assert {use.tokens for use in uses if use.size is None} == set(LENGTHS)  # prompts are as long as they are
    unguided = chosen([(example(SMALL, "x"), 10, 130)])
    assert {use.tokens for use in unguided if use.size is not None} == set(TEXT_LENGTHS)


def test_whatever_length_a_prompt_has_is_among_the_chosen():
    uses = chosen([(example(SMALL), None, 1)])
    for tokens in range(1, TEXT_TOKENS + 1):
        assert FirstUse(next(one for one in LENGTHS if one >= tokens)) in uses
        assert FirstUse(next(one for one in TEXT_LENGTHS if one >= tokens), SMALL) in uses


def test_requests_say_what_they_are_examples_of():
    request = replace(PLAIN, guidance=1.0, sources=(source(1),))
    assert Example.of(request).size == Size(64, 64, guided=False, has_source=True)
    assert Example.of(PLAIN).size == Size(64, 64, guided=True, has_source=False)


# What a run meets after that

HEAVY = {
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "matmul",
    "linear",
    "conv2d",
    "convolution",
    "_scaled_mm",
    "_addmm_activation",
}


class Met(TorchDispatchMode):
    """The products, convolutions and attentions that this thread calls, with shapes, strides and dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: set[tuple] = set()

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        name = function._schema.name.removeprefix("aten::")
        if name in HEAVY or "attention" in name:
            self.calls.add((name, *_forms(given), *_forms((named or {}).values())))
        return function(*given, **(named or {}))


def _forms(values: Any) -> list:
    return [
        (tuple(one.shape), one.stride(), one.dtype) if isinstance(one, torch.Tensor) else str(one) for one in values
    ]


@pytest.fixture
def launches(monkeypatch) -> set[tuple]:
    """What Triton's kernels are launched with: their names, grids, and all shapes, strides, dtypes and numbers."""
    from triton.runtime.interpreter import InterpretedFunction

    met: set[tuple] = set()
    run = InterpretedFunction.run

    def noted(self: Any, *given: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        met.add((self.fn.__name__, str(grid), *_forms(given), *_forms(named.values())))
        return run(self, *given, grid=grid, warmup=warmup, **named)

    monkeypatch.setattr(InterpretedFunction, "run", noted)
    return met


def words(tokens: int) -> str:
    """A prompt of the small model's words with this many tokens, its end included."""
    return " ".join(["red"] * (tokens - 1))


def rows(lengths: Sequence[int]) -> list[Request]:
    """Prompts of some lengths, with other samplers, steps and seeds than first uses have."""
    plain = replace(PLAIN, width=64, height=32, steps=2, guidance=1.0)
    wanted = []
    for tokens in {tokens for length in lengths for tokens in (length, length * 2 // 3)}:
        row = replace(plain, id=f"{tokens}", prompt=words(tokens), seed=tokens)
        guided = {"guidance": 3.0, "sampler": "dpmpp_2m", "negative_prompt": words(min(lengths) // 2 + 2)}
        wanted += [row, replace(row, id=f"{tokens} guided", **guided)]
    return wanted


@pytest.mark.parametrize(
    ("runtime", "lengths"),
    [
        pytest.param(Runtime(), (30,), id="short prompts"),
        pytest.param(Runtime(text_fp8=True, fp8=True), (62,), id="in FP8"),
        pytest.param(Runtime(), TEXT_LENGTHS, id="all lengths", marks=pytest.mark.slow),
    ],
)
def test_a_run_meets_no_product_attention_convolution_or_kernel_that_first_uses_had_not(
    kernels, launches, info, monkeypatch, runtime, lengths
):
    monkeypatch.setattr(first_uses, "MOST_COMMON", lengths)
    with Met() as before:
        uses = prepared(info, SMALL, GUIDED, runtime=runtime).until(
            lambda: False, lambda: tokenizer_of(info), runtime
        )
    assert not uses.failure
    assert uses.left_out == 0
    launched = set(launches)
    launches.clear()
    wan, wanted = load(info, prepare=False, runtime=runtime), rows(lengths)
    assert wan.runs_by_kernels
    with Met() as after:
        assert len(make(wan, *wanted)) == len(wanted)
    assert {name for name, *_ in after.calls} >= {"linear", "conv2d", "scaled_dot_product_attention"}
    assert launches
    assert after.calls - before.calls == set()
    assert launches - launched == set()


@pytest.mark.parametrize("runtime", [Runtime(), Runtime(fp8=True, text_fp8=True), Runtime(int8=True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stand_ins_have_the_weights_of_the_model_s_first_blocks_in_shape_dtype_and_strides(info, runtime, dtype):
    cpu = torch.device("cpu")
    makers = single_frame.block_maker(runtime, cpu), single_frame.text_maker(runtime, cpu)
    theirs, ours = weights.load(info, cpu, dtype, *makers), stand_ins(info, cpu, dtype, runtime)
    embeddings = ("shared.", "encoder.embed_tokens.")  # of fewer tokens
    for name in ("transformer", "vae", "text_encoder"):
        expected, found = forms(getattr(theirs, name)), forms(getattr(ours, name))
        assert found.keys() <= expected.keys()
        first_blocks = {key for key in expected if not key.startswith("blocks.2.")}
        assert found.keys() == first_blocks
        assert [key for key in found if found[key] != expected[key] and not key.startswith(embeddings)] == []


def forms(module: nn.Module) -> dict[str, tuple]:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: (tuple(one.shape), one.stride(), one.dtype, one.requires_grad) for name, one in tensors.items()}


@pytest.mark.parametrize("size", ["5b", "a14b", "1.3b"])
def test_stand_ins_of_wans_models_take_no_more_room_than_is_asked_for(size, tmp_path):
    published = PUBLISHED[size]
    for part, config in (("transformer", published.transformer), ("vae", published.vae), ("text_encoder", TEXT)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    made = stand_ins(replace(registry.find(), folder=str(tmp_path)), torch.device("meta"), torch.bfloat16, Runtime())
    parts = (made.transformer, made.vae, made.text_encoder)
    tensors = {one for part in parts for one in (*part.parameters(), *part.buffers())}
    assert 500e6 < sum(one.nbytes for one in tensors) < STAND_IN_BYTES


# What must not change


@pytest.fixture
def begun(monkeypatch) -> list[FirstUse]:
    """The first uses that are made, as they begin."""
    uses: list[FirstUse] = []
    real = first_uses.make

    def noted(wan: Any, use: FirstUse) -> None:
        uses.append(use)
        real(wan, use)

    monkeypatch.setattr(first_uses, "make", noted)
    return uses


def hold(monkeypatch, until: Callable[[], bool]) -> None:
    """Have the model's files be read only once something is so, or nobody waits for them."""
    read = generate.load

    def later(*given: Any, stopped: Callable[[], bool] = never, **more: Any) -> Any:
        while not until() and not stopped():
            time.sleep(0.01)
        return read(*given, stopped=stopped, **more)

    monkeypatch.setattr(generate, "load", later)


def test_pictures_have_the_bits_that_they_have_without_and_nothing_random_is_drawn(kernels, info, monkeypatch, begun):
    hold(monkeypatch, lambda: len(begun) > 4)
    state = torch.get_rng_state()
    wan = load(info)
    assert torch.equal(torch.get_rng_state(), state)
    assert any(use.size is not None for use in begun)
    wanted = replace(PLAIN, width=32, height=32, steps=2)
    rows = [wanted, replace(wanted, id="b", guidance=1.0, prompt=words(40)), replace(wanted, id="c", sampler="euler")]
    ours, theirs = make(wan, *rows), make(load(info, prepare=False), *rows)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_what_is_left_when_the_model_is_there_is_left_out(kernels, info, monkeypatch, begun):
    hold(monkeypatch, lambda: len(begun) == 2)
    found = load(info).first_uses
    assert found.failure == ""
    assert found.left_out > 0
    assert list(found.made) == ["stand-ins", *(use.name for use in begun)]
    assert len(begun) < len(chosen([(example(SMALL), None, 1)]))
    assert found.seconds >= sum(found.made.values())


def test_stand_ins_are_gone_when_the_model_is_there(kernels, info, monkeypatch):
    seen: list[weakref.ref] = []
    real = first_uses.make
    monkeypatch.setattr(first_uses, "make", lambda wan, use: seen.append(weakref.ref(wan)) or real(wan, use))
    hold(monkeypatch, lambda: len(seen) > 3)
    gc.collect()
    gc.disable()
    try:
        load(info)
        assert seen
        assert all(one() is None for one in seen)
    finally:
        gc.enable()


def test_no_embedding_of_a_stand_in_is_kept_on_the_disk(kernels, info, monkeypatch, begun, tmp_path):
    hold(monkeypatch, lambda: len(begun) > 3)
    load(info, runtime=Runtime(text_cache=str(tmp_path / "texts")))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# What goes wrong


def test_what_goes_wrong_is_said_and_the_model_is_loaded(kernels, info, monkeypatch, caplog):
    tried: list[FirstUse] = []

    def failing(wan: Any, use: FirstUse) -> None:
        tried.append(use)
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(first_uses, "make", failing)
    hold(monkeypatch, lambda: bool(tried))
    wan = load(info)
    assert len(tried) == 1
    assert wan.first_uses.failure == "OutOfMemoryError: CUDA out of memory."
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        "what the first pictures need is not ready before they come: OutOfMemoryError: CUDA out of memory."
    ]
    assert make(wan, replace(PLAIN, width=32, height=32, steps=1))


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("transformer/diffusion_pytorch_model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100])),
        ("transformer/config.json", lambda path: path.write_text("{")),
        ("vae/config.json", lambda path: path.unlink()),
        ("text_encoder/config.json", lambda path: path.write_text("[]")),
        ("text_encoder/model.safetensors", lambda path: path.unlink()),
        ("tokenizer/tokenizer.json", lambda path: path.write_text("no JSON")),
    ],
)
def test_a_model_that_cannot_be_loaded_is_refused_in_the_same_words(kernels, model_folder, tmp_path, part, damage):
    info = registry.find(str(shutil.copytree(model_folder, tmp_path / "model")))
    damage(tmp_path / "model" / part)
    said = []
    for prepare in (False, True):
        with pytest.raises(UserError) as caught:
            load(info, prepare=prepare)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert not [one.name for one in threading.enumerate() if one.name.startswith(("load", "weights"))]


def test_an_interrupt_stops_the_reading(kernels, info, monkeypatch):
    def interrupted(wan: Any, use: FirstUse) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(first_uses, "make", interrupted)
    ended: list[BaseException] = []
    read = generate.load

    def noted(*given: Any, stopped: Callable[[], bool], **more: Any) -> Any:
        while not stopped():
            time.sleep(0.01)
        try:
            return read(*given, stopped=stopped, **more)
        except BaseException as error:
            ended.append(error)
            raise

    monkeypatch.setattr(generate, "load", noted)
    with pytest.raises(KeyboardInterrupt):
        load(info)
    assert [type(error) for error in ended] == [CancelledError]


# Where nothing is made


def test_nothing_is_made_without_a_gpu(info):
    assert Wan.load(info).first_uses == FirstUses()


def test_nothing_is_made_where_there_is_no_room_or_parts_take_turns(kernels, info, monkeypatch):
    assert prepared(info, SMALL).can_be_made(Runtime(), eight_bits=False)
    assert not prepared(info, SMALL).can_be_made(Runtime(offload=True), eight_bits=False)
    monkeypatch.setattr(first_uses, "free_memory", lambda device: STAND_IN_BYTES + (1 << 20))
    assert not prepared(info, SMALL).can_be_made(Runtime(), eight_bits=False)


@pytest.mark.parametrize(
    ("part", "change"),
    [("text_encoder", {"feed_forward_proj": "relu"}), ("transformer", {"cross_attn_norm": False})],
)
def test_nothing_is_made_of_a_model_of_another_form(kernels, model_folder, tmp_path, part, change):
    info = registry.find(str(shutil.copytree(model_folder, tmp_path / "model")))
    path = tmp_path / "model" / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    preparation = prepared(info, SMALL)
    if part == "text_encoder":
        assert not preparation.can_be_made(Runtime(), eight_bits=False)
        return
    found = preparation.until(lambda: False, lambda: tokenizer_of(info), Runtime())
    assert list(found.made) == ["stand-ins"]
    assert found.failure == ""
