"""Fills folders in object stores, for the tests of `wanbatch.manifests`."""

from __future__ import annotations

from collections.abc import Sequence

from manifest_making import unit_of

from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.dataset.part_files import write_attempt
from wanbatch.manifests.storage import fsspec_io


def publish(folder: OutputFolder, unit: int, names: list[str], failed: Sequence[str] = (), **options) -> None:
    folder.publish(write_attempt(folder.url, attempt="t", **unit_of(unit, names, failed)), **options)


def put(url: str, data: bytes) -> None:
    fsspec_io.file_system(url).pipe_file(url, data)
