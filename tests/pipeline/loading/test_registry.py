"""Finding and loading models, and what is said about folders that are none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from wanbatch.errors import UserError
from wanbatch.pipeline.loading import registry, weights


@pytest.fixture
def copy(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "model")


def test_a_folder_describes_itself(model_folder):
    info = registry.find(str(model_folder))
    assert (info.width, info.height, info.steps, info.guidance) == (64, 64, 6, 4.0)
    assert (info.multiple, info.layers, info.sampler, info.shift) == (32, 3, "unipc", 3.0)
    assert len(info.digest) == 64


def test_a_folder_without_defaults_of_its_own_gets_those_of_wan(copy):
    (copy / "wanbatch.json").unlink()
    info = registry.find(str(copy))
    assert (info.width, info.height, info.steps, info.guidance) == (1280, 704, 50, 5.0)
    assert info.negative_prompt.startswith("色调艳丽")


@pytest.mark.parametrize(
    ("columns", "rows", "size"),
    [(500, 500, (64, 64)), (400, 200, (96, 32)), (200, 400, (32, 96)), (9000, 1, (4096, 32)), (1, 9000, (32, 4096))],
)
def test_a_size_that_fits_a_picture(model_folder, columns, rows, size):
    assert registry.find(str(model_folder)).fitting_size(columns, rows, 64 * 64) == size


def test_the_digest_changes_with_weights_and_with_configuration(copy):
    before = registry.find(str(copy)).digest
    file = next((copy / "vae").glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    changed = registry.find(str(copy)).digest
    (copy / "wanbatch.json").write_text("{}")
    assert len({before, changed, registry.find(str(copy)).digest}) == 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "model_index.json").unlink(), "not a model folder in diffusers layout"),
        (lambda f: (f / "model_index.json").write_text('{"_class_name": "FluxPipeline"}'), "not a Wan pipeline"),
        (lambda f: (f / "model_index.json").write_text("{"), "not valid JSON"),
        (lambda f: next((f / "vae").glob("*.safetensors")).rename(f / "vae" / "weights.bin"), "no .safetensors file"),
        (lambda f: (f / "wanbatch.json").write_text('{"stepz": 3}'), "unknown field 'stepz'; known: width"),
        (
            lambda f: (f / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}'),
            "DDIMScheduler is not known",
        ),
    ],
)
def test_a_damaged_folder_is_refused_with_the_reason(copy, spoil, message):
    spoil(copy)
    with pytest.raises(UserError, match=message):
        registry.find(str(copy))


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "nonsense"])
def test_a_name_that_is_nothing_says_what_can_be_given(name):
    with pytest.raises(UserError, match=r"no model folder .*hub id"):
        registry.find(name)


def test_a_hub_model_that_cannot_be_fetched_says_so(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = (
        "from wanbatch.pipeline.loading import registry; from wanbatch.errors import UserError\n"
        "try: registry.find('Wan-AI/Wan2.2-TI2V-5B-Diffusers', 'abc123')\n"
        "except UserError as error: print('refused:', error)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("refused: model Wan-AI/Wan2.2-TI2V-5B-Diffusers (revision abc123) is not in the cache")
    assert "unset HF_HUB_OFFLINE, fetch it before (`hf download " in printed


def test_finding_a_model_needs_no_torch(model_folder):
    find = f"from wanbatch.pipeline.loading import registry; registry.find({str(model_folder)!r})"
    code = f"import sys; {find}; print({{'torch', 'diffusers', 'transformers'}} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"


def test_weights_that_do_not_fit_the_configuration_are_a_clear_error(copy):
    config = json.loads((copy / "vae" / "config.json").read_text())
    (copy / "vae" / "config.json").write_text(json.dumps({**config, "base_dim": 16}))
    with pytest.raises(UserError, match="vae: cannot be loaded as AutoencoderKLWan"):
        weights.load(registry.find(str(copy)), torch.device("cpu"), torch.float32)
