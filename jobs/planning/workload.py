"""How much work each image of a plan is, for all of them at once. Pure.

Work is counted in pixels: what the transformer evaluates, and what the autoencoder encodes and decodes. Only
ratios of it mean anything: what a pixel costs is measured (`jobs/driver/deadlines.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.jobs.planning.noise_schedule import REPLACED, schedules_of
from wanbatch.jobs.planning.plan import Plan
from wanbatch.manifests.sources.web_address import is_web_address
from wanbatch.pipeline.sampling.schedules import HIGHEST, levels
from wanbatch.pipeline.sampling.solvers import evaluations

CREATIVITY_LEVELS = 256
"""Creativity is rounded up to one of so many levels, so that distinct kinds of rows stay few."""

ATTENTION_PIXELS = 1 << 22
"""Pixels of an image at which attention, which grows with their square, counts as much as all the rest."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of each image of a plan; all arrays are float64 [images].

    Attributes:
        denoising: pixels times evaluations of the transformer, of which guidance needs two for each of the
            solver's. All blocks count, as without a step cache.
        coding: pixels that the autoencoder encodes and decodes.
        web_sources: sources that are fetched from the web.
    """

    denoising: np.ndarray
    coding: np.ndarray
    web_sources: np.ndarray


def workload_of(plan: Plan) -> Workload:
    """The work of every image of a plan: at most this much denoising, as creativity is rounded up."""
    images = plan.images
    width, height, guidance = (images[name].to_numpy().astype(np.float64) for name in ("width", "height", "guidance"))
    pixels = width * height
    evaluated = most_evaluations(images) * np.where(guidance > 1, 2.0, 1.0)
    sources, from_web = (counts[images["row"].to_numpy()] for counts in _sources(plan.manifest.rows["sources"]))
    return Workload(pixels * (1 + pixels / ATTENTION_PIXELS) * evaluated, pixels * (1 + sources), from_web)


def most_evaluations(images: pa.Table) -> np.ndarray:
    """How often the solver of each image evaluates the model at most, without guidance's second evaluations.

    Exact but for creativity between 0 and 1, which is rounded up: a schedule that starts higher has no fewer levels.

    Args:
        images: of a plan.

    Returns:
        float64 [images].
    """
    kinds = images.select(["sampler", *REPLACED, "sigmas"])
    creativity = np.ceil(images["creativity"].to_numpy() * CREATIVITY_LEVELS) / CREATIVITY_LEVELS
    # Below 1 a start that is above the first level is one more; only at 1 itself the schedule is what it is.
    creativity = np.where(images["creativity"].to_numpy() < 1, np.minimum(creativity, HIGHEST), creativity)
    first, kind = _distinct([*(_codes(kinds[name]) for name in kinds.column_names), creativity])
    chosen = kinds.take(pa.array(first, pa.int64()))
    rows = zip(chosen["sampler"].to_pylist(), creativity[first].tolist(), schedules_of(chosen), strict=True)
    counts = [
        evaluations(sampler, levels(steps, shift, start, schedule, sigmas))
        for sampler, start, (steps, shift, schedule, sigmas) in rows
    ]
    return np.array(counts, dtype=np.float64)[kind]


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """A number for each value of a column, equal for equal values; lists are told apart by their text."""
    if pa.types.is_list(column.type):
        explicit = pc.is_valid(column)
        if not pc.any(explicit).as_py():
            return np.zeros(len(column))
        texts = pc.binary_join(_as_texts(column), ",")
        column = pc.if_else(explicit, texts, pa.scalar(None, pa.string()))
    return pc.dictionary_encode(column.combine_chunks(), null_encoding="encode").indices.to_numpy()


def _as_texts(column: pa.ChunkedArray) -> pa.ListArray:
    lists = column.combine_chunks()
    numbers = lists.flatten().cast(pa.string())
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), numbers)


def _distinct(columns: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The first place of each distinct combination of values, and the combination that each place has."""
    combined = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        values, codes = np.unique(column, return_inverse=True)
        combined = combined * len(values) + codes
        combined = np.unique(combined, return_inverse=True)[1]  # so that the numbers stay small
    _, first, kind = np.unique(combined, return_index=True, return_inverse=True)
    return first, kind


def _sources(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """How many sources each row has, and how many of them are on the web; float64 [rows] each."""
    lists = column.combine_chunks()
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.float64)
    path = pc.fill_null(lists.flatten().field("path"), "").dictionary_encode()
    on_web = np.array([is_web_address(one) for one in path.dictionary.to_pylist()], dtype=bool)
    each = on_web[path.indices.to_numpy()] if len(on_web) else np.zeros(len(path), dtype=bool)
    row = np.repeat(np.arange(len(counts)), counts.astype(np.int64))
    return counts, np.bincount(row[each], minlength=len(counts)).astype(np.float64)
