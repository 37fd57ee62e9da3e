"""The noise schedule of every image of a plan, and the level on it that the image starts at. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.jobs.config.settings import Settings
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.sampling.schedules import KEEP, RESPACE, SCHEDULES, levels, lowest_level, steps_after_cut
from wanbatch.pipeline.sampling.solvers import evaluations_of_steps

CREATIVITY_WITH_SOURCE = 0.6
REPLACED = ("steps", "shift", "schedule")  # by explicit sigmas


def schedule_columns(rows: pa.Table, model: ModelInfo, settings: Settings) -> dict[str, pa.ChunkedArray]:
    """Steps, shift, schedule and sigmas of each row. The run's sigmas are for rows that give none of the four."""
    sigmas, of_run = rows["sigmas"], sigmas_of_run(model, settings)
    if of_run is not None:
        ours = pa.scalar(list(of_run), sigmas.type)
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


def sigmas_of_run(model: ModelInfo, settings: Settings) -> tuple[float, ...] | None:
    """Explicit noise levels of rows that say nothing: the settings', else the model's own; None: there are none."""
    if settings.sigmas is not None:
        return tuple(settings.sigmas)
    return None if any(getattr(settings, name) is not None for name in REPLACED) else model.sigmas


def resolved_schedules(rows: pa.Table, model: ModelInfo, settings: Settings) -> dict[str, pa.ChunkedArray]:
    """Creativity, creativity_boxes, creativity_steps, steps, shift, schedule and sigmas of each row."""
    columns = schedule_columns(rows, model, settings)
    columns["creativity_steps"] = creativity_steps_column(rows, columns["sigmas"], settings)
    columns["creativity"] = creativity_column(rows, has_sources(rows), pa.table(columns), settings.creativity)
    columns["creativity_boxes"] = rows["creativity_boxes"]
    return columns


def starting_levels(resolved: pa.Table) -> np.ndarray:
    """The noise level that each row starts at, float64: the highest of its creativity and those of its boxes.

    With a map it is at most that; what the map holds is seen only when it is read.

    resolved: with creativity and creativity_boxes.
    """
    starts, boxes = resolved["creativity"].to_numpy(), resolved["creativity_boxes"].combine_chunks()
    if boxes.null_count < len(boxes):
        starts = starts.copy()
        np.maximum.at(starts, boxes.value_parent_indices().to_numpy(), boxes.flatten().field("creativity").to_numpy())
    return starts


def has_sources(rows: pa.Table) -> pa.ChunkedArray:
    """Whether each row starts from an image."""
    return pc.greater(pc.fill_null(pc.list_value_length(rows["sources"]), 0), 0)


def schedules_of(images: pa.Table) -> Iterator[tuple]:
    """(steps, shift, schedule, sigmas) of each image."""
    plain = zip(*(images[name].to_pylist() for name in REPLACED), strict=True)
    explicit = (None if sigmas is None else tuple(sigmas) for sigmas in images["sigmas"].to_pylist())
    return ((*values, sigmas) for values, sigmas in zip(plain, explicit, strict=True))


def creativity_steps_column(rows: pa.Table, sigmas: pa.ChunkedArray, settings: Settings) -> pa.ChunkedArray:
    """`respace` for rows whose steps are spaced anew; null for all others, as for those that ask to keep them.

    sigmas: of each row, from `schedule_columns`. The run's `respace` is for rows without explicit levels.
    """
    chosen = pc.fill_null(rows["creativity_steps"], settings.creativity_steps or KEEP)
    respaced = pc.and_(pc.equal(chosen, RESPACE), pc.is_null(sigmas))
    return pc.if_else(respaced, pa.scalar(RESPACE), pa.scalar(None, pa.string()))


def evaluation_counts(images: pa.Table) -> np.ndarray:
    """How often the model is evaluated for each image, guidance and step cache aside; int64.

    images: with sampler and the columns of `resolved_schedules`.
    """
    creativity = starting_levels(images)
    respaced = pc.is_valid(images["creativity_steps"]).to_numpy()
    counts = np.zeros(len(images), dtype=np.int64)
    kinds = _codes([*(images[name] for name in REPLACED), images["sigmas"]])
    _, firsts = np.unique(kinds, return_index=True)
    wholes = schedules_of(images.take(pa.array(firsts)))
    for first, (steps, shift, schedule, sigmas) in zip(firsts.tolist(), wholes, strict=True):
        its, whole = kinds == kinds[first], levels(steps, shift, 1.0, schedule, sigmas)
        moving = respaced[its] & (creativity[its] > 0)
        counts[its] = np.where(moving, len(whole) - 1, steps_after_cut(whole, creativity[its]))
    samplers = images["sampler"].to_numpy()
    for sampler in pc.unique(images["sampler"]).to_pylist():
        its = samplers == sampler
        counts[its] = evaluations_of_steps(sampler, counts[its])
    return counts


