"""Copies of models on this host, see `host_copies.py`. No torch."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.planning.host_copies import default_cache, made_once
from wanbatch.manifests.storage.fsspec_io import file_system, os_errors, tag_of
from wanbatch.manifests.storage.urls import is_hub, is_url, plain_url
from wanbatch.pipeline.loading.registry import ModelInfo, find

REMEDY = "give --model-cache a folder on a larger disk"


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
        copies = default_cache("models") if cache is None else Path(cache).expanduser()
        folder = from_store(plain_url(name), copies, weights)
    except OSError as error:
        raise MachineryError(f"model {name}: {error.strerror or error}; run the same command again") from error
    return replace(find(str(folder), None, weights), name=plain_url(name))


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
    told = [f"{name} {info['size']} {tag_of(info) or ''}" for name, info in sorted(wanted.items())]
    digest = hashlib.sha256("\n".join([url, *told]).encode()).hexdigest()

    def fill(folder: Path) -> None:
        for name in wanted:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with os_errors(f"{url}/{name}"):
                system.get_file(f"{url}/{name}", str(target))

    size = sum(info["size"] for info in wanted.values())
    return made_once(cache / f"{url.rpartition('/')[2]}-{digest[:16]}", size, fill, REMEDY)


def _wanted(name: str, weights: bool) -> bool:
    return name.endswith(".json") or name.startswith("tokenizer/") or (weights and name.endswith(".safetensors"))


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
    return made_once(target, size, lambda begun: shutil.copytree(folder, begun, dirs_exist_ok=True), REMEDY)
