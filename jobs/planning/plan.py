"""From rows to units of work: every default resolved, rows that can share a batch together.

Pure: no I/O, no clock. The plan is kept as Arrow columns; a `Task` for a worker is made when it is handed out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.errors import UserError
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.planning.adapters import Adapters, has_adapters, identities, with_adapters
from wanbatch.jobs.planning.checks import check_texts
from wanbatch.jobs.planning.noise_schedule import (
    REPLACED,
    evaluation_counts,
    has_sources,
    resolved_schedules,
    starting_levels,
)
from wanbatch.jobs.planning.row_digests import row_digests
from wanbatch.jobs.planning.seeds import seeds_of
from wanbatch.jobs.planning.sounds import with_sounds
from wanbatch.jobs.planning.unit_sizes import cut_units
from wanbatch.jobs.planning.units import Image, Task
from wanbatch.manifests.columns import ALWAYS, LATER, RARE, RESOLVED, RUN_SETTINGS, WRITTEN
from wanbatch.manifests.dataset.schema_changes import cast
from wanbatch.manifests.reading.manifest import Manifest
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.notes import noted_sources
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.sampling.schedules import KEEP
from wanbatch.pipeline.sound.config import SoundConfig

OWN_WAY = {"width", "height", "creativity", "creativity_steps", "guidance_2", "seed", "sigmas", *REPLACED}
"""Columns whose defaults depend on others; see `make_plan`."""

Sizes = Mapping[int, tuple[int, int]]  # index among the manifest's rows -> (width, height) of its first source


@dataclass(frozen=True, slots=True)
class Plan:
    """All images of a manifest, one row each, as columns named like the fields of `Image` (less `sources`).

    Attributes:
        unsized: for each of the manifest's rows, whether it takes its size from a source that nobody has looked at
            yet. The size that its images have here is the default.
        adapters: those that the images name and those that all of them get, by name.
        unreadable: sources that could not be read while the plan was made -> why. Their rows will fail.
        later: which columns of `columns.LATER` the dataset has: those that a row or the run uses, and what
            `with_later` added for its folder.
        warnings: what of the manifest has no effect, besides what the manifest itself warns of; a sentence each.
        source_notes: sources that were looked at -> what the user should know of them (`notes.WORDS`), as far as
            their headers tell. Those without a note are not there.
        hearing: how sounds of rows are heard; None: no row has one.
    """

    manifest: Manifest
    images: pa.Table
    unsized: np.ndarray
    unreadable: Mapping[str, str] = field(default_factory=dict)
    later: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    source_notes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    adapters: Adapters = field(default_factory=dict)
    hearing: SoundConfig | None = None

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """Those of the manifest and of the plan, a sentence each."""
        return (*self.manifest.all_warnings, *self.warnings)

    @property
    def added_columns(self) -> pa.Schema:
        """What data parts have after the columns that all of them have: later ones, then the passthrough columns."""
        own = self.manifest.passthrough.schema
        return pa.schema([*((name, WRITTEN[name]) for name in self.later), *own], metadata=own.metadata)

    def with_later(self, names: Collection[str]) -> Plan:
        """The same plan for a dataset that has these columns of `columns.LATER`, too."""
        return replace(self, later=tuple(name for name in LATER if name in names or name in self.later))

    def with_used_later(self) -> Plan:
        """The same plan for a dataset that has the columns of `columns.LATER` that an image has a value of."""
        there = [name for name in LATER if name in self.images.column_names and name not in ALWAYS]
        return self.with_later([name for name in there if self.images[name].null_count < len(self)])

    def for_folder(self, there: Collection[str], made: Collection[str], again: Collection[str] = ()) -> Plan:
        """The same plan for a folder whose data parts have these columns of `columns.LATER`.

        A column of `columns.RARE` that it lacks is added only if an image has a value that is not made yet: what is
        made was made without.

        Args:
            there: the columns that the folder has.
            made: ids of its images.
            again: of these, those that are made again.
        """
        if not {*RARE} & {*self.later}:
            return self.with_later(there)
        unmade = np.array([name not in made or name in again for name in self.ids()])
        needless = {
            name
            for name in self.later
            if name in RARE and not (self.images[name].is_valid().to_numpy() & unmade).any()
        }
        return replace(self, later=tuple(name for name in self.later if name not in needless)).with_later(there)

    def with_columns(self, schema: pa.Schema) -> Plan:
        """The same plan for a dataset whose data parts have a schema that holds its columns, and perhaps others.

        Raises:
            UserError: Values of the manifest have no room in a type that the dataset has already.
        """
        own = pa.schema([field for field in schema if field.name not in WRITTEN], metadata=schema.metadata)
        if own.equals(self.manifest.passthrough.schema):
            return self.with_later(schema.names)
        try:
            passthrough = cast(self.manifest.passthrough, own)
        except pa.ArrowException as error:
            raise UserError(
                f"{self.manifest.path}: has values that do not go with the columns that the output folder has "
                f"({error}): give them in columns of other names, or choose another output folder"
            ) from error
        manifest = replace(self.manifest, passthrough=passthrough)
        return replace(self, manifest=manifest).with_later(schema.names)

    def __len__(self) -> int:
        return self.images.num_rows

    def ids(self) -> list[str]:
        return self.images["id"].to_pylist()

    def units(self, rows: int, skip: Collection[str] = (), workers: int = 1) -> list[np.ndarray]:
        """Indices of the images that are still to be made, at most `rows` a unit.

        Images of one unit share size, guidance, and whether they have a creativity map or adapters; inside such a
        class, images of similarly long prompts, and then those with the same source or prompt, stand together. Units
        of one class follow one another, so that the images of one take the slots that the last ones of another leave;
        all of this for some thousand images of the manifest at a time: the dataset grows in about its order.

        Args:
            rows: of a unit, at most.
            skip: ids of images that are not to be made.
            workers: how many take units at the same time.
        """
        pending = np.array([index for index, name in enumerate(self.ids()) if name not in skip], dtype=np.int64)
        return cut_units(self.images, self.manifest.rows, pending, rows, workers)

    def examples(self, indices: Sequence[int] | np.ndarray, limit: int = 4) -> tuple[Image, ...]:
        """The first of each of the most common kinds by size, guidance, sources and adapters, at some indices."""
        images = self.images
        having = has_sources(self.manifest.rows).to_numpy()[images["row"].to_numpy()]
        kinds = [images[name].to_numpy() for name in ("width", "height")]
        kinds += [images["guidance"].to_numpy() > 1, having, has_adapters(images)]
        table = np.stack(kinds)[:, indices]
        _, first, counts = np.unique(table, axis=1, return_index=True, return_counts=True)
        chosen = first[np.argsort(-counts, kind="stable")][:limit]
        return self.task(0, 1, "", np.asarray(indices)[chosen]).images

    def task(self, unit: int, attempt: int, attempt_token: str, indices: Sequence[int] | np.ndarray) -> Task:
        """The unit that holds the images at some indices."""
        return self.tasks([(unit, attempt, attempt_token, indices)])[0]

    def tasks(self, wanted: Sequence[tuple[int, int, str, Sequence[int] | np.ndarray]]) -> list[Task]:
        """What `task` gives for each; many at once take a fifth of the time."""
        indices = np.concatenate([one[-1] for one in wanted])
        chosen = self.images.take(pa.array(indices, type=pa.int64()))
        rows = chosen["row"].combine_chunks()
        manifest = self.manifest
        of_rows = (manifest.sources(rows), manifest.map_sources(rows), manifest.sounds(rows), chosen.to_pylist())
        images = [_image(*of_row) for of_row in zip(*of_rows, strict=True)]
        tasks, first = [], 0
        for unit, attempt, attempt_token, its in wanted:
            passthrough = self.manifest.passthrough.take(rows.slice(first, len(its)))
            of_unit = tuple(images[first : first + len(its)])
            tasks.append(Task(unit, attempt, attempt_token, of_unit, passthrough, self.later))
            first += len(its)
        return tasks

    def with_sizes(
        self, model: ModelInfo, looked_at: np.ndarray, sizes: Sizes, unreadable: Mapping[str, str]
    ) -> Plan:
        """The plan in which rows have the shapes of their sources.

        Args:
            model: decides which sizes there are.
            looked_at: indices of the manifest's rows whose sources were looked at.
            sizes: of the sources that could be read.
            unreadable: name -> why, of those that could not.
        """
        unsized = self.unsized.copy()
        unsized[looked_at] = False
        plan = replace(self, unsized=unsized, unreadable={**self.unreadable, **unreadable})
        if not sizes:
            return plan
        row, area = (self.images[name].to_numpy() for name in ("row", "source_area"))
        images = self.images
        fitted = np.zeros((len(unsized), 2), dtype=np.int32)
        fitting = lru_cache(maxsize=65536)(model.fitting_size)
        whole_area = int(np.nanmax(area))  # all rows that follow a source have the same
        fitted[list(sizes)] = [fitting(*size, whole_area) for size in sizes.values()]
        for index, name in enumerate(("width", "height")):
            of_image = fitted[row, index]
            values = np.where(of_image > 0, of_image, images[name].to_numpy())
            images = images.set_column(images.schema.get_field_index(name), name, pa.array(values, pa.int32()))
        return replace(plan, images=images)

    def describe(self, units: int) -> dict[str, Any]:
        """What a run would do, as plain values for printing. units: that it would cut all images into."""
        images = self.images
        shapes = Counter(zip(images["width"].to_pylist(), images["height"].to_pylist(), strict=True))
        counts = images["evaluations"].to_numpy()
        return {
            "rows": self.manifest.manifest_rows,
            "images": len(self),
            "units": units,
            "model_evaluations": int(counts.sum(dtype=np.int64)),
            "evaluations_of_an_image": {"least": int(counts.min()), "most": int(counts.max())},
            "samplers": dict(Counter(images["sampler"].to_pylist()).most_common()),
            "sizes": {f"{width}x{height}": count for (width, height), count in shapes.most_common()},
            "unreadable_sources": dict(self.unreadable),
            "source_notes": {
                name: {"sources": count, "example": first}
                for name, (count, first) in noted_sources(self.source_notes).items()
            },
            "passthrough": self.manifest.passthrough.column_names,
            "warnings": [*self.manifest.warnings, *self.warnings],
            "unused_columns": [column.as_json() for column in self.manifest.unused_columns],
            "adapters": [adapter.describe() for adapter in self.adapters.values()],
            "with_sources": int(has_sources(self.manifest.rows).to_numpy()[images["row"].to_numpy()].sum()),
        }


def make_plan(
    manifest: Manifest,
    model: ModelInfo,
    settings: Settings,
    adapters: Adapters = MappingProxyType({}),
    hearing: SoundConfig | None = None,
) -> Plan:
    """Resolve every default but the sizes that follow sources (`Plan.with_sizes`).

    Rows and settings were checked (`checks.py`), and what they name is found (`adapters.py`, `sounds.py`).

    Raises:
        UserError: More texts than a plan takes.
    """
    rows = manifest.rows
    width, height = _first(settings.width, model.width), _first(settings.height, model.height)
    sourced = _sized_by_source(rows)
    columns = {
        name: _filled(rows[name], default_of(name, model, settings)) for name in RESOLVED if name not in OWN_WAY
    }
    columns |= {
        "id": rows["id"],
        "manifest_row": rows["number"],
        "width": pc.fill_null(rows["width"], width),
        "height": pc.fill_null(rows["height"], height),
        "source_area": pc.if_else(sourced, pa.scalar(width * height, pa.int64()), pa.scalar(None, pa.int64())),
    }
    columns["guidance_2"] = _second_guidance(rows, model, settings)
    columns |= resolved_schedules(rows, model, settings)
    counts = pc.fill_null(rows["num_images"], 1).to_numpy()
    check_texts(columns, counts)
    row, variant = _of_images(counts)
    images = pa.table(columns).take(pa.array(row))
    ids = _ids(images["id"].to_pylist(), variant, counts[row])
    own_seeds = rows["seed"].take(pa.array(row)).to_pylist()
    seeds = seeds_of(settings.seed, images["id"].to_pylist(), variant, own_seeds)
    images = images.set_column(images.schema.get_field_index("id"), "id", pa.array(ids, pa.string()))
    images = images.append_column("row", pa.array(row, pa.int64()))
    images = images.append_column("variant", pa.array(variant, pa.int32()))
    images = images.append_column("seed", pa.array(seeds, pa.int64()))
    images = images.append_column("starting_level", pa.array(starting_levels(images), pa.float64()))
    images = images.append_column("evaluations", pa.array(evaluation_counts(images), pa.int32()))
    used = identities(images, adapters) if adapters else ()
    digests = row_digests(manifest.rows, images, used, "" if hearing is None else hearing.digest)
    images = images.append_column("digest", pa.array(digests, pa.string()))
    for name in RARE:
        images = images.append_column(name, pa.nulls(len(images), WRITTEN[name]))
    images = with_adapters(with_sounds(images, rows, hearing, settings.keep_audio), adapters)
    hearing = hearing if rows["audio"].null_count < len(rows) else None
    return Plan(manifest, images, sourced.to_numpy(), adapters=adapters, hearing=hearing).with_used_later()


def default_of(name: str, model: ModelInfo, settings: Settings) -> Any:
    """What holds for rows that do not give a column; None: nothing, or what changes nothing."""
    if name == "guidance_2" and settings.guidance is not None:
        return settings.guidance_2  # the model's goes with its own guidance only
    if name == "creativity_steps" and settings.creativity_steps == KEEP:
        return None
    of_run = getattr(settings, name) if name in RUN_SETTINGS else None
    return _first(of_run, getattr(model, name, None), "" if name == "prompt" else None)


def _filled(given: pa.ChunkedArray, default: Any) -> pa.ChunkedArray:
    return given if default is None else pc.if_else(pc.is_valid(given), given, pa.scalar(default, given.type))


def _second_guidance(rows: pa.Table, model: ModelInfo, settings: Settings) -> pa.ChunkedArray:
    """The second expert's guidance of each row; null: the same as the first one's."""
    given = rows["guidance_2"]
    of_others = pa.scalar(default_of("guidance_2", model, settings), given.type)
    of_guided = pa.scalar(settings.guidance_2, given.type)  # a row's own guidance is for both experts
    return pc.coalesce(given, pc.if_else(pc.is_valid(rows["guidance"]), of_guided, of_others))


def _sized_by_source(rows: pa.Table) -> pa.ChunkedArray:
    return pc.and_(has_sources(rows), pc.is_null(rows["width"]))


def _of_images(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row of each image, and which of the row's images it is."""
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)


def _ids(row_ids: Sequence[str], variants: np.ndarray, counts: np.ndarray) -> list[str]:
    return [
        row_id if count == 1 else f"{row_id}-{variant}"
        for row_id, variant, count in zip(row_ids, variants.tolist(), counts.tolist(), strict=True)
    ]


def _image(
    sources: tuple[Source, ...], map_source: Source | None, audio: Source | None, values: dict[str, Any]
) -> Image:
    sigmas = values.pop("sigmas")
    keeps = values.pop("audio", None) is not None
    sigmas = None if sigmas is None else tuple(sigmas)
    return Image(sources=sources, map_source=map_source, audio=audio, keeps_audio=keeps, sigmas=sigmas, **values)


def _first(*values):
    return next((value for value in values if value is not None), None)
