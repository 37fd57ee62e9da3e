"""A converted model makes the pictures of its source, to the bit, and says what it is where it cannot."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_requests import PLAIN, source
from safetensors import safe_open

from wanbatch.errors import MachineryError, UserError
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import converting
from wanbatch.pipeline.loading.converted import CONVERTED_FILE
from wanbatch.pipeline.loading.reference import load_reference
from wanbatch.pipeline.loading.registry import ModelInfo, find
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.tokenizer import PromptTokenizer

CPU = torch.device("cpu")
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp8": "bfloat16", "int8": "bfloat16"}


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> dict[str, ModelInfo]:
    """The small model that is shipped, converted to each precision."""
    folder = tmp_path_factory.mktemp("converted")
    for precision in ("fp32", "bf16", "fp8"):
        converting.convert(find(), "tiny", folder / precision, precision, CPU)
    return {precision: find(str(folder / precision)) for precision in ("fp32", "bf16", "fp8")}


@pytest.fixture
def copy(converted, tmp_path) -> Path:
    return shutil.copytree(converted["fp8"].folder, tmp_path / "copy")


def pictures(info: ModelInfo, precision: str) -> list[np.ndarray]:
    runtime = Runtime(fp8=precision == "fp8", int8=precision == "int8")
    wan = Wan.load(info, "cpu", DTYPES[precision], 2, runtime)
    plain = replace(PLAIN, width=64, height=64, steps=2)
    rows = [plain, replace(plain, id="b", sources=(source(1),), creativity=0.5, guidance=1.0)]
    made = {result.request.id: result.pixels for result in wan.generate(rows)}
    return [made[row.id] for row in rows]


@pytest.mark.parametrize("precision", DTYPES)
def test_pictures_are_those_of_the_source_in_every_precision_that_is_kept(converted, precision):
    expected = pictures(find(), precision)
    for stored, info in converted.items():
        if info.converted.runs_in(precision):
            assert all(map(np.array_equal, pictures(info, precision), expected)), stored


def test_it_stands_for_its_source(converted):
    info = converted["bf16"]
    assert info.digest == find().digest
    assert (info.converted.source, info.converted.rounded_on) == ("tiny", "")
    assert converted["fp8"].converted.weights_on("cpu") == find().digest
    assert converted["fp8"].converted.weights_on("cuda") == f"{find().digest} rounded on cpu"
    sizes = [
        sum(file.stat().st_size for file in Path(one.folder).rglob("*.safetensors")) for one in converted.values()
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_fp8_layers_are_kept_in_fp8_and_joined(converted):
    with safe_open(Path(converted["fp8"].folder, "transformer", "wanbatch.safetensors"), framework="pt") as file:
        assert file.get_tensor("blocks.0.qkv.weight").dtype == torch.float8_e4m3fn
        assert not [name for name in file.keys() if ".attn1.to_q" in name]  # noqa: SIM118  no dict
    with safe_open(Path(converted["bf16"].folder, "transformer", "wanbatch.safetensors"), framework="pt") as file:
        assert file.get_tensor("blocks.0.qkv_weight").shape == (768, 256)
        assert not [name for name in file.keys() if ".attn1.to_q" in name]  # noqa: SIM118


@pytest.mark.parametrize(
    ("stored", "precision", "message"),
    [
        ("fp8", "bf16", "was converted to fp8, so it cannot run in bf16: --precision fp8, or --model tiny"),
        ("bf16", "fp32", "was converted to bf16, so it cannot run in fp32: --precision bf16, or --model tiny"),
    ],
)
def test_more_than_was_kept_is_refused(converted, stored, precision, message):
    with pytest.raises(UserError, match=message):
        Wan.load(converted[stored], "cpu", DTYPES[precision])


def test_what_needs_the_model_as_it_was_is_refused(converted, tmp_path):
    with pytest.raises(UserError, match=r"bf16: was converted, which diffusers does not read: --model tiny"):
        load_reference(converted["bf16"], CPU, torch.float32)
    with pytest.raises(UserError, match=r"bf16: was converted already, to bf16, of tiny: convert that"):
        converting.convert(converted["bf16"], "x", tmp_path / "again", "fp8", CPU)
    with pytest.raises(UserError, match="is there already: choose another folder, or remove it"):
        converting.convert(find(), "tiny", tmp_path, "bf16", CPU)
    assert list(tmp_path.iterdir()) == []


def test_a_converted_folder_that_was_changed_is_refused(copy):
    file = copy / "transformer" / "wanbatch.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="was changed since it was converted of tiny: convert that again"):
        find(str(copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "was written by another version of wanbatch: convert the model again"),
        ({"precision": "fp4"}, "precision is 'fp4': convert the model again"),
        ({"more": 1}, r"does not say how the model was converted \(.*more.*\): convert it again"),
    ],
)
def test_a_damaged_note_is_refused(copy, change, message):
    said = json.loads((copy / CONVERTED_FILE).read_text())
    (copy / CONVERTED_FILE).write_text(json.dumps(said | change))
    with pytest.raises(UserError, match=message):
        find(str(copy))


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    save = converting.save_tensors

    def full(tensors, path):
        if "vae" in str(path):
            raise OSError(28, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(converting, "save_tensors", full)
    with pytest.raises(MachineryError, match=r"No space left .* nothing of it was left: make room"):
        converting.convert(find(), "tiny", tmp_path / "model", "bf16", CPU)
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(converting.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"takes 0\.0 GiB, and 0\.0 GiB are free there: make room, or choose another"):
        converting.convert(find(), "tiny", tmp_path / "model", "bf16", CPU)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_only_transformers_reads_is_written_plainly(tmp_path, model_folder):
    folder = shutil.copytree(model_folder, tmp_path / "source")
    shutil.copytree(Path(find().folder, "tokenizer"), folder / "tokenizer", dirs_exist_ok=True)
    file = folder / "tokenizer" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "extra_ids": 100}))
    info = find(str(folder))
    theirs = Wan.load(info).text.tokenizer
    converting.convert(info, str(folder), tmp_path / "model", "fp32", CPU)
    ours = Wan.load(find(str(tmp_path / "model"))).text.tokenizer
    texts = ["a red heart", "<extra_id_7> two  blue stars</s>", "x " * 900]
    assert isinstance(ours, PromptTokenizer)
    assert not isinstance(theirs, PromptTokenizer)
    given = {"truncation": True, "max_length": 512}
    assert ours(texts, **given).input_ids == theirs(texts, **given).input_ids
