"""Copies of models on this host: made once however many processes want one, there whole or not at all. No torch.

Processes of one host take turns by a lock on a local disk; whoever comes second finds everything there. Locks on
network file systems may hang, so none is ever made beside the model.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.storage.fsspec_io import file_system, os_errors
from wanbatch.manifests.storage.urls import is_hub, is_url, plain_url
from wanbatch.pipeline.loading.registry import ModelInfo, find

FREE_BYTES = 1 << 30  # that a copy leaves on its disk
TAGS = ("ETag", "etag", "LastModified", "mtime", "updated")
"""What stores call the version of a file."""


def find_model(
    name: str, revision: str | None = None, weights: bool = True, cache: str | os.PathLike[str] | None = None
) -> ModelInfo:
    """Locate a model as `registry.find` does; one in an object store is copied to this host first.

    Args:
        name: `tiny`, a folder, a hub id, or the URL of a folder in an object store.
        revision: of a hub model.
        weights: whether the weights are needed, too.
        cache: where copies are kept; None: in the user's cache folder.

    Raises:
        UserError: There is no such model, or it is none that makes single pictures.
        MachineryError: The store does not answer, or the disk has no room for the copy.
    """
    if not is_url(name) or is_hub(name):
        return find(name, revision, weights)
    if revision is not None:
        raise UserError(f"revision {revision}: only hub models have revisions, and {name} is none: drop it")
    try:
        folder = from_store(plain_url(name), default_cache() if cache is None else Path(cache).expanduser(), weights)
    except OSError as error:
        raise MachineryError(f"model {name}: {error.strerror or error}; run the same command again") from error
    return replace(find(str(folder), None, weights), name=plain_url(name))


def default_cache() -> Path:
    """`wanbatch/models` in the user's cache folder, or in the folder of temporary files if there is no home."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "wanbatch" / "models"
    try:
        return Path.home() / ".cache" / "wanbatch" / "models"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"wanbatch-models-{_user()}"


def from_store(url: str, cache: Path, weights: bool) -> Path:
    """Copy a model from an object store, unless this version of it is here.

    Args:
        url: of its folder.
        cache: where copies are kept.
        weights: whether to copy the weights, too.

    Raises:
        UserError: There is nothing at the URL.
        OSError: The store does not answer, or the disk has no room.
    """
    system = file_system(url)
    with os_errors(url):
        found = system.find(url, detail=True)
    start = len(system._strip_protocol(url).rstrip("/")) + 1
    files = {name[start:]: info for name, info in found.items() if info["type"] == "file"}
    wanted = {name: info for name, info in files.items() if _wanted(name, weights)}
    if not wanted:
        raise UserError(
            f"model {url}: there is no model folder at this address: check it and the store's credentials"
        )
    told = [f"{name} {info['size']} {_tag(info)}" for name, info in sorted(wanted.items())]
    digest = hashlib.sha256("\n".join([url, *told]).encode()).hexdigest()

    def fill(folder: Path) -> None:
        for name in wanted:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with os_errors(f"{url}/{name}"):
                system.get_file(f"{url}/{name}", str(target))

    return _once(cache / f"{url.rpartition('/')[2]}-{digest[:16]}", sum(i["size"] for i in wanted.values()), fill)


def _wanted(name: str, weights: bool) -> bool:
    return name.endswith(".json") or name.startswith("tokenizer/") or (weights and name.endswith(".safetensors"))


def _tag(info: dict) -> str:
    return next((str(info[name]) for name in TAGS if info.get(name)), "")


def copied(folder: Path, cache: Path, digest: str) -> Path:
    """Copy a model folder, perhaps of a file system that all hosts share, to a disk of this one.

    Args:
        folder: of the model.
        cache: where copies are kept.
        digest: of the model; the copy is named by it.

    Raises:
        OSError: The disk has no room, or one of the folders cannot be used.
    """
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    target = cache / f"{folder.name}-{digest[:16]}"
    return _once(target, size, lambda begun: shutil.copytree(folder, begun, dirs_exist_ok=True))


def _once(target: Path, size: int, fill: Callable[[Path], object]) -> Path:
    """Make a folder, unless it is there. What a killed process left half done of it goes.

    Args:
        target: the folder.
        size: bytes that will be in it.
        fill: puts them into an empty folder, which becomes the target when it is done.
    """
    with one_at_a_time(str(target)):
        if target.is_dir():
            return target
        cache = target.parent
        cache.mkdir(parents=True, exist_ok=True)
        for left in cache.glob(f".{target.name}.*"):
            shutil.rmtree(left, ignore_errors=True)
        free = shutil.disk_usage(cache).free
        if free < size + FREE_BYTES:
            raise OSError(
                f"{cache} has {free >> 20} MB free, and the model needs {size >> 20} MB: give --model-cache a "
                "folder on a larger disk"
            )
        begun = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=cache))
        try:
            fill(begun)
            os.rename(begun, target)
        finally:
            shutil.rmtree(begun, ignore_errors=True)
    return target


@contextmanager
def one_at_a_time(what: str) -> Iterator[None]:
    """Let one process of this host in at a time; the lock of one that dies is free again.

    Args:
        what: the same text for the same thing.
    """
    folder = Path(tempfile.gettempdir()) / f"wanbatch-locks-{_user()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with FileLock(folder / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.lock"):
        yield


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as containers have them
        return str(os.getuid())
