"""How much work each image of a plan is, for all of them at once. Pure.

Work is counted in pixels: what the transformer evaluates, and what the autoencoder encodes and decodes. Only
ratios of it mean anything: what a pixel costs is measured (`jobs/driver/deadlines.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.jobs.planning.plan import Plan
from wanbatch.manifests.sources.web_address import is_web_address

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
    """The work of every image of a plan."""
    images = plan.images
    width, height, guidance = (images[name].to_numpy().astype(np.float64) for name in ("width", "height", "guidance"))
    pixels = width * height
    sources, from_web = (counts[images["row"].to_numpy()] for counts in _sources(plan.manifest.rows["sources"]))
    denoising = denoising_work(pixels, images["evaluations"].to_numpy(), guidance)
    return Workload(denoising, pixels * (1 + sources), from_web)


def denoising_work(pixels: np.ndarray, evaluations: np.ndarray, guidance: np.ndarray) -> np.ndarray:
    """The denoising work of images, float64 [images], as `Workload` counts it.

    Args:
        pixels: of each image.
        evaluations: by its solver.
        guidance: its scale; above 1 each evaluation counts twice.
    """
    return pixels * (1 + pixels / ATTENTION_PIXELS) * evaluations * np.where(guidance > 1, 2.0, 1.0)


def _sources(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """How many sources each row has, and how many of them are on the web; float64 [rows] each."""
    lists = column.combine_chunks()
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.float64)
    path = pc.fill_null(lists.flatten().field("path"), "").dictionary_encode()
    on_web = np.array([is_web_address(one) for one in path.dictionary.to_pylist()], dtype=bool)
    each = on_web[path.indices.to_numpy()] if len(on_web) else np.zeros(len(path), dtype=bool)
    row = np.repeat(np.arange(len(counts)), counts.astype(np.int64))
    return counts, np.bincount(row[each], minlength=len(counts)).astype(np.float64)
