"""Adapter files whose tensors are no numbers are refused before a picture is made with them."""

from __future__ import annotations

import pytest
import torch
from adapter_making import random_pairs, save_adapter
from safetensors.torch import load_file, save_file

from wanbatch.errors import UserError
from wanbatch.pipeline.adapters import numbers
from wanbatch.pipeline.adapters.files import ModelLayers, read_adapter

CONFIG = {
    "num_attention_heads": 2, "attention_head_dim": 8, "ffn_dim": 32, "num_layers": 1, "in_channels": 4,
    "out_channels": 4, "text_dim": 12, "freq_dim": 8, "patch_size": [1, 2, 2],
}  # fmt: skip
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn)
INFINITE = FLOATS[:-1]  # the last one has no infinity


def written(folder, dtype, key=None, value=None):
    """An adapter of these numbers, of which the last one of a tensor is the given one."""
    path = save_adapter(folder / "a.safetensors", CONFIG, random_pairs(CONFIG))
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    key = key and next(name for name in sorted(tensors) if key in name)
    if key:
        changed = tensors[key].double()
        changed.view(-1)[-1] = value
        tensors[key] = changed.to(dtype)
    save_file(tensors, path)
    return path, key


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("largest", [1, -1])
def test_the_largest_numbers_of_each_type_are_numbers(dtype, largest, tmp_path):
    path, _ = written(tmp_path, dtype, "lora_B", largest * torch.finfo(dtype).max)
    assert read_adapter(path, ModelLayers.of_config(CONFIG, "small")).rank


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(dtype, float("nan")) for dtype in FLOATS]
    + [(dtype, sign * float("inf")) for dtype in INFINITE for sign in (1, -1)],
)
def test_what_is_no_number_is_refused_with_the_name_of_its_tensor(dtype, value, tmp_path, monkeypatch):
    monkeypatch.setattr(numbers, "BYTES_AT_ONCE", 24)  # it is in the last of several pieces
    for which in ("lora_A", "lora_B"):
        path, key = written(tmp_path, dtype, which, value)
        with pytest.raises(UserError) as error:
            read_adapter(path, ModelLayers.of_config(CONFIG, "small"))
        assert str(error.value).startswith(f"adapter {path}: {key} holds NaN or infinity")


def test_whole_numbers_are_no_weights(tmp_path):
    path, _ = written(tmp_path, torch.int8)
    with pytest.raises(UserError, match=r"lora_A.weight is of type I8, whose scale is nowhere in the file: take the"):
        read_adapter(path, ModelLayers.of_config(CONFIG, "small"))


def test_what_is_added_as_a_whole_is_looked_at_too(tmp_path):
    pairs = random_pairs(CONFIG)
    bad = {"transformer.blocks.0.attn1.to_q.diff_b": torch.full((16,), float("nan"))}
    path = save_adapter(tmp_path / "a.safetensors", CONFIG, pairs, **bad)
    with pytest.raises(UserError, match=r"to_q.diff_b holds NaN or infinity"):
        read_adapter(path, ModelLayers.of_config(CONFIG, "small"))
