"""The creativity maps of a recipe's rows, as pictures in grey beside the manifest."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from wanbatch.errors import RowError, UserError
from wanbatch.jobs.augment.drawing import Child
from wanbatch.jobs.augment.kept_objects import grey_map, objects_of
from wanbatch.jobs.augment.originals import Original
from wanbatch.jobs.augment.recipe import Objects
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.storage.atomic_files import ensure_content, make_folder


class MapFiles:
    """Writes the maps of rows; equal ones once.

    Args:
        target: the manifest.
        loader: reads the masks that a dataset has as pictures.
        objects: what the recipe keeps.
    """

    def __init__(self, target: Path, loader: SourceLoader, objects: Objects | None):
        self._folder = target.absolute().with_name(f"{target.stem}.maps")
        self._loader, self._objects = loader, objects
        self._last: tuple[Original, np.ndarray] | None = None  # the rows of a picture come one after the other

    def of(self, child: Child) -> str:
        """The path of a row's map, as the manifest has it. Raises UserError: it cannot be made or written."""
        assert self._objects is not None
        if self._last is None or self._last[0] is not child.first:
            self._last = child.first, objects_of(child.first, self._objects, self._mask(child.first))
        data = _png(grey_map(self._last[1], self._objects, child.creativity))
        path = self._folder / f"{hashlib.sha256(data).hexdigest()[:32]}.png"
        try:
            make_folder(self._folder)
            ensure_content(path, data)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
        return os.path.relpath(path, self._folder.parent)

    def _mask(self, original: Original) -> np.ndarray | None:
        if original.mask is None:
            return None
        try:
            pixels = self._loader.load(Source(original.mask)).pixels
        except RowError as error:
            raise UserError(f"{original.name}: its mask cannot be read: {error}") from error
        if pixels.shape[:2] != (original.height, original.width):
            found = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise UserError(
                f"{original.mask}: the mask has {found} pixels and its picture {original.width}x{original.height}: "
                "give a mask of the same size"
            )
        return np.asarray(pixels.any(axis=2))


def _png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()
