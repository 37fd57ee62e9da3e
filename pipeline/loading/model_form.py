"""Whether a model is one that paints single pictures from text, by its configuration files alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanbatch.errors import UserError
from wanbatch.pipeline.loading.config_files import read_json

ACCEPTED = "wanbatch takes text-to-image forms of Wan: Wan2.1 T2V, Wan2.2 TI2V-5B and Wan2.2 T2V-A14B"

CLASSES = {
    "text_encoder": "UMT5EncoderModel",
    "transformer": "WanTransformer3DModel",
    "transformer_2": "WanTransformer3DModel",
    "vae": "AutoencoderKLWan",
}
"""The classes of the parts that have weights."""

FAST_WAN = "WanDMDPipeline"
PIPELINES = ("WanPipeline", FAST_WAN)
"""Classes of pipelines that make pictures from text with these parts; the second one's model is distilled."""

IMAGE_FIELDS = ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len")
"""Fields of a transformer that only those with an image encoder set."""


@dataclass(frozen=True, slots=True)
class ModelForm:
    """What a model's configuration says of its parts.

    Attributes:
        multiple: What width and height of a picture must be multiples of.
        layers: Blocks of each transformer.
        two_experts: Whether a second transformer takes the low noise levels (A14B).
        pipeline: Class of the pipeline, one of `PIPELINES`.
    """

    multiple: int
    layers: int
    two_experts: bool
    pipeline: str = PIPELINES[0]


def read_form(folder: Path, model: str) -> ModelForm:
    """Read what a model folder's configuration says of its parts.

    Args:
        folder: In diffusers layout; its weights need not be there.
        model: Its name, for messages.

    Raises:
        UserError: If a file is missing or not valid, or the model is none that makes single pictures from text.
    """
    index = read_json(folder / "model_index.json", f"{model} is not a model folder in diffusers layout")
    if not str(index.get("_class_name", "")).startswith("Wan"):
        raise UserError(f"{folder}/model_index.json: {index.get('_class_name')!r} is not a Wan pipeline; {ACCEPTED}")
    parts = {name: read_json(folder / name / "config.json", f"the model has no {name}") for name in _parts(index)}
    for problem in _problems(index, parts):
        raise UserError(f"model {model}: {folder}/{problem}; {ACCEPTED}")
    transformer, vae = parts["transformer"], parts["vae"]
    return ModelForm(
        multiple=_stride(vae) * _patch(transformer)[1],
        layers=transformer.get("num_layers", 40),
        two_experts="transformer_2" in parts,
        pipeline=index["_class_name"],
    )


def _parts(index: Mapping[str, Any]) -> list[str]:
    """The transformers and the VAE that the index names; what must be there in any case."""
    return ["transformer", "vae", *(["transformer_2"] if has_second_transformer(index) else [])]


def has_second_transformer(index: Mapping[str, Any]) -> bool:
    """Whether a model's index names a second transformer (A14B)."""
    return _class(index, "transformer_2") is not None


def _class(index: Mapping[str, Any], part: str) -> str | None:
    """The class that the index names for a part; None: the model has no such part."""
    named = index.get(part)
    return named[1] if isinstance(named, list) and len(named) == 2 else None


def _problems(index: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What another form of Wan has, each as a file and what is said there."""
    if index["_class_name"] not in PIPELINES:
        yield f"model_index.json: it is for {index['_class_name']}, not for WanPipeline"
    for name, wanted in CLASSES.items():
        named = _class(index, name)
        if named != wanted and (named is not None or name != "transformer_2"):
            yield f"model_index.json: {name} is {named or 'missing'}, not {wanted}"
    if _class(index, "image_encoder") is not None:
        yield "model_index.json: it has an image encoder, so it starts from a picture"
    yield from _boundary_problems(index.get("boundary_ratio"), "transformer_2" in parts)
    channels = parts["vae"].get("z_dim", 16)
    for name, part in parts.items():
        if name != "vae":
            yield from (f"{name}/config.json: {problem}" for problem in _transformer_problems(part, channels))
    forms = {(_patch(part), part.get("num_layers", 40)) for name, part in parts.items() if name != "vae"}
    if len(forms) > 1:
        yield "transformer_2/config.json: its patches or its number of blocks differ from those of the other"


def _boundary_problems(boundary: Any, two_experts: bool) -> Iterator[str]:
    """What is wrong with the level at which the second transformer takes over."""
    if two_experts and not (isinstance(boundary, int | float) and 0 < boundary < 1):
        yield f"model_index.json: boundary_ratio is {boundary!r}, and transformer_2 needs a number between 0 and 1"
    if not two_experts and boundary is not None:
        yield f"model_index.json: boundary_ratio is {boundary!r}, but there is no transformer_2"


def _transformer_problems(transformer: Mapping[str, Any], channels: int) -> Iterator[str]:
    """What is not as in a transformer that sees nothing but a text and latents of one frame.

    Args:
        transformer: Its configuration.
        channels: Of the VAE's latents.
    """
    inputs = transformer.get("in_channels", 16)
    if inputs != channels:
        more = (
            f": the other {inputs - channels} are for a picture or a mask to start from" if inputs > channels else ""
        )
        yield f"in_channels is {inputs}, but latents have {channels} channels (z_dim of the VAE){more}"
    outputs = transformer.get("out_channels") or inputs
    if outputs != channels:
        yield f"out_channels is {outputs}, but latents have {channels} channels (z_dim of the VAE)"
    for name in IMAGE_FIELDS:
        if transformer.get(name) is not None:
            yield f"{name} is {transformer[name]!r}, so it takes embeddings of an image encoder"
    patch = _patch(transformer)
    if patch[0] != 1 or patch[1] != patch[2]:
        yield f"patch_size is {list(patch)}, not one frame and a square"


def _patch(transformer: Mapping[str, Any]) -> tuple[int, int, int]:
    frames, height, width = transformer.get("patch_size", (1, 2, 2))
    return frames, height, width


def _stride(vae: Mapping[str, Any]) -> int:
    return vae.get("scale_factor_spatial", 8)