def _codes(columns: Sequence[pa.ChunkedArray]) -> np.ndarray:
    """A number for each row, equal for rows that have the same in all columns."""
    codes = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        if column.null_count == len(column):
            continue
        if pa.types.is_list(column.type):
            seen: dict[tuple | None, int] = {}
            given = (None if value is None else tuple(value) for value in column.to_pylist())
            own = np.array([seen.setdefault(value, len(seen)) for value in given])
        else:
            own = column.combine_chunks().dictionary_encode("encode").indices.to_numpy()
        codes = np.unique(codes * (int(np.max(own, initial=0)) + 1) + own, return_inverse=True)[1].reshape(-1)
    return codes


def creativity_column(
    rows: pa.Table, sourced: pa.ChunkedArray, schedule: pa.Table, of_run: float | None
) -> pa.ChunkedArray:
    """Each row's own creativity. Without one: 1, also with a map, or with a source the run's.

    Where the run has none it is 0.6, or what the row's schedule ends at if that is more.

    schedule: the columns of `schedule_columns` and `creativity_steps`.
    """
    if of_run is None:
        lowest = _lowest(schedule, pc.and_(sourced, pc.is_null(rows["creativity"])).to_numpy())
        with_source = np.maximum(CREATIVITY_WITH_SOURCE, lowest)
    else:
        with_source = np.full(len(rows), of_run)
    one_number = pc.and_(sourced, pc.is_null(rows["creativity_map"])).to_numpy()
    return pc.coalesce(rows["creativity"], pa.array(np.where(one_number, with_source, 1.0)))


def too_low(resolved: pa.Table) -> Iterator[tuple[int, str]]:
    """Rows that would start below the last level of their own schedule, by their indices, and what to do.

    resolved: one row for each of the manifest's, with the columns of `resolved_schedules`.
    """
    creativity = starting_levels(resolved)
    lowest = _lowest(resolved, (creativity > 0) & (creativity < 1))
    for index in np.flatnonzero((creativity > 0) & (creativity < lowest)).tolist():
        ((steps, shift, schedule, sigmas),) = schedules_of(resolved.slice(index, 1))
        whose = (
            "its sigmas"
            if sigmas
            else f"{number_of(steps, 'steps')} with the {schedule} schedule and shift {shift:g}"
        )
        yield (
            index,
            f"creativity {creativity[index]:g} is below the last noise level of {whose}: the lowest that works is "
            f"{math.ceil(lowest[index] * 1e4) / 1e4:g}, or 0 for the source itself; raise it, add levels, or space "
            "the steps below it with creativity_steps respace",
        )


def no_room(resolved: pa.Table) -> Iterator[tuple[int, str]]:
    """Rows whose steps find no room between their creativity and 0, by their indices, and what to do.

    resolved: as for `too_low`.
    """
    creativity = starting_levels(resolved)
    known = pc.is_in(resolved["schedule"], pa.array([*SCHEDULES])).to_numpy()
    respaced = pc.is_valid(resolved["creativity_steps"]).to_numpy() & known & (creativity > 0) & (creativity < 1)
    indices = np.flatnonzero(respaced)
    problem = lru_cache(maxsize=65536)(_problem)
    rows = schedules_of(resolved.take(pa.array(indices, pa.int64())))
    for index, (steps, shift, schedule, _) in zip(indices.tolist(), rows, strict=True):
        if message := problem(steps, shift, schedule, float(creativity[index])):
            yield index, message


def _problem(steps: int, shift: float, schedule: str, creativity: float) -> str | None:
    try:
        levels(steps, shift, creativity, schedule, None, RESPACE)
    except UserError as error:
        return str(error)
    return None


def _lowest(schedule: pa.Table, wanted: np.ndarray) -> np.ndarray:
    """The last noise level above 0 of the wanted rows' schedules; 0 for the others and for unknown schedules.

    Rows whose steps are spaced anew have none: they have their levels below any start.
    """
    wanted = wanted & pc.is_null(schedule["creativity_steps"]).to_numpy()
    known = pc.is_in(schedule["schedule"], pa.array([*SCHEDULES, None])).to_numpy()
    indices = np.flatnonzero(wanted & known)
    lowest = np.zeros(len(wanted))
    rows = schedules_of(schedule.take(pa.array(indices, pa.int64())))
    lowest[indices] = [lowest_level(levels(steps, shift, 1.0, name, sigmas)) for steps, shift, name, sigmas in rows]
    return lowest
