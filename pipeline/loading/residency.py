"""Which parts of a model are on a GPU together: all, or some that take turns. By bytes alone, without torch.

The parts are the text encoder, the transformer or its two experts, and the VAE. They take turns no more than the
memory asks for: first the text encoder leaves for the others, then the experts leave for each other, then the VAE
leaves, too. Decided once, when a model is loaded; `offload.py` moves what is decided here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from wanbatch.errors import UserError
from wanbatch.pipeline.loading.config_files import read_json
from wanbatch.pipeline.models.block_products import LARGE_WEIGHTS

GIB = 1 << 30
TEXT, VAE_PART = "text", "vae"
TRANSFORMER, EXPERTS = ("transformer",), ("high_noise", "low_noise")
"""The names of a model's groups of modules: these two, and its one transformer or its two experts."""
DENOISING = "denoising"
"""The work of a transformer; that of the other two has the name of the group."""

OFFLOADED = "-offloaded"
"""At the end of a backend's name: its part of the model leaves the device for others."""

FOLDERS = {TEXT: "text_encoder", VAE_PART: "vae", "transformer": "transformer", "low_noise": "transformer_2"}
PARTS = {TEXT: "the text encoder", VAE_PART: "the VAE"}
REMEDIES = {TEXT: ", --text-precision fp8", VAE_PART: ""}
"""What takes less room for these, besides what does for all parts."""
TEXT_BYTES = GIB
"""Bytes that the text encoder works in."""
VAE_BYTES = 2 * GIB
"""Bytes that the VAE works in for a picture of `PIXELS`."""
PIXELS = 1280 * 704
TOKENS_OF_TEXT = 128
"""Of a prompt whose keys and values are kept: longer ones are rare."""
UNUSABLE_BYTES = GIB // 2
"""Of the device: what the allocator cannot use."""
WAN_2_1 = {"num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824, "num_layers": 40,
           "patch_size": (1, 2, 2)}  # fmt: skip
"""What a transformer's configuration means that does not say it, as in diffusers."""
ITEM_BYTES = {"float32": 4, "bfloat16": 2}
SCALE_BYTES = 4
"""Of a row of a weight in eight bits."""
HEADER_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Residency:
    """Which parts of a model leave the device for others.

    Attributes:
        text_leaves: Whether the text encoder takes turns with the rest.
        experts_leave: Whether the experts take turns with each other, or a single transformer with the VAE.
        vae_leaves: Whether the VAE takes turns with them: then a unit's pictures are decoded once all are denoised.
    """

    text_leaves: bool = False
    experts_leave: bool = False
    vae_leaves: bool = False

    @property
    def moves(self) -> bool:
        """Whether anything leaves."""
        return self.text_leaves

    def beside_transformer(self, sizes: Mapping[str, int]) -> int:
        """Bytes of the groups that are on the device while a transformer works there, without it.

        Args:
            sizes: Bytes of each group's weights.
        """
        experts = [size for name, size in sizes.items() if name not in (TEXT, VAE_PART)]
        others = 0 if self.experts_leave else sum(experts) - max(experts)
        return others + sizes[VAE_PART] * (not self.vae_leaves) + sizes[TEXT] * (not self.text_leaves)

    def __str__(self) -> str:
        if self.vae_leaves:
            return "all parts of the model take turns on the device"
        if self.experts_leave:
            return "the experts take turns on the device, and with the text encoder"
        return (
            "the text encoder takes turns with the rest" if self.text_leaves else "all of the model is on the device"
        )


