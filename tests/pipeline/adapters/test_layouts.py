"""Every layout of adapter files gives the same weights, and those of diffusers where it reads the layout."""

from __future__ import annotations

import json
import pickle
import re

import pytest
import torch
from adapter_making import LAYOUTS, own_names, random_pairs, save_adapter
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file
from small_models import random_transformer

from wanbatch.errors import UserError
from wanbatch.pipeline.adapters.converting import convert
from wanbatch.pipeline.adapters.files import ModelLayers, read_adapter
from wanbatch.pipeline.adapters.merging import merge
from wanbatch.pipeline.adapters.tensors import load_tensors
from wanbatch.pipeline.adapters.wan_layers import wan_layers

READ_BY_DIFFUSERS = ("diffusers", "diffusers-alpha", "ai-toolkit", "musubi", "lightx2v", "lightx2v-alpha")


@pytest.fixture(scope="module")
def model():
    return random_transformer()


@pytest.fixture(scope="module")
def layers(model) -> ModelLayers:
    return ModelLayers.of_config(model.config, "small")


@pytest.fixture(scope="module")
def pairs(model):
    return random_pairs(model.config)


def merged(model, path, layers, weight=1.0) -> dict[str, torch.Tensor]:
    """The parameters of a model of the same weights with an adapter in them."""
    copy = random_transformer()
    (tensors,) = load_tensors(read_adapter(path, layers))
    merge(copy, tensors, weight)
    return dict(copy.named_parameters())


def expected(model, pairs) -> dict[str, torch.Tensor]:
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for name, (down, up) in pairs.items():
        weights[f"{name}.weight"] += up @ down
    return weights


