"""A store of engines: a private folder with, for each engine, its files and a manifest that names and hashes them.

An engine is native code, which whoever loads it runs. So a store and its files belong to the user who built them (or
to root), no one else may write to them, and an engine is loaded only if its files are those that its manifest names.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wanbatch.engines.stored_engine import (
    MANIFEST_SUFFIX,
    BadEngine,
    EngineKey,
    StoredEngine,
    read_manifest,
    with_remedy,
    with_strays,
)
from wanbatch.errors import MachineryError, UserError

BUILDING = ".building-"  # how the names of folders begin in which engines are built
ABANDONED_SECONDS = 24 * 3600
PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Store:
    """The engines in a folder.

    Args:
        folder: The store, which must exist.

    Attributes:
        location: Of the store, for messages and for others who open it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.location = str(folder)

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
        found = [self._read(name) for name in names if name.endswith(MANIFEST_SUFFIX)]
        return with_strays(found, [name for name in names if not name.startswith(BUILDING)])

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
                    return with_remedy(f"{name} is not a file")
                if (problem := _not_private(found)) is not None:
                    return with_remedy(f"{name}: {problem}")
                if found.st_size != size:
                    return with_remedy(
                        f"{name} has {found.st_size} bytes instead of {size}: it is cut off or was replaced"
                    )
                if _sha256(path) != digest:
                    return with_remedy(f"{name} was changed since it was built")
            except FileNotFoundError:
                return with_remedy(f"{name} is missing")
            except OSError as error:
                raise _unreadable(path, error) from error
        return None

    def problem_here(self, engine: StoredEngine) -> str | None:
        """As `problem_of`, and if there is none, the engine's files are on this host: `path_of` says where.

        Raises:
            MachineryError: A file cannot be read, or copied to this host.
        """
        return self.problem_of(engine)

    def remove_unused_copies(self) -> list[str]:
        """Remove copies of engines that this host has not used for long; their names. This store makes none."""
        return []

    def path_of(self, engine: StoredEngine) -> Path:
        """The file of an engine that is loaded; others lie beside it."""
        return self.folder / min(engine.files, key=len)

    def add(
        self, key: EngineKey, built: Sequence[Path], inputs: Mapping[str, Any], notes: Mapping[str, Any]
    ) -> StoredEngine:
        """Take in the files of an engine that were built in a folder of `new_build`, in place of an earlier one.

        Args:
            key: What the engine is for.
            built: Its files, whose names begin with `key.name`.
            inputs: See `StoredEngine`.
            notes: See `StoredEngine`.

        Raises:
            MachineryError: The disk refuses.
        """
        try:
            engine = described(key, built, inputs, notes)
            (self.folder / f"{key.name}{MANIFEST_SUFFIX}").unlink(missing_ok=True)
            for path in built:
                os.chmod(path, PRIVATE_FILE)
                os.replace(path, self.folder / path.name)
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
        path = self.folder / f"{engine.key.name}{MANIFEST_SUFFIX}"
        temporary = path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(engine.to_json())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def _read(self, name: str) -> StoredEngine | BadEngine:
        path, stem = self.folder / name, name.removesuffix(MANIFEST_SUFFIX)
        try:
            if (problem := _not_private(os.lstat(path))) is not None:
                return BadEngine(stem, with_remedy(f"{name}: {problem}"))
            data = path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from error
        return read_manifest(name, data)


def described(
    key: EngineKey, built: Sequence[Path], inputs: Mapping[str, Any], notes: Mapping[str, Any]
) -> StoredEngine:
    """An engine that was built, with the digests of its files. See `Store.add`; raises OSError."""
    files = {path.name: (_sha256(path), path.stat().st_size) for path in built}
    return StoredEngine(key, files, dict(inputs), dict(notes))


def _not_private(found: os.stat_result) -> str | None:
    if found.st_uid not in (os.geteuid(), 0):
        return f"belongs to another user (number {found.st_uid})"
    return "other users may write to it" if found.st_mode & OTHERS_MAY_WRITE else None


def _unreadable(path: Path, error: OSError) -> MachineryError:
    return MachineryError(
        f"{path}: cannot be read ({error.strerror or error}): engines there are not known to be absent"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
