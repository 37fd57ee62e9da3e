"""What settings and rows ask of a model that it, or this version, does not have. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.errors import UserError
from wanbatch.jobs.config.settings import AUTO, Settings
from wanbatch.jobs.planning.adapters import check_merged, check_row_adapters, unknown_names
from wanbatch.jobs.planning.noise_schedule import REPLACED, no_room, resolved_schedules, sigmas_of_run, too_low
from wanbatch.manifests.columns import MAPS
from wanbatch.manifests.reading.arrow_rows import knows
from wanbatch.manifests.reading.column_names import if_own, map_option, own_name
from wanbatch.manifests.reading.contradictions import SOURCES
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.sampling.schedules import RESPACE, SCHEDULES
from wanbatch.pipeline.sampling.solvers import SOLVERS
from wanbatch.pipeline.sampling.step_cache import parse
from wanbatch.suggestions import closest, did_you_mean

KNOWN: dict[str, Iterable[str]] = {"sampler": SOLVERS, "schedule": SCHEDULES}
SIDES = ("width", "height")
OF_SCHEDULES = frozenset((*REPLACED, "sigmas", "creativity", "creativity_steps", *MAPS, *SOURCES))
"""The columns that decide a row's noise levels, and where on them it starts."""
MOST_TEXT = 2**31 - 1  # bytes that an Arrow array of texts takes


def check_settings(settings: Settings, model: ModelInfo) -> None:
    """Check what the settings say of the model and of each other.

    Raises:
        UserError: For a setting that this model or version does not have, for settings that contradict each other,
            and for a scheduler of the model that is not reproduced, if the settings do not stand for it.
    """
    parse(settings.step_cache, model.layers)
    _check_converted(settings, model)
    if settings.engines is not None and settings.text_precision != AUTO:
        raise UserError("setting text_precision: engines have the text encoder's weights as they are: leave out one")
    check_merged(settings, model)
    check_row_adapters(settings, model)
    for name, known in KNOWN.items():
        if (given := getattr(settings, name)) not in (None, *known):
            raise UserError(f"setting {name}: {given!r} is unknown: {_of(given, known)}")
    for name in REPLACED if settings.sigmas is not None else ():
        if getattr(settings, name) is not None:
            raise UserError(f"setting sigmas: says every noise level, and setting {name} too: drop one of the two")
    if settings.sigmas is not None and settings.creativity_steps == RESPACE:
        raise UserError("setting sigmas: says every noise level, which creativity_steps respace changes: drop one")
    if settings.creativity_steps == RESPACE and sigmas_of_run(model, settings) is not None:
        raise UserError(
            f"setting creativity_steps: {model.name} says every noise level of its own, which respace changes: drop "
            f"it, or give --steps {model.steps}"
        )
    for name in SIDES:
        if (side := getattr(settings, name)) is not None and side % model.multiple:
            raise UserError(f"setting {_bad_side(name, side, model)}")
    if settings.guidance_2 is not None and not model.two_experts:
        raise UserError(f"setting {_no_second_expert(model)}")
    given_names = [name for name in KNOWN if getattr(settings, name) is not None]
    model.check_scheduler([*given_names, *(["schedule"] if settings.sigmas is not None else [])])


def _check_converted(settings: Settings, model: ModelInfo) -> None:
    """Check that a converted model has what the settings ask of its weights."""
    converted = model.converted
    if converted is None:
        return
    if settings.precision != AUTO and not converted.runs_in(settings.precision):
        raise UserError(f"setting precision: {converted.refusal(model.name, settings.precision)}")
    if settings.merge:
        raise UserError(
            f"setting merge: {model.name} was converted, and adapters are merged into a model as it was before: "
            f"--model {converted.source}, or name them in rows (style, loras)"
        )


def check_rows(rows: pa.Table, model: ModelInfo, settings: Settings) -> Iterator[tuple[int, str]]:
    """What rows ask that this model or version does not have: pairs of a row's index and what to say of it.

    rows: of `arrow_rows.ROWS_SCHEMA`, or `DOUBTFUL_SCHEMA`: then nothing is said that rests on an unknown value.
    """
    for name, known in KNOWN.items():
        unknown = pc.and_(pc.is_valid(rows[name]), pc.invert(pc.is_in(rows[name], pa.array(list(known)))))
        for index in np.flatnonzero(unknown).tolist():
            yield index, _unknown_name(name, rows[name][index].as_py(), known)
    yield from unknown_names(rows, settings, model)
    yield from _bad_sides(rows, model)
    for index in np.flatnonzero(pc.is_valid(rows["guidance_2"])).tolist() if not model.two_experts else ():
        yield index, _no_second_expert(model) + if_own("guidance_2")
    settled = knows(rows, OF_SCHEDULES)
    yield from ((index, message) for index, message in _check_schedules(rows, model, settings) if settled[index])


