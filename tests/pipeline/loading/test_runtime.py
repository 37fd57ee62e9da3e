"""The model compiled, in FP8, and warmed up: the same pictures, and what is recorded."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from picture_requests import PLAIN, difference, make, source

from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.loading.runtime import Runtime, default_compile_cache


@pytest.fixture(scope="module")
def tiny() -> registry.ModelInfo:
    return registry.find("tiny")


ROWS = [
    replace(PLAIN, id="text", prompt="a large red heart on a striped purple background", width=128, height=128),
    replace(PLAIN, id="plain", guidance=1.0, steps=4, width=128, height=128),
]


@pytest.mark.slow
@pytest.mark.timeout(900)  # a compiler on a busy machine
def test_compiled_pictures_are_those_of_the_eager_model(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    cache = tmp_path / "cache"
    rows = [*ROWS, replace(ROWS[0], id="source", sources=(replace(source(1), pixels=_picture()),), creativity=0.5)]
    compiled = Wan.load(tiny, slots=2, runtime=Runtime(compile=True, compile_cache=str(cache)))
    assert compiled.backends == {
        "text": "eager-float32",
        **dict.fromkeys(("encode", "denoise", "decode"), "compiled-float32"),
    }
    assert compiled.warm_up(rows) > 0
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(cache)
    assert any(path.is_file() for path in cache.rglob("*"))
    torch._dynamo.utils.counters.clear()
    pictures = make(compiled, *rows)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0, "something was compiled after the warm-up"
    eager = make(Wan.load(tiny, slots=2), *rows)
    for name, picture in pictures.items():
        assert difference(picture, eager[name]) <= 1, name
        assert picture.std() > 10


def _picture() -> np.ndarray:
    y, x = np.mgrid[:128, :128]
    return np.stack([x * 2, y * 2, x + y], axis=-1).astype(np.uint8)


def test_fp8_is_recorded_and_stays_near(model_folder, wan):
    rough = Wan.load(registry.find(str(model_folder)), dtype="bfloat16", slots=3, runtime=Runtime(fp8=True))
    assert rough.backends["denoise"] == "eager-bfloat16-fp8-emulated"
    assert rough.backends["decode"] == "eager-bfloat16"
    exact, pictures = make(wan, PLAIN)["a"], make(rough, PLAIN)["a"]
    assert difference(exact, pictures) > 0
    assert np.abs(exact.astype(int) - pictures).mean() < 10


def test_the_cache_of_compiled_code_is_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_compile_cache() == tmp_path / "wanbatch" / "compile"


def test_embeddings_on_disk_belong_to_a_model_and_a_dtype(model_folder, tmp_path):
    info, runtime = registry.find(str(model_folder)), Runtime(text_cache=str(tmp_path))
    first = Wan.load(info, runtime=runtime)
    pictures = [make(first, PLAIN)["a"]]
    again, other = Wan.load(info, runtime=runtime), Wan.load(info, dtype="bfloat16", runtime=runtime)
    assert again.text.cache.get(PLAIN.prompt) is not None
    assert other.text.cache.get(PLAIN.prompt) is None
    pictures.append(make(again, PLAIN)["a"])
    assert np.array_equal(*pictures)