def choices(sizes: Mapping[str, int], working: Mapping[str, int]) -> list[tuple[Residency, int]]:
    """Every way that a model's parts may share a device, with the bytes that each needs; what moves least first.

    Args:
        sizes: Bytes of each group's weights.
        working: Bytes that the text encoder, a transformer (`DENOISING`) and the VAE work in.
    """
    experts = [size for name, size in sizes.items() if name not in (TEXT, VAE_PART)]
    text, vae = sizes[TEXT] + working[TEXT], sizes[VAE_PART] + working[VAE_PART]
    picture = sizes[VAE_PART] + max(working[DENOISING], working[VAE_PART])
    found = [
        (Residency(), sum(sizes.values()) + max(working.values())),
        (Residency(True), max(text, sum(experts) + picture)),
    ]
    if len(experts) > 1:
        found.append((Residency(True, True), max(text, max(experts) + picture)))
    return [*found, (Residency(True, True, True), max(text, vae, max(experts) + working[DENOISING]))]


def plan_residency(sizes: Mapping[str, int], working: Mapping[str, int], free: int) -> Residency:
    """The way to share a device that moves least.

    Args:
        sizes: Bytes of each group's weights.
        working: As of `choices`.
        free: Bytes of the device that may be used.

    Raises:
        UserError: Not even one part at a time fits.
    """
    for residency, needed in choices(sizes, working):
        if needed <= free:
            return residency
    needs = {name: size + working[name if name in (TEXT, VAE_PART) else DENOISING] for name, size in sizes.items()}
    part = max(needs, key=lambda name: needs[name])
    name = PARTS.get(part, "a transformer")
    remedy = REMEDIES.get(part, ", --precision fp8 or int8, fewer --slots")
    raise UserError(
        f"the GPU has {free / GIB:.1f} GiB free, and {name} alone needs {needs[part] / GIB:.1f} GiB with what it "
        f"works in: use a larger GPU{remedy}, or a smaller model"
    )


class TransformerForm(NamedTuple):
    """What the memory that transformers work in depends on.

    Attributes:
        experts: How many there are; each keeps keys and values of the texts.
        layers: Blocks of each.
        dim: Width of the hidden states.
        inner: Width of the feed-forward layers.
        patch: Places of the latents that are one token, across or down.
    """

    experts: int
    layers: int
    dim: int
    inner: int
    patch: int


def form_by_config(config: Mapping[str, Any], experts: int) -> TransformerForm:
    """The form of transformers by the configuration that each of them has."""
    said = {**WAN_2_1, **config}
    dim = said["num_attention_heads"] * said["attention_head_dim"]
    return TransformerForm(experts, said["num_layers"], dim, said["ffn_dim"], said["patch_size"][1])


def working_bytes(form: TransformerForm, stride: int, slots: int, pixels: int, residuals: int = 0) -> dict[str, int]:
    """About how many bytes the parts of a model work in, besides their weights.

    Args:
        form: Of the transformers.
        stride: Pixels of one place of the latents.
        slots: Rows that are denoised together, with guidance.
        pixels: Of a picture.
        residuals: How many values a step cache keeps of each row.
    """
    tokens = pixels // (stride * form.patch) ** 2
    activations = tokens * (8 * form.dim + 2 * form.inner)
    texts = form.experts * form.layers * 2 * TOKENS_OF_TEXT * form.dim
    cached = tokens * form.dim * (residuals + 1 if residuals else 0)
    sequence = 2 * (activations + texts + cached)
    return {
        TEXT: TEXT_BYTES,
        DENOISING: 2 * slots * sequence + UNUSABLE_BYTES,
        VAE_PART: VAE_BYTES * pixels // PIXELS + UNUSABLE_BYTES,
    }