def _bad_sides(rows: pa.Table, model: ModelInfo) -> Iterator[tuple[int, str]]:
    for name in SIDES:
        sides = pc.fill_null(rows[name], 0).to_numpy()
        for index in np.flatnonzero(sides % model.multiple).tolist():
            yield index, _bad_side(name, int(sides[index]), model)


def _check_schedules(rows: pa.Table, model: ModelInfo, settings: Settings) -> Iterator[tuple[int, str]]:
    both = pc.and_(pc.equal(rows["creativity_steps"], RESPACE), pc.is_valid(rows["sigmas"]))
    resolved = pa.table(resolved_schedules(rows, model, settings))
    of_run = pc.and_(pc.equal(rows["creativity_steps"], RESPACE), pc.is_valid(resolved["sigmas"]))
    others = "the model's" if settings.sigmas is None else "the run's"
    for index in np.flatnonzero(pc.fill_null(of_run, False)).tolist():
        whose = "its sigmas say" if both[index].as_py() else f"{others} sigmas say"
        yield index, f"creativity_steps respace: {whose} every noise level: drop one of the two"
    of_run = pc.is_null(rows["creativity"]).to_numpy() & (settings.creativity is not None)
    yield from _once_for_run([*too_low(resolved), *no_room(resolved)], of_run)


def check_texts(columns: Mapping[str, pa.ChunkedArray | pa.Array], counts: np.ndarray) -> None:
    """Check that the texts of all images fit into a plan.

    Args:
        columns: of the manifest's rows, with defaults.
        counts: images of each row.

    Raises:
        UserError: One column's do not.
    """
    for name, column in columns.items():
        if not pa.types.is_string(column.type):
            continue
        lengths = pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64)
        if (size := int(lengths @ counts.astype(np.int64))) > MOST_TEXT:
            raise UserError(
                f"{name}: the texts of all {counts.sum()} images have {size / 2**30:.1f} GiB together, and a run "
                "takes 2 GiB: split the manifest, and give each part an --out of its own"
            )


def _once_for_run(problems: Iterable[tuple[int, str]], of_run: np.ndarray) -> Iterator[tuple[int, str]]:
    """Problems of rows with their creativity; those that have it of the run are told of once, at the first row.

    of_run: bool [rows], whether each has it of the run.
    """
    shared: dict[str, list[int]] = {}
    for index, message in problems:
        if of_run[index]:
            shared.setdefault(message, []).append(index)
        else:
            yield index, message
    for message, indices in shared.items():
        others = f" (and for {len(indices) - 1} more)" if len(indices) > 1 else ""
        yield indices[0], f"the run's {message}{others}"


def _of(given: str, known: Iterable[str]) -> str:
    return f"use one of {', '.join(known)}{did_you_mean(given, known)}"


def _unknown_name(column: str, given: str, known: Iterable[str]) -> str:
    """What to say of the name of a sampler or a schedule that another tool may have given it."""
    meant = next((name for name in known if _letters(name) == _letters(given)), None)
    meant = meant or next(
        (name for name in known if len(given) > 3 and _letters(name).startswith(_letters(given))), None
    )
    meant = meant or closest(given, known)
    hint = f"; did you mean {meant}?" if meant else ":"
    keep = map_option(column, own_name(column))
    return f"{column} {given!r} is unknown{hint} use one of {', '.join(known)}, or keep the column aside with {keep}"


def _letters(name: str) -> str:
    """`DPM++ 2M` and `dpmpp_2m` are the same."""
    return "".join(letter for letter in name.casefold().replace("+", "p") if letter.isalnum())


def _bad_side(name: str, side: int, model: ModelInfo) -> str:
    nearest = " or ".join(map(str, model.nearest_sizes(side)))
    return f"{name} {side}: must be a multiple of {model.multiple} for model {model.name}: use {nearest}"


def _no_second_expert(model: ModelInfo) -> str:
    return f"guidance_2: model {model.name} has one transformer, and this is for a second one (A14B): remove it"
