"""A store of engines: a private folder with, for each engine, its files and a manifest that names and hashes them.

An engine is native code, which whoever loads it runs. So a store and its files belong to the user who built them (or
to root), no one else may write to them, and an engine is loaded only if its files are those that its manifest names.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wanbatch.engines.labels import label_of
from wanbatch.errors import MachineryError, UserError

FORMAT = 1
MANIFEST_SUFFIX = ".json"
BUILDING = ".building-"  # how the names of folders begin in which engines are built
ABANDONED_SECONDS = 24 * 3600
PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
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
        dtype: Of the weights, such as `bfloat16`.
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


class Store:
    """The engines in a folder.

    Args:
        folder: The store, which must exist.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    def open(cls, folder: Path) -> Store:
        """A store that exists.

        Raises:
            UserError: There is no such folder, or others may write to it.
            MachineryError: It cannot be looked at.
        """
        try:
            found = os.stat(folder)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(
                f"{folder}: no such store of engines: build one with `wanbatch engines build --store {folder}`"
            ) from error
        except OSError as error:
            raise _unreadable(folder, error) from error
        if not stat.S_ISDIR(found.st_mode):
            raise UserError(f"{folder}: is not a folder: give the folder of a store of engines")
        if (problem := _not_private(found)) is not None:
            raise UserError(
                f"{folder}: {problem}, and engines are code that runs as you: `chmod -R go-w {folder}`, or build a "
                "store of your own"
            )
        return cls(folder)

    @classmethod
    def create(cls, folder: Path) -> Store:
        """A store, made if it is not there, for its owner alone.

        Raises:
            UserError: It cannot be made, or others may write to it.
        """
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(folder):
                folder.mkdir(mode=PRIVATE_FOLDER)
        except OSError as error:
            raise UserError(f"{folder}: cannot be made ({error.strerror}): give --store another folder") from error
        return cls.open(folder)

    def engines(self) -> list[StoredEngine | BadEngine]:
        """All engines by their manifests, whose files are not looked at; files without one are bad engines.

        Raises:
            MachineryError: The folder or a file cannot be read.
        """
        try:
            names = sorted(os.listdir(self.folder))
        except OSError as error:
            raise _unreadable(self.folder, error) from error
        manifests = [name for name in names if name.endswith(MANIFEST_SUFFIX)]
        found = [self._read(name) for name in manifests]
        named = {*manifests, *(file for one in found if isinstance(one, StoredEngine) for file in one.files)}
        bad = {one.name for one in found if isinstance(one, BadEngine)}
        others = (name for name in names if name not in named and not name.startswith(BUILDING))
        strays = [name for name in others if not any(name.startswith(f"{one}.") for one in bad)]
        return [*found, *(BadEngine(name, _remedy("no manifest names it"), stray=True) for name in strays)]

    def new_build(self) -> Path:
        """A folder inside the store for the files of one engine that is being built.

        Raises:
            MachineryError: The disk refuses.
        """
        try:
            return Path(tempfile.mkdtemp(prefix=BUILDING, dir=self.folder))
        except OSError as error:
            raise MachineryError(f"{self.folder}: nothing can be built there ({error.strerror})") from error

    def abandoned_builds(self) -> list[Path]:
        """Folders of builds that did not end, a day old at least."""
        found = (self.folder / name for name in os.listdir(self.folder) if name.startswith(BUILDING))
        return [path for path in found if time.time() - path.stat().st_mtime > ABANDONED_SECONDS]

    def find(self, key: EngineKey) -> StoredEngine | BadEngine | None:
        """The engine of a key; None: there is none.

        Raises:
            MachineryError: It cannot be found out.
        """
        try:
            os.lstat(self.folder / f"{key.name}{MANIFEST_SUFFIX}")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(self.folder / key.name, error) from error
        found = self._read(f"{key.name}{MANIFEST_SUFFIX}")
        if isinstance(found, BadEngine):
            return found
        problem = self.problem_of(found)
        return found if problem is None else BadEngine(key.name, problem)

    def problem_of(self, engine: StoredEngine) -> str | None:
        """Why an engine must not be loaded, with the remedy; None: its files are what its manifest says.

        Raises:
            MachineryError: A file cannot be read.
        """
        for name, (digest, size) in engine.files.items():
            path = self.folder / name
            try:
                found = os.lstat(path)
                if not stat.S_ISREG(found.st_mode):
                    return _remedy(f"{name} is not a file")
                if (problem := _not_private(found)) is not None:
                    return _remedy(f"{name}: {problem}")
                if found.st_size != size:
                    return _remedy(
                        f"{name} has {found.st_size} bytes instead of {size}: it is cut off or was replaced"
                    )
                if _sha256(path) != digest:
                    return _remedy(f"{name} was changed since it was built")
            except FileNotFoundError:
                return _remedy(f"{name} is missing")
            except OSError as error:
                raise _unreadable(path, error) from error
        return None

    def path_of(self, engine: StoredEngine) -> Path:
        """The file of an engine that is loaded; others lie beside it."""
        return self.folder / min(engine.files, key=len)

    def add(
        self, key: EngineKey, built: Sequence[Path], inputs: Mapping[str, Any], notes: Mapping[str, Any]
    ) -> StoredEngine:
        """Take in the files of an engine that were built in this store's folder, in place of an earlier one.

        Args:
            key: What the engine is for.
            built: Its files, on the same disk; their names begin with one stem, in place of which `key.name` is put.
            inputs: See `StoredEngine`.
            notes: See `StoredEngine`.

        Raises:
            MachineryError: The disk refuses.
        """
        stem = min((path.name for path in built), key=len).partition(".")[0]
        try:
            files = {}
            (self.folder / f"{key.name}{MANIFEST_SUFFIX}").unlink(missing_ok=True)
            for path in built:
                name = key.name + path.name.removeprefix(stem)
                os.chmod(path, PRIVATE_FILE)
                files[name] = _sha256(path), path.stat().st_size
                os.replace(path, self.folder / name)
            engine = StoredEngine(key, files, dict(inputs), dict(notes))
            self._write(engine)
        except OSError as error:
            raise MachineryError(f"{self.folder}: an engine cannot be kept ({error.strerror})") from error
        return engine

    def remove(self, engine: StoredEngine | BadEngine) -> None:
        """Remove an engine's files, its manifest first.

        Raises:
            MachineryError: The disk refuses.
        """
        name = engine.name if isinstance(engine, BadEngine) else engine.key.name
        try:
            (self.folder / f"{name}{MANIFEST_SUFFIX}").unlink(missing_ok=True)
            for path in self.folder.iterdir():
                if path.name == name or path.name.startswith(f"{name}."):
                    path.unlink()
        except OSError as error:
            raise MachineryError(f"{self.folder / name}: cannot be removed ({error.strerror})") from error

    def _write(self, engine: StoredEngine) -> None:
        content = {
            "format": FORMAT,
            "key": asdict(engine.key),
            "files": {name: {"sha256": digest, "bytes": size} for name, (digest, size) in engine.files.items()},
            "inputs": engine.inputs,
            "notes": engine.notes,
        }
        path = self.folder / f"{engine.key.name}{MANIFEST_SUFFIX}"
        temporary = path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def _read(self, name: str) -> StoredEngine | BadEngine:
        path, stem = self.folder / name, name.removesuffix(MANIFEST_SUFFIX)
        try:
            if (problem := _not_private(os.lstat(path))) is not None:
                return BadEngine(stem, _remedy(f"{name}: {problem}"))
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return BadEngine(stem, _remedy(f"{name} is damaged"))
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                return BadEngine(stem, _remedy(f"{name} is of another version of wanbatch"))
            files = {file: (str(one["sha256"]), int(one["bytes"])) for file, one in content["files"].items()}
            engine = StoredEngine(EngineKey(**content["key"]), files, content["inputs"], content["notes"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return BadEngine(stem, _remedy(f"{name} is no manifest of an engine, or is damaged"))
        if engine.key.name != stem or not files or any(not file.startswith(f"{stem}.") for file in files):
            return BadEngine(stem, _remedy(f"{name} is the manifest of another engine"))
        return engine


def _not_private(found: os.stat_result) -> str | None:
    if found.st_uid not in (os.geteuid(), 0):
        return f"belongs to another user (number {found.st_uid})"
    return "other users may write to it" if found.st_mode & OTHERS_MAY_WRITE else None


def _remedy(problem: str) -> str:
    return f"{problem}: build it again with `wanbatch engines build`, or remove it with `wanbatch engines prune`"


def _unreadable(path: Path, error: OSError) -> MachineryError:
    return MachineryError(
        f"{path}: cannot be read ({error.strerror or error}): engines there are not known to be absent"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