def weight_sizes(
    folder: Path, dtype: str, eight_bits: bool = False, text_fp8: bool = False, slots: int = 0
) -> dict[str, int]:
    """Bytes of each group's weights on a device, by the headers of a model's files.

    Args:
        folder: Of the model.
        dtype: Of its weights there, as torch calls it.
        eight_bits: Whether the transformers' weights are in FP8 or INT8.
        text_fp8: Whether the text encoder's are in FP8.
        slots: That have weights of a transformer of their own (`Runtime.merged_rows`), beside those of all rows.
    """
    of_one_byte = {TEXT: text_fp8, VAE_PART: False}
    two = (folder / FOLDERS["low_noise"]).is_dir()
    first = EXPERTS[0] if two else TRANSFORMER[0]
    names = {TEXT: TEXT, VAE_PART: VAE_PART, "transformer": first, "low_noise": EXPERTS[1]}
    sizes = {}
    for part, name in names.items():
        if part == "low_noise" and not two:
            continue
        files, item = (folder / FOLDERS[part]).glob("*.safetensors"), ITEM_BYTES[dtype]
        shapes = {tensor: shape for path in files for tensor, shape in shapes_in(path).items()}
        transformer = part not in of_one_byte
        rounded = transformer and eight_bits
        sizes[name] = bytes_of(shapes, 1 if of_one_byte.get(part) else item, rounded)
        if slots and transformer:  # and weights that are not rounded, to merge with
            sizes[name] += slots * sizes[name] + (bytes_of(shapes, item) if rounded else 0)
    return sizes


def bytes_of(shapes: Mapping[str, Sequence[int]], item: int, eight_bits: bool = False) -> int:
    """Bytes of a part's weights on a device.

    Args:
        shapes: Of its tensors, by their names.
        item: Bytes of a number.
        eight_bits: Whether the large layers' weights are in FP8 or INT8, with a scale for each row. A sixth of
            A14B's numbers is in other layers, most of them those of the texts' keys and values.
    """
    total = 0
    for name, shape in shapes.items():
        large = eight_bits and name.startswith("blocks.") and name.split(".", 2)[-1] in LARGE_WEIGHTS
        total += prod(shape) + SCALE_BYTES * shape[0] if large else prod(shape) * item
    return total


def fits_whole(
    folder: Path, dtype: str, eight_bits: bool, slots: int, pixels: int, free: int, text_fp8: bool = False
) -> bool:
    """Whether all of a model fits on a device, also while it is loaded.

    Args:
        folder: Of the model.
        dtype: Of its weights there, as torch calls it.
        eight_bits: Whether the transformers' weights are in FP8 or INT8 as soon as they are read.
        slots: Rows that are denoised together.
        pixels: Of a picture.
        free: Bytes of the device that may be used.
        text_fp8: Whether the text encoder's weights are in FP8, too.
    """
    sizes = weight_sizes(folder, dtype, eight_bits, text_fp8)
    return choices(sizes, working_for(folder, slots, pixels))[0][1] <= free


def require_whole(folder: Path, name: str, dtype: str, slots: int, pixels: int, free: int) -> None:
    """Check that all of a model fits on a device at once, for what works on it without moving anything.

    Args:
        folder: Of the model.
        name: Of the model, for the message.
        dtype: Of its weights there, as torch calls it.
        slots: Rows that are denoised together.
        pixels: Of a picture.
        free: Bytes of the device that may be used.

    Raises:
        UserError: It does not.
    """
    ways = choices(weight_sizes(folder, dtype), working_for(folder, slots, pixels))
    whole, least = ways[0][1], ways[-1][1]
    if whole > free:
        raise UserError(
            f"this needs all of {name} on the GPU at once, about {whole / GIB:.1f} GiB, and {free / GIB:.1f} GiB are "
            "free: use a larger GPU or fewer rows at a time (--batch); `wanbatch run` lets parts take turns, in "
            f"{least / GIB:.1f} GiB"
        )


def working_for(folder: Path, slots: int, pixels: int) -> dict[str, int]:
    """What `working_bytes` says of a model's folder."""
    transformer = read_json(folder / "transformer" / "config.json", str(folder))
    stride = read_json(folder / "vae" / "config.json", str(folder)).get("scale_factor_spatial", 8)
    experts = 2 if (folder / FOLDERS["low_noise"]).is_dir() else 1
    return working_bytes(form_by_config(transformer, experts), stride, slots, pixels)


def shapes_in(path: Path) -> dict[str, list[int]]:
    """The shapes of a safetensors file's tensors by their names, by its header.

    Raises:
        UserError: It is damaged, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(HEADER_LENGTH_BYTES), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))
        return {name: list(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"}
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not a whole safetensors file ({error}): restore the model's files") from error
