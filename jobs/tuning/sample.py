"""The sample of a manifest's rows that candidates are measured on, and which candidates its rows allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from wanbatch.errors import RowError, UserError
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.planning.adapters import has_adapters
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.source_sizes import loading_from
from wanbatch.jobs.planning.units import Image
from wanbatch.jobs.tuning.candidates import Candidate
from wanbatch.jobs.worker.requests import request_for
from wanbatch.manifests.columns import MAPS
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.pipeline.core.requests import Request, SourceImage, fit
from wanbatch.pipeline.sampling.schedules import levels, lowest_level

ROW_SETTINGS = ("steps", "sampler", "schedule", "sigmas")  # a row with one of these is not affected by tuning


@dataclass(frozen=True, slots=True)
class Sample:
    """The images that are made with each candidate.

    Attributes:
        requests: What is asked of the model for each.
        images: How many images the whole manifest has.
        unaffected: How many of those are of rows with one of `ROW_SETTINGS`, or take no step.
        unmeasured: How many of the others have an adapter, or a creativity map or boxes: what is chosen applies to
            them, but is not tried with them.
        unreadable: How many of the others were skipped because their sources cannot be read.
    """

    requests: tuple[Request, ...]
    images: int
    unaffected: int
    unmeasured: int
    unreadable: int


def draw_sample(plan: Plan, count: int, settings: Settings) -> Sample:
    """Draw images whose steps and sampler the settings decide, by the run's seed.

    Raises:
        UserError: There are none, or none of them can be made.
    """
    affected, plain = _affected(plan)
    measured = np.flatnonzero(affected & plain)
    if not len(measured):
        raise UserError(
            f"{'its 1 image has' if len(plan) == 1 else f'all {len(plan)} images have'} "
            f"{' or '.join(ROW_SETTINGS)} of their own in the manifest, an adapter, a "
            "creativity map or boxes, or creativity 0: there is nothing to tune"
        )
    order = np.random.default_rng(settings.seed).permutation(measured)
    requests, unfit = load_requests(_images(plan, order), count, loading_from(plan, settings.allow_http))
    if not requests:
        image, error = unfit[0]
        raise UserError(f"no row can be made; the first one tried, {image.id!r}, fails with: {error}")
    tuned = int(affected.sum())
    return Sample(tuple(requests), len(plan), len(plan) - tuned, tuned - len(measured), len(unfit))


def load_requests(
    images: Iterable[Image], count: int, make_loader: Callable[[], SourceLoader]
) -> tuple[list[Request], list[tuple[Image, RowError]]]:
    """Load the sources of the first images that can be made.

    Args:
        images: Planned images.
        count: How many requests are wanted; fewer come back if there are not so many.
        make_loader: Makes what loads the sources.

    Returns:
        The requests, and the images that were skipped with the reason.
    """
    requests: list[Request] = []
    unfit: list[tuple[Image, RowError]] = []
    with make_loader() as loader:
        for image in images:
            if len(requests) == count:
                break
            try:
                requests.append(_request(image, loader))
            except RowError as error:
                unfit.append((image, error))
    return requests, unfit


def possible_candidates(plan: Plan) -> Callable[[Candidate], bool]:
    """Return the rule that tells whether a run could make all rows with a candidate's settings.

    `wanbatch run` refuses rows that would start below the last noise level, or, for the default creativity, raises
    it. Only rows that take their steps from the settings count.
    """
    steps = plan.manifest.rows["steps"].take(plan.images["row"]).to_pylist()
    own = plan.manifest.rows["schedule"].take(plan.images["row"]).to_pylist()
    columns = [plan.images[name].to_pylist() for name in ("sigmas", "shift", "creativity_steps")]
    begins = plan.images["starting_level"].to_pylist()
    starts: dict[tuple[str | None, float], float] = {}  # the lowest by schedule and shift
    for given, schedule, sigmas, shift, respaced, level in zip(steps, own, *columns, begins, strict=True):
        if given is None and sigmas is None and 0 < level < 1 and not respaced:
            starts[schedule, shift] = min(level, starts.get((schedule, shift), 1.0))

    def is_possible(candidate: Candidate) -> bool:
        return all(
            lowest_level(levels(candidate.steps, shift, 1.0, schedule or candidate.schedule)) <= start
            for (schedule, shift), start in starts.items()
        )

    return is_possible


def _affected(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Which images take all that is tuned from the settings, and which have neither map nor adapter."""
    rows, image_rows = plan.manifest.rows, plan.images["row"].to_numpy()
    free, plain = np.ones(len(rows), dtype=bool), ~has_adapters(rows)
    for name in ROW_SETTINGS:
        free &= pc.is_null(rows[name]).to_numpy()
    for name in MAPS:
        plain &= pc.is_null(rows[name]).to_numpy()
    moving = plan.images["starting_level"].to_numpy() > 0
    return free[image_rows] & moving, plain[image_rows]


def _images(plan: Plan, indices: np.ndarray, together: int = 64) -> Iterator[Image]:
    for first in range(0, len(indices), together):
        yield from plan.task(0, 1, "", indices[first : first + together]).images


def _request(image: Image, loader: SourceLoader) -> Request:
    sources = []
    for source in image.sources:
        loaded = loader.load(source)
        pixels = fit(loaded.pixels, image.width, image.height)
        sources.append(SourceImage(f"{loaded.sha256}-{image.width}x{image.height}", pixels, source.weight))
    return request_for(image, tuple(sources))
