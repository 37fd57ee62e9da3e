"""Which models are taken: those that make single pictures from text. Others are refused by their configuration."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
from small_models import random_transformer

from wanbatch.errors import UserError
from wanbatch.pipeline.loading import registry


@pytest.fixture
def copy(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "model")


@pytest.fixture
def two_experts(copy):
    """The small model with a second transformer, as A14B is published."""
    random_transformer(seed=5).save_pretrained(copy / "transformer_2")
    change(copy / "model_index.json", transformer_2=["diffusers", "WanTransformer3DModel"], boundary_ratio=0.875)
    return copy


def change(path: Path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


IMAGE_TO_VIDEO = {
    "the pipeline": ("model_index.json", {"_class_name": "WanImageToVideoPipeline"}, "WanImageToVideoPipeline"),
    "more channels": ("transformer/config.json", {"in_channels": 20}, "in_channels is 20, .* the other 12 are for"),
    "an image encoder": (
        "model_index.json",
        {"image_encoder": ["transformers", "CLIPVisionModel"]},
        "it has an image encoder",
    ),
    "embeddings of images": ("transformer/config.json", {"image_dim": 1280}, "image_dim is 1280"),
    "keys of images": ("transformer/config.json", {"added_kv_proj_dim": 96}, "added_kv_proj_dim is 96"),
    "other latents": ("transformer/config.json", {"out_channels": 4}, "out_channels is 4"),
    "frames in a patch": ("transformer/config.json", {"patch_size": [2, 2, 2]}, r"patch_size is \[2, 2, 2\]"),
    "oblong patches": ("transformer/config.json", {"patch_size": [1, 2, 1]}, r"patch_size is \[1, 2, 1\]"),
    "another transformer": (
        "model_index.json",
        {"transformer": ["diffusers", "WanVACETransformer3DModel"]},
        "transformer is WanVACETransformer3DModel, not WanTransformer3DModel",
    ),
    "another VAE": ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "vae is AutoencoderTiny"),
    "no text encoder": ("model_index.json", {"text_encoder": [None, None]}, "text_encoder is missing"),
    "a boundary alone": ("model_index.json", {"boundary_ratio": 0.9}, "there is no transformer_2"),
}


@pytest.mark.parametrize("what", IMAGE_TO_VIDEO)
def test_another_form_is_refused_with_the_file_and_what_is_taken(copy, what):
    """Before, a model for image-to-video was loaded wholly, and then failed every row."""
    name, fields, message = IMAGE_TO_VIDEO[what]
    change(copy / name, **fields)
    with pytest.raises(UserError, match=f"{name}: .*{message}.*Wan2.1 T2V, Wan2.2 TI2V-5B and Wan2.2 T2V-A14B"):
        registry.find(str(copy), weights=False)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("model_index.json", {"boundary_ratio": None}, "boundary_ratio is None, and transformer_2 needs a number"),
        ("transformer_2/config.json", {"in_channels": 20}, "transformer_2/config.json: in_channels is 20"),
        ("transformer_2/config.json", {"num_layers": 2}, "its number of blocks differ"),
    ],
)
def test_a_second_expert_is_checked_too(two_experts, name, fields, message):
    change(two_experts / name, **fields)
    with pytest.raises(UserError, match=message):
        registry.find(str(two_experts), weights=False)


def test_two_experts_have_the_defaults_of_a14b(two_experts):
    (two_experts / "wanbatch.json").unlink()
    info = registry.find(str(two_experts))
    assert info.two_experts
    assert (info.width, info.height, info.steps, info.guidance, info.guidance_2) == (1280, 720, 40, 4.0, 3.0)


def test_a_folder_with_its_own_guidance_has_it_for_both_experts_unless_it_says_more(two_experts):
    assert registry.find(str(two_experts)).guidance_2 is None
    change(two_experts / "wanbatch.json", guidance_2=2.5)
    assert registry.find(str(two_experts)).guidance_2 == 2.5


def test_a_second_guidance_needs_a_second_expert(copy):
    change(copy / "wanbatch.json", guidance_2=2.5)
    with pytest.raises(UserError, match=r"wanbatch.json: unknown field 'guidance_2'"):
        registry.find(str(copy))


def test_a_configuration_that_is_no_object_is_refused(copy):
    (copy / "vae" / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"vae/config.json: holds no JSON object"):
        registry.find(str(copy))


def hub_of(folder: Path, to: Path, fetched: list[str]):
    """A `snapshot_download` that fetches from a folder, and notes the names of all files."""

    def download(model: str, revision: str | None, allow_patterns: list[str]) -> str:
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns):
                fetched.append(name)
                (to / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to / name)
        return str(to)

    return download


def test_a_hub_model_of_another_form_is_refused_before_its_weights_are_fetched(copy, tmp_path, monkeypatch):
    change(copy / "transformer/config.json", in_channels=20)
    fetched: list[str] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub_of(copy, tmp_path / "1a2b", fetched))
    with pytest.raises(UserError, match="in_channels is 20"):
        registry.find("some/model")
    assert fetched
    assert not [name for name in fetched if name.endswith(".safetensors")]


def test_the_weights_of_a_hub_model_are_those_of_the_commit_that_was_checked(copy, tmp_path, monkeypatch):
    fetched: list[str] = []
    download, asked = hub_of(copy, tmp_path / "1a2b", fetched), []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda model, revision, allow_patterns: asked.append(revision) or download(model, revision, allow_patterns),
    )
    info = registry.find("some/model")
    assert info.revision == "1a2b"
    assert info.digest
    assert asked == [None, "1a2b"]
    assert "transformer/diffusion_pytorch_model.safetensors" in fetched
