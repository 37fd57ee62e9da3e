"""The noise schedule of every image of a plan, and the level on it that the image starts at. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.jobs.config.settings import Settings
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.sampling.schedules import SCHEDULES, levels, lowest_level

CREATIVITY_WITH_SOURCE = 0.6
REPLACED = ("steps", "shift", "schedule")  # by explicit sigmas


def schedule_columns(rows: pa.Table, model: ModelInfo, settings: Settings) -> dict[str, pa.ChunkedArray]:
    """Steps, shift, schedule and sigmas of each row. The run's sigmas are for rows that give none of the four."""
    sigmas = rows["sigmas"]
    if settings.sigmas is not None:
        ours = pa.scalar(list(settings.sigmas), sigmas.type)
        silent = pc.is_null(sigmas)
        for name in REPLACED:
            silent = pc.and_(silent, pc.is_null(rows[name]))
        sigmas = pc.if_else(silent, ours, sigmas)
    explicit = pc.is_valid(sigmas)
    columns = {"sigmas": sigmas}
    for name in REPLACED:
        chosen = getattr(settings, name)
        given = pc.fill_null(rows[name], getattr(model, name) if chosen is None else chosen)
        instead = pc.list_value_length(sigmas) if name == "steps" else pa.scalar(None, given.type)
        columns[name] = pc.if_else(explicit, instead, given)
    return columns


def schedules_of(images: pa.Table) -> Iterator[tuple]:
    """(steps, shift, schedule, sigmas) of each image."""
    plain = zip(*(images[name].to_pylist() for name in REPLACED), strict=True)
    explicit = (None if sigmas is None else tuple(sigmas) for sigmas in images["sigmas"].to_pylist())
    return ((*values, sigmas) for values, sigmas in zip(plain, explicit, strict=True))


def has_sources(rows: pa.Table) -> pa.ChunkedArray:
    """Whether each row starts from an image."""
    return pc.greater(pc.fill_null(pc.list_value_length(rows["sources"]), 0), 0)


def creativity_column(rows: pa.Table, sourced: pa.ChunkedArray, schedule: pa.Table) -> pa.ChunkedArray:
    """Each row's own creativity. Without one: 1, or with a source 0.6, or what its schedule ends at if that is more.

    schedule: the columns of `schedule_columns`.
    """
    lowest = _lowest(schedule, pc.and_(sourced, pc.is_null(rows["creativity"])).to_numpy())
    default = np.where(sourced.to_numpy(), np.maximum(CREATIVITY_WITH_SOURCE, lowest), 1.0)
    return pc.coalesce(rows["creativity"], pa.array(default))


def too_low(resolved: pa.Table) -> Iterator[tuple[int, str]]:
    """Rows that would start below the last level of their own schedule, by their places, and what to do.

    resolved: one row for each of the manifest's, with creativity and the columns of `schedule_columns`.
    """
    creativity = resolved["creativity"].to_numpy()
    lowest = _lowest(resolved, (creativity > 0) & (creativity < 1))
    for place in np.flatnonzero((creativity > 0) & (creativity < lowest)).tolist():
        ((steps, shift, schedule, sigmas),) = schedules_of(resolved.slice(place, 1))
        whose = "its sigmas" if sigmas else f"{steps} steps with the {schedule} schedule and shift {shift:g}"
        yield (
            place,
            f"creativity {creativity[place]:g} is below the last noise level of {whose}: the lowest that works is "
            f"{math.ceil(lowest[place] * 1e4) / 1e4:g}, or 0 for the source itself; raise it or add levels",
        )


def _lowest(schedule: pa.Table, wanted: np.ndarray) -> np.ndarray:
    """The last noise level above 0 of the wanted rows' schedules; 0 for the others and for unknown schedules."""
    known = pc.is_in(schedule["schedule"], pa.array([*SCHEDULES, None])).to_numpy()
    places = np.flatnonzero(wanted & known)
    lowest = np.zeros(len(wanted))
    rows = schedules_of(schedule.take(pa.array(places, pa.int64())))
    lowest[places] = [lowest_level(levels(steps, shift, 1.0, name, sigmas)) for steps, shift, name, sigmas in rows]
    return lowest
