"""First uses while weights are read: pictures and errors are those without, and nothing stays behind."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from first_use_making import SMALL, Begun, hold_weights, load, note_first_uses, prepared, tokenizer_of, words
from picture_requests import PLAIN, make

from wanbatch.errors import UserError
from wanbatch.pipeline import generate
from wanbatch.pipeline.core.prompts import ENCODER_LENGTHS, TEXT_LENGTHS
from wanbatch.pipeline.first_uses import beside_loading
from wanbatch.pipeline.first_uses.beside_loading import FirstUses
from wanbatch.pipeline.first_uses.selection import FirstUse
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.stand_ins import STAND_IN_BYTES


@pytest.fixture
def begun(monkeypatch) -> list[Begun]:
    return note_first_uses(monkeypatch)


def test_pictures_have_the_bits_that_they_have_without_and_nothing_random_is_drawn(kernels, info, monkeypatch, begun):
    hold_weights(monkeypatch, lambda: len(begun) >= 2)
    state = torch.get_rng_state()
    wan = load(info)
    assert torch.equal(torch.get_rng_state(), state)
    assert any(one.use.size is not None for one in begun)
    wanted = replace(PLAIN, width=32, height=32, steps=1)
    rows = [wanted, replace(wanted, id="b", guidance=1.0, prompt=words(20), sampler="euler")]
    ours, theirs = make(wan, *rows), make(load(info, examples=None), *rows)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_what_is_left_when_the_model_is_there_is_left_out(kernels, info, monkeypatch, begun):
    hold_weights(monkeypatch, lambda: len(begun) >= 2)
    found = load(info).first_uses
    assert found.failure == ""
    assert found.left_out > 0
    assert list(found.made) == ["stand-ins", "tokenizer", *(one.use.name for one in begun)]
    assert found.left_out + len(begun) == len(ENCODER_LENGTHS) + len(TEXT_LENGTHS)
    assert found.seconds >= sum(found.made.values())


def test_stand_ins_are_gone_when_the_model_is_there(kernels, info, monkeypatch):
    seen: list[weakref.ref] = []
    real = beside_loading.make
    monkeypatch.setattr(beside_loading, "make", lambda wan, use: seen.append(weakref.ref(wan)) or real(wan, use))
    hold_weights(monkeypatch, lambda: len(seen) >= 2)
    gc.collect()
    gc.disable()
    try:
        load(info)
        assert seen
        assert all(one() is None for one in seen)
    finally:
        gc.enable()


def test_no_embedding_of_a_stand_in_is_kept_on_the_disk(kernels, info, monkeypatch, begun, tmp_path):
    hold_weights(monkeypatch, lambda: len(begun) >= 2)
    load(info, runtime=Runtime(text_cache=str(tmp_path / "texts")))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# What goes wrong


def test_what_goes_wrong_is_said_and_the_model_is_loaded(kernels, info, monkeypatch, caplog):
    tried: list[FirstUse] = []

    def failing(wan: Any, use: FirstUse) -> None:
        tried.append(use)
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(beside_loading, "make", failing)
    hold_weights(monkeypatch, lambda: bool(tried))
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
    for examples in (None, ()):
        with pytest.raises(UserError) as caught:
            load(info, examples=examples)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert not [one.name for one in threading.enumerate() if one.name.startswith(("load", "weights"))]


def test_an_interrupt_stops_the_reading(kernels, info, monkeypatch):
    def interrupted(wan: Any, use: FirstUse) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(beside_loading, "make", interrupted)
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
    monkeypatch.setattr(beside_loading, "free_memory", lambda device: STAND_IN_BYTES + (1 << 20))
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
