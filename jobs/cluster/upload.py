"""`--upload`: manifest and sources are put into a store, so that a cluster sees what only this machine has."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.cluster.local_sources import file_paths, location_here, source_folders
from wanbatch.jobs.cluster.prepare import Prepared
from wanbatch.jobs.cluster.submission import flags_of, needed_paths
from wanbatch.jobs.config.settings import Settings
from wanbatch.manifests.reading.manifest import Manifest
from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.finder import SourceFinder
from wanbatch.manifests.sources.path_policy import PathPolicy, require_source_folder
from wanbatch.manifests.storage.backend import StorageBackend, open_backend
from wanbatch.manifests.storage.fsspec_io import file_system, os_errors
from wanbatch.manifests.storage.urls import INTERNAL, absolute, files_below, is_hub, is_url, plain_url

INDEX = "uploaded.json"
"""In the uploaded folder: name -> SHA-256 of what was sent, so that nothing that is there is sent twice."""
THREADS = 8


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What was put into a store.

    Attributes:
        prepared: the submission, with addresses in the store in place of paths of this machine.
        files: how many files were sent.
        known: how many were there already.
        missing: how many sources, maps and sounds there are none of here; their rows will fail as they would here.
    """

    prepared: Prepared
    files: int
    known: int
    missing: int


def upload_inputs(prepared: Prepared, flags: tuple[str, ...], settings: Settings, target: str) -> Uploaded:
    """Put manifest and sources into a folder of a store that is named by what the manifest holds.

    Args:
        prepared: the submission, whose manifest is on this machine.
        flags: further ones of `wanbatch run`.
        settings: of the submission.
        target: URL of a folder.

    Raises:
        UserError: The manifest is not on this machine, or names sources that have no place in such a folder.
        MachineryError: The store refuses, or a source cannot be looked at.
    """
    manifest = prepared.manifest
    if not is_url(target) or is_hub(target):
        raise UserError(f"--upload {target}: must be a folder in an object store, like s3://bucket/folder")
    if manifest is None:
        for flag, folder in source_folders(settings).items():
            require_source_folder(absolute(folder), flag)
    if manifest is None or is_url(manifest.path):
        raise UserError(f"--upload: {prepared.submission.manifest} is not a manifest of this machine: leave it out")
    base = f"{plain_url(target)}/{manifest.digest[:16]}"
    address, files = _manifest_files(manifest)
    missing = 0
    beside = settings.source_root is not None or not os.path.isdir(manifest.path)
    if beside and not is_url(manifest.source_root):  # sources in a store stay where they are
        sources, missing = _source_files(manifest, settings)
        files |= {f"sources/{name}": path for name, path in sources.items()}
        settings = settings.model_copy(update={"source_root": f"{base}/sources", "source_fence": None})
    sent = _send(files, base)
    submission = replace(
        prepared.submission,
        manifest=f"{base}/{address}",
        flags=(*flags_of(settings), *flags),
        needed=needed_paths(settings),
    )
    return Uploaded(replace(prepared, submission=submission), sent, len(files) - sent, missing)


def _manifest_files(manifest: Manifest) -> tuple[str, dict[str, str]]:
    """The manifest's name in the uploaded folder, and its files: name there -> path here."""
    path = absolute(manifest.path)
    name = f"manifest/{posixpath.basename(path)}"
    if not os.path.isdir(path):
        return name, {name: path}
    if os.path.isdir(f"{path}/{INTERNAL}"):
        raise UserError(f"--upload: {path} is an output folder of wanbatch: copy it to the store as a whole instead")
    return name, {f"{name}/{below}": f"{path}/{below}" for below in files_below(path)}


def _source_files(manifest: Manifest, settings: Settings) -> tuple[dict[str, str], int]:
    """Sources, maps and sounds: path as the manifest has it -> path here; and how many there are none of."""
    finder = SourceFinder(PathPolicy(manifest.source_root, settings.allow_http, manifest.source_fence))
    found: dict[str, str] = {}
    missing = 0
    for path in dict.fromkeys(file_paths(manifest)):
        name = posixpath.normpath(path)
        if name.startswith(("/", "../")):
            raise UserError(
                f"--upload: the source {path} is not below {manifest.source_root}: give paths relative to the "
                "folder of --source-root"
            )
        try:
            found[name] = finder.first(path, location_here)
        except SourceError:
            missing += 1
        except OSError as error:
            raise MachineryError(f"{path} cannot be looked at, to upload it ({error.strerror or error})") from error
    return found, missing


def _send(files: Mapping[str, str], base: str) -> int:
    """Send what is not there yet. Returns how many files that were."""
    backend = open_backend(base)
    try:
        known = _sent_before(backend)
        digests = {name: _sha256(path) for name, path in files.items()}
        there = _sizes_below(base)
        wanted = [
            name
            for name, digest in digests.items()
            if known.get(name) != digest or there.get(name) != os.path.getsize(files[name])
        ]
        with ThreadPoolExecutor(THREADS, "upload") as pool:
            list(pool.map(lambda name: _put(files[name], f"{base}/{name}"), wanted))
        if wanted:
            backend.write_atomic(INDEX, json.dumps(known | digests).encode())
    except OSError as error:
        raise MachineryError(f"{base}: cannot be uploaded to ({error.strerror or error})") from error
    return len(wanted)


def _sent_before(backend: StorageBackend) -> dict[str, str]:
    """What the index says. One that is damaged counts as none: all is sent again."""
    try:
        found = json.loads(backend.read(INDEX))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sizes_below(base: str) -> dict[str, int]:
    """The files that are in a folder of a store now, by their names below it, with their bytes."""
    system = file_system(base)
    with os_errors(base):
        found = system.find(base, detail=True)
    start = len(system._strip_protocol(base)) + 1
    return {name[start:]: info["size"] for name, info in found.items()}


def _put(path: str, url: str) -> None:
    with os_errors(url):
        file_system(url).put_file(path, url)


def _sha256(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
