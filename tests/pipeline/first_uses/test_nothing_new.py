"""After first uses of stand-ins a run of the model meets no product, attention, convolution or kernel that is new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from first_use_making import GUIDED, SMALL, load, prepared, tokenizer_of, words
from picture_requests import PLAIN, make, source
from small_models import save_random_a14b
from torch.utils._python_dispatch import TorchDispatchMode

from wanbatch.pipeline.core.prompts import TEXT_LENGTHS
from wanbatch.pipeline.core.requests import Request
from wanbatch.pipeline.first_uses import selection
from wanbatch.pipeline.first_uses.selection import Size
from wanbatch.pipeline.loading import converting, registry
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.runtime import Runtime

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


def rows(lengths: Sequence[int]) -> list[Request]:
    """Prompts of some lengths, with other samplers, steps and seeds than first uses have."""
    plain = replace(PLAIN, width=64, height=32, steps=1, guidance=1.0)
    wanted = []
    for tokens in {tokens for length in lengths for tokens in (length, length * 2 // 3)}:
        row = replace(plain, id=f"{tokens}", prompt=words(tokens), seed=tokens)
        guided = {"guidance": 3.0, "sampler": "dpmpp_2m", "negative_prompt": words(min(lengths) // 2 + 2)}
        wanted += [row, replace(row, id=f"{tokens} guided", **guided)]
    return wanted


def assert_nothing_new(
    launches: set[tuple], info: ModelInfo, sizes: Sequence[Size], wanted: Sequence[Request], runtime: Runtime
) -> None:
    """Make first uses of some sizes, and then pictures with the model."""
    preparation = prepared(info, *sizes)
    with Met() as before:
        uses = preparation.until(lambda: False, lambda: tokenizer_of(info), runtime)
    assert not uses.failure
    assert uses.left_out == 0
    launched = set(launches)
    launches.clear()
    wan = load(info, examples=None, runtime=runtime)
    assert wan.runs_by_kernels
    with Met() as after:
        assert len(make(wan, *wanted)) == len(wanted)
    assert {name for name, *_ in after.calls} >= {"linear", "conv2d", "scaled_dot_product_attention"}
    assert launches
    assert after.calls - before.calls == set()
    assert launches - launched == set()


@pytest.mark.parametrize(
    ("runtime", "lengths"),
    [
        pytest.param(Runtime(), (30,), id="short prompts"),
        pytest.param(Runtime(text_fp8=True, fp8=True), (62,), id="in FP8", marks=pytest.mark.slow),
        pytest.param(Runtime(), TEXT_LENGTHS, id="all lengths", marks=pytest.mark.slow),
    ],
)
def test_a_run_meets_no_product_attention_convolution_or_kernel_that_first_uses_had_not(
    kernels, launches, info, monkeypatch, runtime, lengths
):
    monkeypatch.setattr(selection, "MOST_COMMON", lengths)
    assert_nothing_new(launches, info, (SMALL, GUIDED), rows(lengths), runtime)


def test_nor_does_one_of_pictures_with_sources(kernels, launches, info, monkeypatch):
    monkeypatch.setattr(selection, "MOST_COMMON", (30,))
    size = Size(64, 64, guided=False, has_source=True)
    row = replace(PLAIN, guidance=1.0, steps=2, creativity=0.6, sources=(source(1), source(2)))
    assert_nothing_new(launches, info, [size], [row], Runtime())


@pytest.mark.slow
def test_nor_does_one_of_a_model_of_two_experts(kernels, launches, pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "MOST_COMMON", (30,))
    info = registry.find(str(save_random_a14b(tmp_path / "model", pipeline.components)))
    assert_nothing_new(launches, info, (SMALL, GUIDED), rows((30,)), Runtime())


@pytest.mark.parametrize("precision", ["fp32", "fp8"])
def test_nor_does_one_of_a_converted_model(kernels, launches, info, tmp_path, monkeypatch, precision):
    monkeypatch.setattr(selection, "MOST_COMMON", (30,))
    converting.convert(info, info.folder, tmp_path / "model", precision, torch.device("cpu"))
    converted = registry.find(str(tmp_path / "model"))
    assert_nothing_new(launches, converted, [SMALL], rows((30,))[:1], Runtime(fp8=precision == "fp8"))
