"""Models are read without diffusers and transformers, and are to the last bit what these make of the same files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import save_random_pipeline
from torch import nn

from wanbatch.errors import UserError
from wanbatch.pipeline.loading import registry, weight_files
from wanbatch.pipeline.loading.modules import Modules
from wanbatch.pipeline.loading.reference import load_reference
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import block_maker
from wanbatch.pipeline.loading.weight_files import WeightReader, stored_tensors
from wanbatch.pipeline.loading.weights import load
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.vae import FrameVAE

CPU = torch.device("cpu")
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def both(request) -> tuple[Modules, Modules]:
    """The small model that is shipped, by our reader and by diffusers and transformers."""
    info = registry.find()
    return load(info, CPU, request.param), load_reference(info, CPU, request.param)


@pytest.fixture
def copy(model_folder, tmp_path) -> Path:
    return shutil.copytree(model_folder, tmp_path / "model")


def named(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    expected = named(theirs)
    assert named(ours).keys() == expected.keys()
    for name, tensor in named(ours).items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name
        assert not tensor.requires_grad


def test_every_tensor_has_the_name_the_dtype_and_the_bits_of_diffusers(both):
    ours, theirs = both
    assert_same(FrameTransformer(ours.transformer), FrameTransformer(theirs.transformer))
    assert_same(ours.vae, FrameVAE.from_video(theirs.vae))
    assert_same(ours.text_encoder, theirs.text_encoder)


@torch.inference_mode()
def test_text_states_have_the_bits_of_transformers(both):
    ours, theirs = (modules.text_encoder for modules in both)
    tokens = torch.randint(3, 280, (3, 200), generator=torch.Generator().manual_seed(1))
    for real in (200, 40, 1):
        mask = torch.ones_like(tokens)
        mask[1, real:] = 0
        expected = theirs(tokens, mask).last_hidden_state
        assert torch.equal(ours(tokens, mask).last_hidden_state, expected)


@torch.inference_mode()
def test_a_step_has_the_bits_of_the_one_over_modules_of_diffusers(both):
    frames = [FrameTransformer(modules.transformer) for modules in both]
    generator = torch.Generator().manual_seed(2)
    embeds, latents = (torch.randn(shape, generator=generator) for shape in ((2, 9, 128), (2, 32, 8, 6)))
    lengths, timestep = torch.tensor([9, 4]), torch.tensor([990.5, 12.0])
    ours, theirs = (frame(latents, timestep, frame.context(embeds, lengths, 512)) for frame in frames)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("runtime", [Runtime(), Runtime(fp8=True), Runtime(int8=True)], ids=["plain", "fp8", "int8"])
def test_blocks_made_ready_as_they_come_are_those_made_ready_at_the_end(runtime):
    info = registry.find()
    coming = load(info, CPU, torch.float32, block_maker(runtime, CPU)).transformer
    later = FrameTransformer(load(info, CPU, torch.float32).transformer)
    for block in later.blocks:
        block_maker(runtime, CPU)(block)
    assert_same(coming, later)


def test_fields_that_a_configuration_leaves_out_mean_what_they_mean_to_diffusers(tmp_path):
    folder = save_random_pipeline(tmp_path / "model")
    expected = load_reference(registry.find(str(folder)), CPU, torch.float32)
    for name in ("text_encoder", "transformer"):
        file = folder / name / "config.json"
        config = json.loads(file.read_text())
        for field in ("eps", "layer_norm_epsilon", "relative_attention_max_distance", "cross_attn_norm"):
            config.pop(field, None)
        file.write_text(json.dumps(config))
    ours = load(registry.find(str(folder)), CPU, torch.float32)
    assert_same(FrameTransformer(ours.transformer), FrameTransformer(expected.transformer))
    assert_same(ours.text_encoder, expected.text_encoder)


def test_weights_in_several_files(copy):
    folder, expected = copy / "transformer", load(registry.find(str(copy)), CPU, torch.float32)
    whole = load_file(copy / TRANSFORMER)
    (copy / TRANSFORMER).unlink()
    names, files = sorted(whole), {}
    for number in range(3):
        part = {name: whole[name] for name in names[number::3]}
        save_file(part, folder / f"part-{number}.safetensors")
        files |= dict.fromkeys(part, f"part-{number}.safetensors")
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    found = load(registry.find(str(copy)), CPU, torch.float32)
    assert_same(FrameTransformer(found.transformer), FrameTransformer(expected.transformer))
    index.write_text(json.dumps({"weight_map": {names[0]: "../elsewhere.safetensors"}}))
    with pytest.raises(UserError, match=r"index\.json: names a file elsewhere: restore"):
        load(registry.find(str(copy)), CPU, torch.float32)


def test_a_text_encoder_of_another_kind_is_left_to_transformers(copy):
    file = copy / "text_encoder" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "feed_forward_proj": "gated-silu"}))
    encoder = load(registry.find(str(copy)), CPU, torch.float32).text_encoder
    assert type(encoder).__module__.startswith("transformers.")


def without(name: str):
    def change(folder: Path) -> None:
        tensors = load_file(folder / TRANSFORMER)
        del tensors[name]
        save_file(tensors, folder / TRANSFORMER)

    return change


def cut_off(folder: Path) -> None:
    os.truncate(folder / TRANSFORMER, (folder / TRANSFORMER).stat().st_size - 1000)


def other_layers(folder: Path) -> None:
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "ffn_dim": 96}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("blocks.1.attn2.to_k.weight"),
            r"WanTransformer3DModel: its files have no blocks\.1\.attn2\.to_k\.weight",
        ),
        (other_layers, r"blocks\.0\.ffn\.net\.0\.proj\.weight is 128 x 96 in its files, and 96 x 96 here"),
        (cut_off, r"safetensors: is not a whole safetensors file .*: restore the model's files"),
        (lambda f: (f / TRANSFORMER).write_bytes(b"\x01"), "is not a whole safetensors file"),
    ],
)
def test_files_that_do_not_make_the_model(copy, change, message):
    change(copy)
    with pytest.raises(UserError, match=message):
        load(registry.find(str(copy)), CPU, torch.float32)


def test_weights_of_parts_that_the_model_lacks_are_refused(copy):
    tensors = load_file(copy / TRANSFORMER)
    unused = {"blocks.0.attn2.norm_added_q.weight": torch.ones(4)}
    save_file({**tensors, **unused}, copy / TRANSFORMER)
    load(registry.find(str(copy)), CPU, torch.float32)
    save_file({**tensors, **unused, "blocks.0.to_gate_compress.weight": torch.ones(4)}, copy / TRANSFORMER)
    with pytest.raises(UserError, match=r"its files have blocks\.0\.to_gate_compress\.weight and 0 more for parts"):
        load(registry.find(str(copy)), CPU, torch.float32)


def test_pieces_on_the_way_to_a_device_make_the_same_tensors(copy, monkeypatch):
    monkeypatch.setattr(weight_files, "PIECE_BYTES", 100)
    whole, staged = WeightReader(CPU), WeightReader(CPU, staged=True)
    for stored in stored_tensors(copy / "vae", "diffusion_pytorch_model").values():
        assert torch.equal(staged.read(stored), whole.read(stored))
    whole.close()
    staged.close()


def test_a_file_that_becomes_shorter_is_no_model(copy):
    stored = stored_tensors(copy / "transformer", "diffusion_pytorch_model")["proj_out.weight"]
    reader = WeightReader(CPU)
    assert reader.read(stored).shape == stored.shape
    os.truncate(stored.path, stored.offset + 4)
    with pytest.raises(UserError, match="became shorter while it was read: restore the model's files"):
        reader.read(stored)
    reader.close()


def test_a_worker_of_the_small_model_imports_neither_libraries_nor_the_compiler():
    """Seconds of every start: diffusers and transformers with what they bring, and what only compiling needs."""
    code = (
        "import sys, json; from wanbatch.pipeline.generate import Wan;"
        "from wanbatch.pipeline.loading import registry;"
        "import wanbatch.jobs.worker.actor;"
        "wan = Wan.load(registry.find()); wan.encode_prompts([]); wan.text.encode(['a red heart']);"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules} | set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    slow = {"diffusers", "transformers", "accelerate", "scipy", "sklearn", "torchvision", "sympy", "triton"}
    assert not (slow | {"torch._dynamo", "torch._inductor"}) & set(json.loads(done.stdout))