def test_names_and_shapes_of_the_layers_are_those_of_diffusers(model):
    shapes = wan_layers(model.config).shapes
    assert shapes == {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_weights(layout, model, layers, pairs, tmp_path):
    path = save_adapter(tmp_path / "a.safetensors", model.config, pairs, layout)
    wanted = expected(model, pairs)
    for name, weight in merged(model, path, layers).items():
        torch.testing.assert_close(weight, wanted[name], rtol=1e-5, atol=1e-6, msg=name)
    said = read_adapter(path, layers)
    scale = "0.5" if LAYOUTS[layout].alpha else "1.0"
    assert said.coverage() == f"30 of 30 layers, rank 4, scale {scale}"
    assert said.only_merged is None


def merged_by_diffusers(path) -> dict[str, torch.Tensor]:
    """As `merged`, by diffusers' own loader."""
    theirs = random_transformer()
    pipeline = WanPipeline(None, None, None, None, transformer=theirs)
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    pipeline.fuse_lora(components=["transformer"])
    pipeline.unload_lora_weights()
    return dict(theirs.named_parameters())


@pytest.mark.parametrize("layout", READ_BY_DIFFUSERS)
def test_diffusers_merges_the_same(layout, model, layers, pairs, tmp_path):
    path = save_adapter(tmp_path / "a.safetensors", model.config, pairs, layout)
    found = merged_by_diffusers(path)
    for name, weight in merged(model, path, layers).items():
        torch.testing.assert_close(weight, found[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("layout", ["diffusers", "comfyui", "kohya"])
def test_diffusers_merges_the_same_from_a_converted_file(layout, model, layers, pairs, tmp_path):
    """Of layers of two ranks and scales, which diffusers has to know of each."""
    small = {name: (down[:2], up[:, :2] * 3) for name, (down, up) in pairs.items() if "attn1" in name}
    others = save_adapter(tmp_path / "a.safetensors", model.config, pairs, "musubi")
    halves = save_adapter(tmp_path / "b.safetensors", model.config, small, "ai-toolkit")
    mixed = {name: one for name, one in load_file(others).items() if "self_attn" not in name} | load_file(halves)
    save_file(mixed, tmp_path / "mixed.safetensors")
    convert(read_adapter(tmp_path / "mixed.safetensors", layers), layers, layout, tmp_path / "new.safetensors")
    theirs = merged_by_diffusers(tmp_path / "new.safetensors")
    wanted = expected(model, {**pairs, **small})
    for name, weight in merged(model, tmp_path / "new.safetensors", layers).items():
        torch.testing.assert_close(weight, wanted[name], rtol=1e-5, atol=1e-6, msg=name)
        torch.testing.assert_close(theirs[name], wanted[name], rtol=1e-5, atol=1e-6, msg=name)


def test_a_weight_scales_the_change_and_a_negative_one_takes_it_away(model, layers, pairs, tmp_path):
    path = save_adapter(tmp_path / "a.safetensors", model.config, pairs)
    name = "blocks.1.ffn.net.2.weight"
    down, up = pairs["blocks.1.ffn.net.2"]
    for weight in (0.25, -1.0):
        found = merged(model, path, layers, weight)[name]
        torch.testing.assert_close(found, model.get_parameter(name) + weight * (up @ down), rtol=1e-5, atol=1e-6)


def test_low_rank_changes_outside_the_blocks_are_merged_too(model, layers, tmp_path):
    torch.manual_seed(1)
    outer = {
        "diffusion_model.time_projection.1.lora_A.weight": torch.randn(2, 96),
        "diffusion_model.time_projection.1.lora_B.weight": torch.randn(576, 2),
        "diffusion_model.patch_embedding.lora_A.weight": torch.randn(2, 8, 1, 2, 2),
        "diffusion_model.patch_embedding.lora_B.weight": torch.randn(96, 2, 1, 1, 1),
    }
    save_file(outer, tmp_path / "a.safetensors")
    found = merged(model, tmp_path / "a.safetensors", layers)
    for module, own in (
        ("condition_embedder.time_proj", "time_projection.1"),
        ("patch_embedding", "patch_embedding"),
    ):
        down, up = (outer[f"diffusion_model.{own}.lora_{side}.weight"].flatten(1) for side in "AB")
        before = model.get_parameter(f"{module}.weight")
        torch.testing.assert_close(found[f"{module}.weight"], before + (up @ down).view_as(before))
    said = read_adapter(tmp_path / "a.safetensors", layers)
    assert said.coverage() == "0 of 30 layers, rank 2, scale 1.0, 2 outside the blocks"
    assert "rows can change the weights of the blocks' linear layers only" in said.only_merged


def test_differences_of_weights_biases_norms_and_modulations(model, layers, tmp_path):
    torch.manual_seed(2)
    own = {
        "diffusion_model.blocks.0.self_attn.q.diff_b": ("blocks.0.attn1.to_q.bias", (96,)),
        "diffusion_model.blocks.1.norm3.diff": ("blocks.1.norm2.weight", (96,)),
        "diffusion_model.blocks.1.norm3.diff_b": ("blocks.1.norm2.bias", (96,)),
        "diffusion_model.blocks.2.self_attn.norm_k.diff": ("blocks.2.attn1.norm_k.weight", (96,)),
        "diffusion_model.blocks.2.diff_m": ("blocks.2.scale_shift_table", (1, 6, 96)),
        "diffusion_model.head.diff_m": ("scale_shift_table", (1, 2, 96)),
        "diffusion_model.head.head.diff": ("proj_out.weight", (32, 96)),
        "diffusion_model.text_embedding.0.diff": ("condition_embedder.text_embedder.linear_1.weight", (96, 32)),
    }
    tensors = {key: torch.randn(shape) for key, (_, shape) in own.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    found = merged(model, tmp_path / "a.safetensors", layers)
    changed = {name: key for key, (name, _) in own.items()}
    for name, before in model.named_parameters():
        wanted = before + tensors[changed[name]] if name in changed else before
        torch.testing.assert_close(found[name], wanted, msg=name)
    said = read_adapter(tmp_path / "a.safetensors", layers)
    assert said.coverage() == (
        "0 of 30 layers, scale 1.0, full difference, 2 outside the blocks, 6 biases, norms or modulations"
    )
    assert said.only_merged is not None


@pytest.mark.parametrize("prefix", ["lora_unet_", "lycoris_"])
def test_loha_is_a_product_of_two_products(prefix, model, layers, tmp_path):
    torch.manual_seed(3)
    stem = f"{prefix}blocks_0_ffn_0"
    parts = {"w1_a": (128, 3), "w1_b": (3, 96), "w2_a": (128, 3), "w2_b": (3, 96)}
    tensors = {f"{stem}.hada_{name}": torch.randn(shape) for name, shape in parts.items()}
    save_file(tensors | {f"{stem}.alpha": torch.tensor(6.0)}, tmp_path / "a.safetensors")
    one, two, three, four = (tensors[f"{stem}.hada_{name}"] for name in parts)
    name = "blocks.0.ffn.net.0.proj.weight"
    found = merged(model, tmp_path / "a.safetensors", layers)[name]
    torch.testing.assert_close(found, model.get_parameter(name) + 2.0 * (one @ two) * (three @ four))
    assert "LoHa" in read_adapter(tmp_path / "a.safetensors", layers).only_merged


@pytest.mark.parametrize("low_rank", [False, True])
def test_lokr_is_a_kronecker_product(low_rank, model, layers, tmp_path):
    torch.manual_seed(4)
    stem, left = "lycoris_blocks_2_cross_attn_v", torch.randn(8, 8)
    tensors = {f"{stem}.lokr_w1": left, f"{stem}.alpha": torch.tensor(1.5)}
    if low_rank:
        a, b = torch.randn(12, 3), torch.randn(3, 12)
        tensors |= {f"{stem}.lokr_w2_a": a, f"{stem}.lokr_w2_b": b}
        wanted = 0.5 * torch.kron(left, a @ b)
    else:  # nothing is decomposed, so alpha scales nothing
        tensors[f"{stem}.lokr_w2"] = torch.randn(12, 12)
        wanted = torch.kron(left, tensors[f"{stem}.lokr_w2"])
    save_file(tensors, tmp_path / "a.safetensors")
    name = "blocks.2.attn2.to_v.weight"
    found = merged(model, tmp_path / "a.safetensors", layers)[name]
    torch.testing.assert_close(found, model.get_parameter(name) + wanted)


def test_scales_of_patterns_of_rank_stabilised_adapters_and_of_a_file_beside(model, layers, pairs, tmp_path):
    def scales(path) -> dict[str, float]:
        return {name: change.scale for name, change in read_adapter(path, layers).parts[0].contents.layers.items()}

    settings = {"transformer.lora_alpha": 2, "transformer.alpha_pattern": {"attn1.to_q": 8}}
    header = {"lora_adapter_metadata": json.dumps(settings)}
    found = scales(save_adapter(tmp_path / "a.safetensors", model.config, pairs, "diffusers", **header))
    assert found["blocks.1.attn1.to_q"] == 2.0
    assert found["blocks.1.attn2.to_q"] == 0.5

    path = save_adapter(tmp_path / "peft" / "adapter_model.safetensors", model.config, pairs, "peft")
    (path.parent / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "use_rslora": True}))
    assert set(scales(path).values()) == {4.0}


def test_both_experts_of_a14b_in_one_file_in_two_and_in_one_for_both(model, pairs, tmp_path):
    two = ModelLayers.of_config(model.config, "small a14b", two_experts=True)
    path = save_adapter(tmp_path / "a.safetensors", model.config, pairs, "ai-toolkit")
    tensors = load_file(path)
    named = {}
    for number, factor in ((1, 1.0), (2, 3.0)):
        for key, value in tensors.items():
            named[key.replace("diffusion_model.", f"diffusion_model.transformer_{number}.")] = value * factor
    save_file(named, tmp_path / "both.safetensors")
    first, second = load_tensors(read_adapter(tmp_path / "both.safetensors", two))
    name = "blocks.0.attn1.to_q"
    torch.testing.assert_close(second.pairs[name].up, first.pairs[name].up * 3)

    with pytest.raises(UserError, match=r"is for a model of two transformers \(A14B\), and small has one"):
        read_adapter(tmp_path / "both.safetensors", ModelLayers.of_config(model.config, "small"))

    save_file(tensors, tmp_path / "style_high_noise.safetensors")
    alone = read_adapter(tmp_path / "style_high_noise.safetensors", two)
    assert alone.coverage() == "high noise: 30 of 30 layers, rank 4, scale 1.0; low noise: nothing"
    save_file({key: value * 2 for key, value in tensors.items()}, tmp_path / "style_low_noise.safetensors")
    for given in ("high", "low"):
        pair = read_adapter(tmp_path / f"style_{given}_noise.safetensors", two)
        assert len(pair.paths) == 2
        first, second = load_tensors(pair)
        torch.testing.assert_close(second.pairs[name].up, first.pairs[name].up * 2)
    assert pair.digest != alone.digest

    first, second = load_tensors(read_adapter(path, two))
    assert first is second


def refused(path, layers) -> str:
    with pytest.raises(UserError) as error:
        read_adapter(path, layers)
    message = str(error.value)
    assert str(path) in message
    return message


def test_a_pickle_is_never_opened(layers, tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps({}))
    torch.save({"x": torch.zeros(1)}, tmp_path / "a.safetensors")  # only the name is changed
    for name in ("a.pt", "a.safetensors"):
        assert "is a pickle, which can run any code" in refused(tmp_path / name, layers)


def test_another_models_adapter_is_told_by_its_width_or_blocks(model, layers, tmp_path):
    for heads, blocks, said in (
        (8, 3, "was made for a model of width 192, and small has width 96"),
        (4, 5, "was made for a model of at least 5 blocks, and small has 3"),
    ):
        config = dict(model.config) | {"num_attention_heads": heads, "num_layers": blocks}
        path = save_adapter(tmp_path / f"{heads}.safetensors", config, random_pairs(config), "ai-toolkit")
        assert said in refused(path, layers)
    stem = "transformer.blocks.0.attn1.to_q.lora_"
    save_file({f"{stem}A.weight": torch.zeros(4, 5120), f"{stem}B.weight": torch.zeros(5120, 4)}, tmp_path / "14b")
    assert "of width 5120 (Wan 14B)" in refused(tmp_path / "14b", layers)


def test_all_keys_that_nothing_reads_are_refused_by_their_names(model, layers, pairs, tmp_path):
    stem = "transformer.blocks.{}.attn2.{}.lora_A.weight"
    alone = [f"transformer.mask_{name}.diff" for name in "abcdefg"]
    others = [*alone, *(stem.format(block, "add_k_proj") for block in (0, 2, 1)), stem.format(2, "gate")]
    more = {name: torch.zeros(4, 4) for name in others}
    message = refused(save_adapter(tmp_path / "a.safetensors", model.config, pairs, **more), layers)
    said = re.search(r"has 11 keys that no layer of small takes: (.*); refused", message)[1]
    assert set(said.split(", ")) == {*alone, stem.format("0-2", "add_k_proj"), stem.format(2, "gate")}


def test_what_is_no_adapter_or_not_all_of_one_is_refused(model, layers, pairs, tmp_path):
    save_file(dict(model.named_parameters()), tmp_path / "whole.safetensors")
    assert "holds the weights of a whole model" in refused(tmp_path / "whole.safetensors", layers)
    own = own_names(layers.layers)
    original = {f"{own[name.rsplit('.', 1)[0]]}.weight": value for name, value in model.named_parameters()
                if name.rsplit(".", 1)[0] in own and name.endswith("weight")}  # fmt: skip
    save_file(original, tmp_path / "turbo.safetensors")
    assert "give that as --model" in refused(tmp_path / "turbo.safetensors", layers)

    save_file({"lora_unet_input_blocks_1_1_proj_in.lora_down.weight": torch.zeros(4, 8)}, tmp_path / "sdxl")
    assert "was made for another kind of model" in refused(tmp_path / "sdxl", layers)

    stem = "transformer.blocks.0.attn1.to_q"
    save_file({f"{stem}.lora_A.weight": torch.zeros(4, 96)}, tmp_path / "half")
    assert f"{stem}.lora_A.weight, which is not all that its change consists of" in refused(tmp_path / "half", layers)

    dora = {f"{stem}.lora_magnitude_vector": torch.zeros(96)}
    assert "is a DoRA" in refused(save_adapter(tmp_path / "dora", model.config, pairs, **dora), layers)

    whole = save_adapter(tmp_path / "cut.safetensors", model.config, pairs)
    whole.write_bytes(whole.read_bytes()[:-100])
    assert "is not a whole safetensors file" in refused(whole, layers)
    (tmp_path / "page.safetensors").write_text("<!doctype html><html></html>")
    said = refused(tmp_path / "page.safetensors", layers)
    assert "is no safetensors file: a .safetensors file with the layers of a LoRA is accepted" in said
    assert "cannot be read (No such file or directory)" in refused(tmp_path / "none.safetensors", layers)


def test_a_scale_that_is_no_number_is_refused(model, layers, pairs, tmp_path):
    path = save_adapter(tmp_path / "a.safetensors", model.config, pairs, ss_network_alpha="large")
    assert "its alpha is 'large', which is no number" in refused(path, layers)
    alpha = {"lora_unet_blocks_0_ffn_0.alpha": torch.tensor(float("nan"))}
    path = save_adapter(tmp_path / "a.safetensors", model.config, pairs, "musubi", **alpha)
    assert "which is no finite number" in refused(path, layers)


@pytest.mark.parametrize("text", ["{'lora_alpha': 8}", "[8]"])
def test_settings_that_are_no_json_object_are_refused_as_the_scale_is_in_them(text, model, layers, pairs, tmp_path):
    path = save_adapter(tmp_path / "a.safetensors", model.config, pairs, "diffusers", lora_adapter_metadata=text)
    assert "lora_adapter_metadata of its header: is not" in refused(path, layers)
    path = save_adapter(tmp_path / "peft" / "adapter_model.safetensors", model.config, pairs, "peft")
    path.with_name("adapter_config.json").write_text(text)
    with pytest.raises(UserError, match=r"adapter_config.json: is not .* the adapter's scale is in it"):
        read_adapter(path, layers)
