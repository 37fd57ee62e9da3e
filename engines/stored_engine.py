"""An engine as its manifest describes it: what it is for, its files and their digests. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from wanbatch.engines.labels import label_of

FORMAT = 1
MANIFEST_SUFFIX = ".json"
FLOAT8 = "+float8"
"""What the name of a dtype ends with if large layers are in FP8."""
AOT = "aot"
"""The backend whose engines PyTorch loads."""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything that decides whether an engine can stand in for a part of a model.

    Attributes:
        component: `text`, `dit`, `dit_2`, `vae-encode` or `vae-decode`.
        weights: Digest of the model, as `ModelInfo.digest`.
        width: Of pictures, in pixels; 0: it takes any.
        height: As `width`.
        rows: Of its batch; 0: any number from 2 on.
        dtype: Of the weights, such as `bfloat16`; or `bfloat16+float8`, if those of large layers are in FP8.
        backend: `aot`, `tensorrt`, `tensorrt-rtx` or `onnx`.
        version: Of the library that built it, such as `torch 2.13.0`.
        architecture: What it runs on, such as `sm_90`, `8.9,12.0` or `cpu-x86_64-AVX2`; `any` for `onnx`.
    """

    component: str
    weights: str
    width: int
    height: int
    rows: int
    dtype: str
    backend: str
    version: str
    architecture: str

    @property
    def float8(self) -> bool:
        """Whether its large layers are in FP8."""
        return self.dtype.endswith(FLOAT8)

    @property
    def dtype_around(self) -> str:
        """The dtype of its other layers, and of inputs and outputs."""
        return self.dtype.removesuffix(FLOAT8)

    @property
    def label(self) -> str:
        """The part that it stands for, in words."""
        return label_of(self.component, self.width, self.height, self.rows)

    @property
    def name(self) -> str:
        """Of the engine's files in a store, without their suffixes."""
        text = json.dumps(asdict(self), sort_keys=True)
        size = f"-{self.width}x{self.height}" if self.width else ""
        rows = f"-{self.rows}" if self.component.startswith("dit") else ""
        return f"{self.component}{size}{rows}-{self.backend}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class StoredEngine:
    """An engine in a store, as its manifest describes it.

    Attributes:
        key: What it is for.
        files: SHA-256 and bytes of each of its files, by name.
        inputs: Sizes of each input, or the names of open ones.
        notes: What else is known of it: seconds of its build, its errors, constants that it takes.
    """

    key: EngineKey
    files: Mapping[str, tuple[str, int]]
    inputs: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of its files, and so of the code that it runs."""
        text = "".join(f"{name} {digest}\n" for name, (digest, _) in sorted(self.files.items()))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(size for _, size in self.files.values())

    def to_json(self) -> str:
        """The engine's manifest."""
        content = {
            "format": FORMAT,
            "key": asdict(self.key),
            "files": {name: {"sha256": digest, "bytes": size} for name, (digest, size) in self.files.items()},
            "inputs": self.inputs,
            "notes": self.notes,
        }
        return json.dumps(content, indent=1)


@dataclass(frozen=True, slots=True)
class BadEngine:
    """An engine that must not be loaded.

    Attributes:
        name: Of its files, without their suffixes.
        reason: Why, with the remedy.
        stray: Whether it is a file that no manifest names, which nothing ever loads.
    """

    name: str
    reason: str
    stray: bool = False


def read_manifest(name: str, data: bytes) -> StoredEngine | BadEngine:
    """What a manifest says.

    Args:
        name: Of its file.
        data: Its content.
    """
    stem = name.removesuffix(MANIFEST_SUFFIX)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return BadEngine(stem, with_remedy(f"{name} is damaged"))
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            return BadEngine(stem, with_remedy(f"{name} is of another version of wanbatch"))
        files = {file: (str(one["sha256"]), int(one["bytes"])) for file, one in content["files"].items()}
        engine = StoredEngine(EngineKey(**content["key"]), files, content["inputs"], content["notes"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return BadEngine(stem, with_remedy(f"{name} is no manifest of an engine, or is damaged"))
    others = (file for file in files if not file.startswith(f"{stem}.") or "/" in file)
    if engine.key.name != stem or not files or any(others):
        return BadEngine(stem, with_remedy(f"{name} is the manifest of another engine"))
    return engine


def with_strays(found: Sequence[StoredEngine | BadEngine], names: Sequence[str]) -> list[StoredEngine | BadEngine]:
    """Engines, and then the files of a store that no manifest names, as bad engines.

    Args:
        found: By the manifests among the files.
        names: Of all files.
    """
    named = {file for one in found if isinstance(one, StoredEngine) for file in one.files}
    bad = {one.name for one in found if isinstance(one, BadEngine)}
    others = (name for name in names if name not in named and not name.endswith(MANIFEST_SUFFIX))
    strays = [name for name in others if not any(name.startswith(f"{one}.") for one in bad)]
    return [*found, *(BadEngine(name, with_remedy("no manifest names it"), stray=True) for name in strays)]


def with_remedy(problem: str) -> str:
    """What is wrong with an engine, and what to do about it."""
    return f"{problem}: build it again with `wanbatch engines build`, or remove it with `wanbatch engines prune`"
