"""The header of an adapter file: names, shapes and metadata, without the tensors. No torch."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from wanbatch.errors import UserError

PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}
MOST_HEADER_BYTES = 100 << 20  # what safetensors itself takes
_SCALARS = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i"}


@dataclass(frozen=True, slots=True)
class Header:
    """What an adapter file says of itself.

    Attributes:
        path: Of the file.
        shapes: Of each tensor.
        metadata: Strings of the header.
        scalars: Values of the tensors with one element.
        entries: What the header says of each tensor: `dtype`, `shape`, and `data_offsets` from `start` on.
        start: Where the tensors begin, in bytes.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    scalars: Mapping[str, float]
    entries: Mapping[str, Mapping[str, Any]]
    start: int

    def adapter_config(self, expert: int | None = None) -> dict[str, Any]:
        """The configuration that diffusers keeps in the header, or PEFT in a file beside the adapter; else empty.

        Args:
            expert: Which transformer's, if the adapter is for two.

        Raises:
            UserError: If it cannot be read, or is no JSON object.
        """
        if (text := self.metadata.get("lora_adapter_metadata")) is not None:
            whose = "transformer_2." if expert == 1 else "transformer."
            given = _json_object(text, f"adapter {self.path}: lora_adapter_metadata of its header").items()
            return {
                name.removeprefix(whose): value for name, value in given if name.startswith(whose) or "." not in name
            }
        beside = self.path.with_name("adapter_config.json")
        try:
            text = beside.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{beside}: cannot be read ({error}): the scale of {self.path.name} is in it") from error
        return _json_object(text, str(beside))


def read_header(path: Path) -> Header:
    """Read the header of an adapter file.

    Args:
        path: A `.safetensors` file.

    Raises:
        UserError: If it cannot be read, or is in a format that can run code when it is loaded.
    """
    with readable(path) as file:
        begin = file.read(9)
    if path.suffix.lower() in PICKLES or _begins_like_pickle(begin):
        raise UserError(
            f"adapter {path}: is a pickle, which can run any code when it is loaded, so it is never opened: take the "
            ".safetensors file of the adapter, or have its author convert it"
        )
    if not _begins_like_safetensors(begin):
        raise UserError(
            f"adapter {path}: is no safetensors file: a .safetensors file with the layers of a LoRA is accepted, as "
            "trainers and hubs offer it; if this should be one, something else has its name: fetch it again"
        )
    try:
        with safe_open(path, framework="np"):  # checks all of the header
            pass
        entries, start = _entries(path)
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        raise UserError(f"adapter {path}: is not a whole safetensors file ({error}): fetch it again") from error
    metadata = entries.pop("__metadata__", {})
    shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
    return Header(path, shapes, metadata, _scalars(path, entries, start), entries, start)


def _begins_like_pickle(begin: bytes) -> bool:
    """Whether these are the first bytes of a pickle or of a ZIP file with one, as torch writes it."""
    if begin[:4] == b"PK\x03\x04":
        return True
    return begin[:1] == b"\x80" and (len(begin) < 8 or _header_bytes(begin) > MOST_HEADER_BYTES)


def _begins_like_safetensors(begin: bytes) -> bool:
    """Whether these are the first bytes of a safetensors file: the length of the header, and a JSON object."""
    return _header_bytes(begin) <= MOST_HEADER_BYTES and begin[8:] in (b"{", b"")


def _header_bytes(begin: bytes) -> int:
    return int.from_bytes(begin[:8], "little")


def digest_of(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with readable(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def readable(path: Path) -> Iterator[BufferedReader]:
    """An adapter file to read from. What keeps it from being read, then or later, is a UserError."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise UserError(f"adapter {path}: cannot be read ({error.strerror or error}): check the path") from error


def _entries(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON of the header, with type, shape and place of each tensor, and where the tensors begin, in bytes."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MOST_HEADER_BYTES:
            raise ValueError("its header is too long")
        return json.loads(file.read(length)), 8 + length


def _scalars(path: Path, entries: Mapping[str, Any], start: int) -> dict[str, float]:
    values: dict[str, float] = {}
    with path.open("rb") as file:
        for name, entry in entries.items():
            if any(side != 1 for side in entry["shape"]):
                continue
            file.seek(start + entry["data_offsets"][0])
            if entry["dtype"] == "BF16":
                (values[name],) = struct.unpack("<f", b"\0\0" + file.read(2))
            elif (form := _SCALARS.get(entry["dtype"])) is not None:
                (values[name],) = struct.unpack(form, file.read(struct.calcsize(form)))
    return values


def _json_object(text: str, where: str) -> dict[str, Any]:
    """What a JSON text says; without it the adapter's scale would be a guess."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: is not JSON ({error}): the adapter's scale is in it; fetch it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{where}: is not a JSON object: the adapter's scale is in it; fetch it again")
    return found
