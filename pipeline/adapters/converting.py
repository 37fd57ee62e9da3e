"""Writing an adapter in another layout: the same numbers under the names that another program reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from wanbatch.errors import UserError
from wanbatch.pipeline.adapters.files import HIGH, LOW, AdapterFile, ModelLayers
from wanbatch.pipeline.adapters.header import read_header
from wanbatch.pipeline.adapters.tensors import AdapterTensors, LowRank, load_tensors
from wanbatch.pipeline.adapters.wan_layers import WanLayers
from wanbatch.pipeline.core.tensor_files import save_tensors

Written = tuple[dict[str, Tensor], dict[str, str]]
"""Tensors and strings of the header."""


def files_of(adapter: AdapterFile, out: Path) -> list[tuple[int, Path]]:
    """The files that an adapter is written as, each with the transformer whose part it holds.

    One file, unless it changes the two transformers of A14B in different ways, or one of them alone: then one for
    each that it changes, by the names that readers find them by, `NAME_high_noise` and `NAME_low_noise`.

    Args:
        adapter: As `read_adapter` gives it.
        out: The file to write; its name may say one of the two already.
    """
    contents = [None if part is None else part.contents for part in adapter.parts]
    if all(one is contents[0] for one in contents):
        return [(0, out)]
    one = next((name for name in (HIGH, LOW) if name in out.name), None)
    named = [
        out.with_name(out.name.replace(one, name)) if one else out.with_name(f"{out.stem}_{name}{out.suffix}")
        for name in (HIGH, LOW)
    ]
    return [(expert, named[expert]) for expert, there in enumerate(contents) if there is not None]


def convert(adapter: AdapterFile, model: ModelLayers, layout: str, out: Path) -> list[Path]:
    """Write an adapter in another layout.

    Args:
        adapter: As `read_adapter` gives it.
        model: That it was read for.
        layout: One of `LAYOUTS`.
        out: The file to write, whole or not at all; its folder is made if it is missing. See `files_of` for A14B.

    Returns:
        The files, those that `files_of` names.

    Raises:
        UserError: The layout has no names for what the adapter changes, or a file cannot be written.
    """
    loaded, files = load_tensors(adapter), files_of(adapter, out)
    written = [LAYOUTS[layout](loaded[expert], model.layers, adapter.path) for expert, _ in files]
    for (expert, file), (tensors, header) in zip(files, written, strict=True):
        part = adapter.parts[expert]
        assert part is not None
        _write(file, tensors, _kept(read_header(Path(part.path)).metadata) | header)
    return [file for _, file in files]


def _kept(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a header goes on saying; a scale is said once, in the layout's own way."""
    kept = {name: text for name, text in metadata.items() if name.startswith(("ss_", "modelspec.", "wanbatch."))}
    kept.pop("ss_network_alpha", None)
    return {"format": "pt", **kept}


def _write(out: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_tensors({name: one.contiguous() for name, one in tensors.items()}, out, header)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{out}: cannot be written ({why}): choose another path") from error


def _diffusers(tensors: AdapterTensors, layers: WanLayers, path: str) -> Written:
    if tensors.deltas:
        raise UserError(
            f"adapter {path}: changes {next(iter(tensors.deltas))} as a whole, which diffusers does not read: "
            "convert it to comfyui"
        )
    written = {}
    for name, pair in tensors.pairs.items():
        written[f"transformer.{name}.lora_A.weight"], written[f"transformer.{name}.lora_B.weight"] = (
            pair.down,
            pair.up,
        )
    ranks = {name: len(pair.down) for name, pair in tensors.pairs.items()}
    alphas = {name: pair.scale * len(pair.down) for name, pair in tensors.pairs.items()}
    first = next(iter(ranks))
    config = {
        "r": ranks[first],
        "lora_alpha": alphas[first],
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != ranks[first]},
        "alpha_pattern": {name: alpha for name, alpha in alphas.items() if alpha != alphas[first]},
        "target_modules": list(ranks),
    }
    return written, {
        "lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in config.items()})
    }


def _comfyui(tensors: AdapterTensors, layers: WanLayers, path: str) -> Written:
    own = _own_names(layers)
    written: dict[str, Tensor] = {}
    for name, pair in tensors.pairs.items():
        stem = f"diffusion_model.{own[name]}"
        written |= {f"{stem}.lora_down.weight": pair.down, f"{stem}.lora_up.weight": pair.up}
        written |= _alpha(stem, pair)
    for name, delta in tensors.deltas.items():
        module, _, what = name.rpartition(".")
        stem = own.get(module, module)
        if what == "scale_shift_table":
            stem, what = module or "head", "modulation"
        end = {"weight": "diff", "bias": "diff_b", "modulation": "diff_m"}[what]
        written[f"diffusion_model.{stem}.{end}"] = delta.view(layers.shapes[name])
    return written, {}


def _kohya(tensors: AdapterTensors, layers: WanLayers, path: str) -> Written:
    if tensors.deltas:
        raise UserError(
            f"adapter {path}: changes {next(iter(tensors.deltas))} as a whole, for which kohya's scripts have no "
            "name: convert it to comfyui"
        )
    own = _own_names(layers)
    written: dict[str, Tensor] = {}
    for name, pair in tensors.pairs.items():
        stem = f"lora_unet_{own[name].replace('.', '_')}"
        written |= {f"{stem}.lora_down.weight": pair.down, f"{stem}.lora_up.weight": pair.up}
        written[f"{stem}.alpha"] = torch.tensor(pair.scale * len(pair.down))
    return written, {}


def _alpha(stem: str, pair: LowRank) -> dict[str, Tensor]:
    return {} if pair.scale == 1 else {f"{stem}.alpha": torch.tensor(pair.scale * len(pair.down))}


def _own_names(layers: WanLayers) -> dict[str, str]:
    """Diffusers' name of a module -> Wan's own."""
    named: dict[str, str] = {}
    for name, target in layers.modules.items():
        if name == target:
            named.setdefault(target, target)
        elif "." in name:
            named[target] = name
    return named


LAYOUTS: Mapping[str, Callable[[AdapterTensors, WanLayers, str], Written]] = {
    "diffusers": _diffusers,
    "comfyui": _comfyui,
    "kohya": _kohya,
}
