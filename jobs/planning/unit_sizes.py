"""Which images are a unit, and how many: few enough that every worker has something to do, also at the end. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.jobs.planning.adapters import has_adapters
from wanbatch.jobs.planning.noise_schedule import has_sources
from wanbatch.manifests.columns import MAPS
from wanbatch.pipeline.core.prompts import ENCODER_LENGTHS, TEXT_LENGTHS

UNITS_OF_WORKER = 4
"""So many units a worker are cut of small runs, where its slots can be filled by each."""

WINDOW_IMAGES = 4096
"""Images of the manifest, for each worker, that units are cut of together."""
SHORT_TEXT = 64
"""Bytes of text that count as equally short: of English, some 15 tokens, the shortest of `ENCODER_LENGTHS`.

Lengths of texts are compared in steps of a fifth.
"""
BYTES_OF_A_TOKEN = SHORT_TEXT / (ENCODER_LENGTHS[0] - 1)
"""Of English, about."""


def cut_units(
    images: pa.Table, manifest_rows: pa.Table, pending: np.ndarray, rows: int, workers: int
) -> list[np.ndarray]:
    """Cut images into units; see `Plan.units`.

    Args:
        images: those of the plan.
        manifest_rows: what they are of.
        pending: int64, the indices of the images that are to be made.
        rows: of a unit, at most.
        workers: how many take units at the same time.
    """
    row = images["row"].to_numpy()[pending]
    window = np.arange(len(pending)) // (WINDOW_IMAGES * workers)
    kinds = np.stack([window, *_kinds(images, pending)])
    _, first, classes = np.unique(kinds, axis=1, return_index=True, return_inverse=True)
    classes = np.argsort(np.argsort(first))[classes.reshape(-1)]  # numbered by their first image
    companions = _companions(manifest_rows)[row]
    steps = np.round(4 * np.log2(np.maximum(_text_bytes(images, pending), SHORT_TEXT) / SHORT_TEXT)).astype(np.int64)
    lengths = _shared_by_source(steps, companions, manifest_rows, row)
    order = np.lexsort((pending, companions, lengths, classes))
    starts = np.flatnonzero(np.diff(classes[order], prepend=-1))
    units = []
    for group in np.split(pending[order], starts[1:]) if len(order) else []:
        units += [group[first : first + rows] for first in range(0, len(group), rows)]
    return units


def size_classes(images: pa.Table, chosen: np.ndarray) -> np.ndarray:
    """A number for each image, equal for those that can share slots, as far as the length of a text tells its tokens.

    Args:
        images: those of a plan.
        chosen: int64, the indices of the images that are asked for.
    """
    length = np.searchsorted(TEXT_LENGTHS, _text_bytes(images, chosen) / BYTES_OF_A_TOKEN)
    return np.unique(np.stack([*_kinds(images, chosen), length]), axis=1, return_inverse=True)[1].reshape(-1)


def _kinds(images: pa.Table, chosen: np.ndarray) -> list[np.ndarray]:
    """What rows that share slots have in common besides the number of tokens."""
    mapped = [pc.is_valid(images[name]).to_numpy()[chosen] for name in MAPS]
    shape = [images[name].to_numpy()[chosen] for name in ("height", "width")]
    return [*shape, _guided(images, chosen), np.logical_or(*mapped), has_adapters(images)[chosen]]


def _guided(images: pa.Table, chosen: np.ndarray) -> np.ndarray:
    return images["guidance"].to_numpy()[chosen] > 1


def _text_bytes(images: pa.Table, chosen: np.ndarray) -> np.ndarray:
    """Bytes of the longest text of images. Texts of similar length have about as many tokens."""
    prompt, negative = (
        pc.fill_null(pc.binary_length(images[name]), 0).to_numpy()[chosen] for name in ("prompt", "negative_prompt")
    )
    return np.maximum(prompt, np.where(_guided(images, chosen), negative, 0))


def _shared_by_source(
    lengths: np.ndarray, companions: np.ndarray, manifest_rows: pa.Table, row: np.ndarray
) -> np.ndarray:
    """The same, but images of one source have the length of the first of them, so that they stand together."""
    _, first, number = np.unique(companions, return_index=True, return_inverse=True)
    sourced = has_sources(manifest_rows).to_numpy()[row]
    return np.where(sourced, lengths[first][number.reshape(-1)], lengths)


def _companions(manifest_rows: pa.Table) -> np.ndarray:
    """A number for each row, equal for those that share their first source or, without one, their prompt."""
    sources = manifest_rows["sources"].combine_chunks()
    having = pc.greater(pc.fill_null(pc.list_value_length(sources), 0), 0)
    first = pc.if_else(having, sources.offsets[:-1], pa.scalar(None, pa.int32()))
    path = sources.values.field("path").take(first)
    shared = pc.coalesce(path, manifest_rows["prompt"].combine_chunks(), pa.scalar(""))
    return shared.dictionary_encode().indices.to_numpy()


def rows_of_a_unit(pending: int, workers: int, slots: int, most: int) -> int:
    """How many images the units of a run have at most.

    Every worker gets a unit where there are images enough to fill the slots of each; a batch of fewer rows would
    take as long.

    Args:
        pending: images to make.
        workers: at most so many.
        slots: rows that are denoised together.
        most: images of a unit, as the settings have it.
    """
    if workers == 1:
        return most
    share = -(-pending // workers)
    units = min(UNITS_OF_WORKER, max(1, share // slots))
    return min(most, max(slots, -(-share // units)))


def shortened_at_the_end(units: Sequence[np.ndarray], workers: int, slots: int) -> list[np.ndarray]:
    """Halve the last units, two for each worker, so that workers end at about the same time.

    None gets fewer images than there are slots. One worker's are left as they are.
    """
    if workers == 1:
        return list(units)
    last = max(0, len(units) - 2 * workers)
    shortened = list(units[:last])
    for unit in units[last:]:
        middle = len(unit) // 2
        shortened += [unit[:middle], unit[middle:]] if middle >= slots else [unit]
    return shortened
