"""Stores of engines by path or URL; what is used of one in an object store is copied to this host, once. No torch."""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from wanbatch.engines.store import BUILDING, PRIVATE_FILE, PRIVATE_FOLDER, Store, described
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
from wanbatch.jobs.planning.host_copies import default_cache, made_once, one_at_a_time
from wanbatch.manifests.storage.fsspec_io import file_system, os_errors
from wanbatch.manifests.storage.object_store import ObjectStoreBackend
from wanbatch.manifests.storage.urls import is_hub, is_url, local_path

OTHERS = stat.S_IRWXG | stat.S_IRWXO
UNUSED_DAYS = 30
"""How long a copy stays on a host that does not use it."""
DIGEST = re.compile("[0-9a-f]{16}")
"""What the name of a copy ends with, after that of the engine."""
REMEDY = "set XDG_CACHE_HOME to a folder on a larger disk"


def open_engines(location: str) -> Store:
    """A store of engines that exists.

    Args:
        location: A path, or the URL of a folder in an object store.

    Raises:
        UserError: There is none, or engines of it are not to be trusted.
        MachineryError: It cannot be looked at.
    """
    if not is_url(location):
        return Store.open(_folder(location))
    store = _copied(location)
    if not store.names():
        raise UserError(
            f"{store.location}: no such store of engines: build one with `wanbatch engines build --store "
            f"{store.location}`"
        )
    return store


def create_engines(location: str) -> Store:
    """A store of engines, made if it is not there; that it can be written to is tried.

    Args:
        location: A path, or the URL of a folder in an object store.

    Raises:
        UserError: It cannot be made.
        MachineryError: The object store does not answer.
    """
    if not is_url(location):
        return Store.create(_folder(location))
    store = _copied(location)
    store.require_writable()
    return store


def _folder(location: str) -> Path:
    return local_path(location).expanduser().absolute()


def _copied(location: str) -> CopiedStore:
    if is_hub(location):
        raise UserError(f"{location}: engines are not kept on the hub: give a folder, or one of a store like s3://")
    copies = default_cache("engines")
    try:
        copies.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{copies}: engines cannot be copied there ({error.strerror}): set XDG_CACHE_HOME to a folder of yours"
        ) from error
    return CopiedStore(location, Store.open(copies).folder)


