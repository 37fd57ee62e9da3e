"""Adapter files and the model that they are for: which file is for which of its transformers. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanbatch.errors import UserError
from wanbatch.pipeline.adapters.contents import Contents, contents_of
from wanbatch.pipeline.adapters.header import Header, digest_of, read_header
from wanbatch.pipeline.adapters.numbers import digest_of_numbers
from wanbatch.pipeline.adapters.wan_layers import WanLayers, wan_layers
from wanbatch.pipeline.loading.config_files import read_json

HIGH, LOW = "high_noise", "low_noise"


@dataclass(frozen=True, slots=True)
class ModelLayers:
    """What an adapter is checked against.

    Attributes:
        name: Of the model, for messages.
        layers: Of its transformer; both experts of A14B have the same.
        two_experts: Whether there is a second transformer.
    """

    name: str
    layers: WanLayers
    two_experts: bool = False

    @classmethod
    def of_folder(cls, folder: str | Path, name: str, two_experts: bool = False) -> ModelLayers:
        """Those of a model folder in diffusers layout, by its configuration alone."""
        return cls(name, wan_layers(read_json(Path(folder) / "transformer" / "config.json", name)), two_experts)

    @classmethod
    def of_config(cls, config: Mapping[str, Any], name: str = "the model", two_experts: bool = False) -> ModelLayers:
        """Those of a transformer's configuration, which may be that of a loaded module."""
        return cls(name, wan_layers(config), two_experts)


@dataclass(frozen=True, slots=True)
class Part:
    """What one transformer gets of an adapter: a file and what of it."""

    path: str
    contents: Contents


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An adapter that fits a model.

    Attributes:
        path: Of its file; of the one for high noise levels, if there are two.
        digest: SHA-256 of the file, or over those of both.
        parts: One for each of the model's transformers; None for one that is left as it is.
        metadata: Strings of the file's header.
    """

    path: str
    digest: str
    parts: tuple[Part | None, ...]
    metadata: Mapping[str, str]

    @property
    def paths(self) -> tuple[str, ...]:
        """All files, each once."""
        return tuple(dict.fromkeys(part.path for part in self.parts if part is not None))

    @property
    def layout(self) -> str:
        """Whose names the keys have."""
        return next(part.contents.layout for part in self.parts if part is not None)

    @property
    def rank(self) -> int:
        """The largest rank of a layer."""
        ranks = [rank for part in self.parts if part is not None for rank in part.contents.ranks]
        return max(ranks, default=0)

    @property
    def only_merged(self) -> str | None:
        """Why rows cannot use it, see `Contents.only_merged`."""
        reasons = [part.contents.only_merged for part in self.parts if part is not None]
        return next((reason for reason in reasons if reason is not None), None)

    @property
    def missing(self) -> str | None:
        """The name of the file for a transformer of the model that it leaves as it is; None: it changes all."""
        return None if None not in self.parts else other_file(Path(self.path).name)

    def coverage(self) -> str:
        """How much of the model it changes, in words."""
        if len(self.parts) == 1:
            assert self.parts[0] is not None
            return self.parts[0].contents.coverage()
        words = ("nothing" if part is None else part.contents.coverage() for part in self.parts)
        return "; ".join(f"{name}: {said}" for name, said in zip(("high noise", "low noise"), words, strict=True))


def read_adapter(path: str | Path, model: ModelLayers, low_noise: str | Path | None = None) -> AdapterFile:
    """Read what an adapter file holds, and check that it fits a model and that its tensors are numbers.

    Its tensors are read once, a few at a time, for the digest and for the check.

    For a model of two transformers (A14B) a file may name both in its keys; or there are two files, whose names
    differ in `high_noise` and `low_noise`, of which either is given. A file that says nothing of it is for both.

    Args:
        path: A safetensors file.
        model: What it is for.
        low_noise: The file for the second transformer, if its name does not follow from the first one's.

    Raises:
        UserError: If it cannot be read or does not fit, or is no numbers; see `contents_of` and `digest_of_numbers`.
    """
    path = Path(path)
    files = _files(path, model, None if low_noise is None else Path(low_noise))
    headers = {one: read_header(one) for one in dict.fromkeys(file for file in files if file is not None)}
    parts: list[Part | None] = []
    found = {one: contents_of(header, model.layers, model.name) for one, header in headers.items()}
    for expert, file in enumerate(files):
        contents = None if file is None else found[file].get(expert, found[file].get(None))
        parts.append(None if contents is None else Part(str(file), contents))
    used = {expert for one in found.values() for expert in one}
    if 1 in used and not model.two_experts:
        raise UserError(
            f"adapter {path}: is for a model of two transformers (A14B), and {model.name} has one: take the adapter "
            "for this model"
        )
    digests = [
        digest_of_numbers(headers[one], dict.fromkeys(key for contents in its.values() for key in contents.keys))
        for one, its in found.items()
    ]
    return AdapterFile(str(next(iter(headers))), _joined(digests), tuple(parts), _metadata(headers))


def other_file(name: str) -> str | None:
    """What the file for the other transformer of A14B is called; None: the name does not say which one it is for."""
    for one, other in ((HIGH, LOW), (LOW, HIGH)):
        if one in name:
            return name.replace(one, other)
    return None


def digest_of_files(paths: Sequence[str]) -> str:
    """SHA-256 of a file; of several, over those of each."""
    return _joined([digest_of(Path(path)) for path in paths])


def _joined(digests: Sequence[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _files(path: Path, model: ModelLayers, low_noise: Path | None) -> tuple[Path | None, ...]:
    """The file for each transformer of a model."""
    if not model.two_experts:
        if low_noise is not None:
            raise UserError(f"adapter {path}: low_noise is for models of two transformers (A14B); drop it")
        return (path,)
    if low_noise is not None:
        return path, low_noise
    if (name := other_file(path.name)) is None:
        return path, path
    other = path.with_name(name) if path.with_name(name).is_file() else None
    return (path, other) if HIGH in path.name else (other, path)


def _metadata(headers: Mapping[Path, Header]) -> dict[str, str]:
    return dict(next(iter(headers.values())).metadata)
