"""The file of an adapter: safetensors, whose metadata say for which encoder and which width it is. No torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from wanbatch.errors import UserError

FORMAT = "wanbatch sound adapter"
VERSION = 1
SMALL = "log-mel"
"""The encoder whose weights are in the adapter's own file."""

ENCODERS = (SMALL, "clap")


@dataclass(frozen=True, slots=True)
class AdapterHeader:
    """What the metadata of an adapter say.

    Attributes:
        encoder: which one it hears with, one of `ENCODERS`.
        encoder_config: its numbers.
        encoder_digest: of the weights of an encoder that is not in the file; empty for one that is.
        tokens: how many it gives the model.
        width: of each, the model's text width.
        resampler: the numbers of what is between encoder and tokens.
        digest: SHA-256 of the file.
    """

    encoder: str
    encoder_config: dict[str, Any]
    encoder_digest: str
    tokens: int
    width: int
    resampler: dict[str, Any]
    digest: str = ""

    def metadata(self) -> dict[str, str]:
        """As the file has it."""
        return {
            "format": FORMAT,
            "version": str(VERSION),
            "encoder": self.encoder,
            "encoder_config": json.dumps(self.encoder_config, sort_keys=True),
            "encoder_digest": self.encoder_digest,
            "tokens": str(self.tokens),
            "width": str(self.width),
            "resampler": json.dumps(self.resampler, sort_keys=True),
        }


def read_header(path: str | Path) -> AdapterHeader:
    """Read what an adapter says of itself.

    Raises:
        UserError: if there is no such file, or it is no adapter that this version knows.
    """
    try:
        with safe_open(str(path), framework="np") as file:
            said = file.metadata() or {}
        with open(path, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise UserError(
            f"setting sound: {path}: there is no such file: give tagger or the file of an adapter"
        ) from error
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"setting sound: {path}: is no adapter ({error}): give tagger or a file that `wanbatch train sound` wrote"
        ) from error
    if said.get("format") != FORMAT:
        raise UserError(
            f"setting sound: {path}: is a safetensors file but no adapter for sounds: give a file that "
            "`wanbatch train sound` wrote"
        )
    if said.get("version") != str(VERSION):
        raise UserError(f"setting sound: {path}: has version {said.get('version')}: this version reads {VERSION}")
    try:
        header = AdapterHeader(
            said["encoder"],
            json.loads(said["encoder_config"]),
            said["encoder_digest"],
            int(said["tokens"]),
            int(said["width"]),
            json.loads(said["resampler"]),
            digest,
        )
    except (KeyError, ValueError) as error:
        raise UserError(f"setting sound: {path}: its metadata are damaged ({error}): train it again") from error
    if header.encoder not in ENCODERS:
        known = " or ".join(ENCODERS)
        raise UserError(f"setting sound: {path}: is for the encoder {header.encoder!r}: this version has {known}")
    return header