class CopiedStore(Store):
    """The engines in a folder of an object store, of which this host has copies.

    The folder has the files of a local store, so that one may be copied as it is. Who may write to it decides what
    code runs; copies are for the user alone, each in a folder named by its digest, and checked when they are used.

    Args:
        url: Of the store.
        copies: Folder of this host, for its owner alone.
    """

    def __init__(self, url: str, copies: Path):
        super().__init__(copies)
        self._backend = ObjectStoreBackend(url)
        self.location = self._backend.root

    def names(self) -> dict[str, int]:
        """The files of the store, name -> bytes, without those of builds."""
        with self._readable():
            sizes = self._backend.sizes("")
        return {name: size for name, size in sorted(sizes.items()) if not name.startswith(BUILDING)}

    def require_writable(self) -> None:
        """Raise UserError or MachineryError if nothing can be written to the store."""
        mark = f"{BUILDING}{uuid4().hex}"
        try:
            self._backend.write_atomic(mark, b"")
            self._backend.remove(mark)
        except (FileNotFoundError, PermissionError) as error:
            raise UserError(
                f"{self.location}: cannot be written to ({error.strerror or error}): make the bucket, or give "
                "--store another address"
            ) from error
        except OSError as error:
            raise _unwritten(self.location, error) from error

    def engines(self) -> list[StoredEngine | BadEngine]:
        names = list(self.names())
        manifests = [name for name in names if name.endswith(MANIFEST_SUFFIX)]
        with self._readable():
            contents = list(self._backend.read_all(manifests))
        return with_strays([read_manifest(*one) for one in zip(manifests, contents, strict=True)], names)

    def find(self, key: EngineKey) -> StoredEngine | BadEngine | None:
        name = f"{key.name}{MANIFEST_SUFFIX}"
        with self._readable():
            try:
                content = self._backend.read(name)
            except FileNotFoundError:
                return None
        found = read_manifest(name, content)
        if isinstance(found, BadEngine):
            return found
        problem = self.problem_of(found)
        return found if problem is None else BadEngine(key.name, problem)

    def problem_of(self, engine: StoredEngine) -> str | None:
        """Read the files in the object store, not the copies of them."""
        if (problem := self._problem_of_sizes(engine)) is not None:
            return problem
        for name, (digest, _) in engine.files.items():
            with self._readable():
                if self._backend.sha256(name) != digest:
                    return with_remedy(f"{name} was changed since it was built")
        return None

    def problem_here(self, engine: StoredEngine) -> str | None:
        if (problem := self._problem_of_sizes(engine)) is not None:
            return problem
        target = self._copy_of(engine)
        try:
            with _alone_with(target):
                if os.path.lexists(target) and Store(target).problem_of(engine) is not None:
                    shutil.rmtree(target)
                made_once(target, engine.bytes, lambda folder: self._fetch(engine, folder), REMEDY)
                with suppress(OSError):  # a cache that belongs to root, and is read by others
                    os.utime(target)  # when it was used last
            self.remove_unused_copies()
        except _ChangedError as error:
            return str(error)
        except OSError as error:
            raise MachineryError(
                f"{self.location}: the engine of {engine.key.label} cannot be copied to this host "
                f"({error.strerror or error})"
            ) from error
        return None

    def remove_unused_copies(self) -> list[str]:
        """Remove the copies, of whatever store, that this host has not used for `UNUSED_DAYS`."""
        removed: list[str] = []
        try:
            found = sorted(self.folder.iterdir())
        except OSError:
            return removed
        for path in found:
            with suppress(OSError):  # one that cannot be removed stays, and keeps no other
                if _is_unused(path):
                    with _alone_with(path):
                        if _is_unused(path):
                            shutil.rmtree(path)
                            removed.append(path.name)
        return removed

    def path_of(self, engine: StoredEngine) -> Path:
        return self._copy_of(engine) / min(engine.files, key=len)

    def add(
        self, key: EngineKey, built: Sequence[Path], inputs: Mapping[str, Any], notes: Mapping[str, Any]
    ) -> StoredEngine:
        """Upload the files of an engine, its manifest last, so that nobody takes half of one."""
        manifest = f"{key.name}{MANIFEST_SUFFIX}"
        system = file_system(self.location)
        try:
            engine = described(key, built, inputs, notes)
            self._backend.remove(manifest)
            for path in built:
                with os_errors(self._backend.location(path.name)):
                    system.put_file(str(path), self._backend.location(path.name))
                if (size := self._backend.size(path.name)) != engine.files[path.name][1]:
                    raise OSError(f"{path.name} has {size} bytes there")
            self._backend.write_atomic(manifest, engine.to_json().encode())
        except OSError as error:
            raise _unwritten(self.location, error) from error
        return engine

    def remove(self, engine: StoredEngine | BadEngine) -> None:
        """Remove an engine from the store, and its copies on this host, also of what it was before it was rebuilt."""
        stem = engine.name if isinstance(engine, BadEngine) else engine.key.name
        try:
            self._backend.remove(f"{stem}{MANIFEST_SUFFIX}")
            for name in self.names():
                if name == stem or name.startswith(f"{stem}."):
                    self._backend.remove(name)
        except OSError as error:
            raise _unwritten(self.location, error) from error
        with suppress(OSError):
            for copy in sorted(self.folder.iterdir()):
                if copy.name.startswith(f"{stem}-") and DIGEST.fullmatch(copy.name[len(stem) + 1 :]):
                    with _alone_with(copy):
                        shutil.rmtree(copy, ignore_errors=True)

    def _copy_of(self, engine: StoredEngine) -> Path:
        return self.folder / f"{engine.key.name}-{engine.digest[:16]}"

    def _problem_of_sizes(self, engine: StoredEngine) -> str | None:
        for name, (_, size) in engine.files.items():
            with self._readable():
                try:
                    found = self._backend.size(name)
                except FileNotFoundError:
                    return with_remedy(f"{name} is missing")
            if found != size:
                return with_remedy(f"{name} has {found} bytes instead of {size}: it is cut off or was replaced")
        return None

    def _fetch(self, engine: StoredEngine, folder: Path) -> None:
        system = file_system(self.location)
        for name in engine.files:
            address = self._backend.location(name)
            with os_errors(address):
                system.get_file(address, str(folder / name))
            os.chmod(folder / name, PRIVATE_FILE)
        if (problem := Store(folder).problem_of(engine)) is not None:
            raise _ChangedError(problem)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turns errors of the object store into MachineryError."""
        try:
            yield
        except OSError as error:
            raise MachineryError(
                f"{self.location}: cannot be read ({error.strerror or error}): engines there are not known to be "
                "absent; run the same command again"
            ) from error


def _alone_with(copy: Path) -> AbstractContextManager[None]:
    """Let one process of this host at a time make, use or remove a copy."""
    return one_at_a_time(f"engine {copy}")


def _is_unused(copy: Path) -> bool:
    """Whether a folder of copies has been there, and not been used, for `UNUSED_DAYS`.

    Of one that other users may read it is not known: they cannot mark that they use what is not theirs.
    """
    try:
        found = os.lstat(copy)
    except FileNotFoundError:
        return False  # another process has removed it
    old = time.time() - found.st_mtime > UNUSED_DAYS * 24 * 3600
    return stat.S_ISDIR(found.st_mode) and not found.st_mode & OTHERS and old


class _ChangedError(Exception):
    """What was fetched is not what the manifest says."""


def _unwritten(location: str, error: OSError) -> MachineryError:
    return MachineryError(
        f"{location}: engines cannot be written there ({error.strerror or error}); run the same command again"
    )
