"""The adapters of a run: those that its rows name and those that are merged, found before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.errors import UserError
from wanbatch.jobs.config.adapter_texts import Registered, registered
from wanbatch.jobs.config.settings import AUTO, Settings
from wanbatch.jobs.planning.adapter_copies import is_fetched, local_adapter
from wanbatch.manifests.adapter_words import ALL_DIGITS, adapters_words
from wanbatch.manifests.columns import WRITTEN
from wanbatch.manifests.reading.column_names import if_own
from wanbatch.manifests.reading.manifest import Manifest
from wanbatch.pipeline.adapters.files import AdapterFile, ModelLayers, read_adapter
from wanbatch.pipeline.adapters.location import SUFFIX
from wanbatch.pipeline.loading.registry import ADAPTERS, ModelInfo
from wanbatch.pipeline.loading.runtime import ADDED, MERGED
from wanbatch.pipeline.sampling.step_cache import parse
from wanbatch.suggestions import closest


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    """An adapter of a run.

    Attributes:
        name: that rows call it by.
        file: what it is.
        weight: how strongly it is applied; a row's own weight is multiplied with it.
        merged: whether all rows get it, in the model's weights.
        given: what each host fetches it by, if it is on no disk; None: it is where `file` says, on every host.
    """

    name: str
    file: AdapterFile
    weight: float
    merged: bool
    given: Registered | None = None

    @property
    def identity(self) -> tuple[str, float]:
        """What decides pixels: another file or weight makes other ones."""
        return self.file.digest, self.weight

    def describe(self) -> dict[str, Any]:
        """Plain values for printing."""
        return {
            "name": self.name,
            "path": self.file.path,
            "layout": self.file.layout,
            "coverage": self.file.coverage(),
            "weight": self.weight,
            "merged": self.merged,
            "digest": self.file.digest,
        }

    def words(self) -> str:
        """Its name, who gets it, how much of the model it changes, and its weight if that is not 1."""
        how = "merged into the model" if self.merged else "for rows that name it"
        weight = f", weight {self.weight:g}" if self.weight != 1 else ""
        return f"{self.name}, {how}: {self.file.coverage()}{weight}"


Adapters = Mapping[str, NamedAdapter]


def known_adapters(settings: Settings, model: ModelInfo) -> dict[str, str]:
    """Where adapters are, by name: those that come with the model, in its folder `adapters`, and registered ones.

    A registered one takes the place of one that comes with the model.
    """
    shipped = sorted((Path(model.folder) / ADAPTERS).glob(f"*{SUFFIX}"))
    return {path.stem: str(path) for path in shipped} | settings.lora


def check_merged(settings: Settings, model: ModelInfo) -> None:
    """Check the names of merged adapters.

    Raises:
        UserError: One is not known, or named twice.
    """
    known = known_adapters(settings, model) if settings.merge else {}
    for name in settings.merge or ():
        if name not in known:
            raise UserError(f"setting merge: {_unknown(name, known)}")
        if (settings.merge or ()).count(name) > 1:
            raise UserError(f"setting merge: names adapter {name!r} twice: drop one")


def check_row_adapters(settings: Settings, model: ModelInfo) -> None:
    """Check that the adapters of rows can be merged into weights of each slot's own, if that is asked for.

    Raises:
        UserError: The model's own weights are not there, or what the settings ask for does not go with it.
    """
    if settings.row_adapters != MERGED:
        return
    if model.converted is not None and not model.converted.runs_in("bf16"):
        raise UserError(
            f"setting row_adapters: {model.name} was converted to {model.converted.precision}, and adapters are "
            f"merged into weights that are not rounded yet: --model {model.converted.source}, or "
            f"--row-adapters {ADDED}"
        )
    if settings.slots == AUTO:
        raise UserError(f"setting row_adapters: {MERGED} takes memory for each slot: give a number of --slots")
    if parse(settings.step_cache, model.layers).partial:
        raise UserError(
            f"setting row_adapters: {MERGED} runs every block at every step: --step-cache none, or "
            f"--row-adapters {ADDED}"
        )


def idle_row_adapters(settings: Settings, adapters: Adapters) -> tuple[str, ...]:
    """A sentence about a choice of how rows have their adapters, where none has any."""
    if settings.row_adapters != MERGED or any(not one.merged for one in adapters.values()):
        return ()
    return (f"--row-adapters {MERGED} has no effect: no row names an adapter in style or loras",)


def unknown_names(rows: pa.Table, settings: Settings, model: ModelInfo) -> Iterator[tuple[int, str]]:
    """Rows that name an adapter that is not known, or one twice, by their indices, and what to say of it.

    rows: of `manifests.columns.ROWS_SCHEMA`.
    """
    known = known_adapters(settings, model)
    for index, names in _named(rows):
        for column, name in dict.fromkeys(names):
            if name not in known:
                yield index, f"{column}: {_unknown(name, known)}{if_own(column)}"
        called = [name for _, name in names]
        for name in dict.fromkeys(name for name in called if called.count(name) > 1):
            yield index, f"names adapter {name!r} twice: give it once, with the weights added up"


def find_adapters(manifest: Manifest, settings: Settings, model: ModelInfo) -> Adapters:
    """The adapters that rows name or that are merged, by name: the merged ones in their order, then the others.

    Args:
        manifest: whose rows were checked by `unknown_names`.
        settings: which adapters are registered, and which are merged.
        model: what they are for; its configuration is here.

    Raises:
        UserError: One cannot be had, does not fit the model, or cannot be used as it is.
    """
    used: dict[str, None] = {}
    merged = settings.merge or ()
    for index, names in _named(manifest.rows):
        for column, name in names:
            if name in merged:
                raise UserError(
                    f"{manifest.row(index).location}: {column}: names adapter {name!r}, which is merged into the "
                    "model for all rows (--merge), so that it would be applied twice: drop one of the two"
                )
            used[name] = None
    known = known_adapters(settings, model)
    wanted = [*merged, *(name for name in known if name in used)]
    if not wanted:
        return {}
    layers = ModelLayers.of_folder(model.folder, model.name, model.two_experts)
    found = {}
    for name in wanted:
        found[name] = find_adapter(name, known[name], layers, name in merged)
        if (why := found[name].file.only_merged) is not None and name in used:
            raise UserError(
                f"adapter {name!r} cannot be used by single rows: {why}; use it for a whole run with --merge {name}, "
                "and drop it from the rows"
            )
    return found


def find_adapter(name: str, text: str, layers: ModelLayers, merged: bool = False) -> NamedAdapter:
    """One registered adapter. text: where it is, as of `adapter_texts.registered`. Raises UserError."""
    given = registered(text)
    file = read_adapter(local_adapter(given), layers)
    return NamedAdapter(name, file, given.weight, merged, given if is_fetched(given) else None)


def unused_warning(settings: Settings, adapters: Adapters) -> tuple[str, ...]:
    """A sentence about registered adapters that nothing uses."""
    unused = [name for name in settings.lora if name not in adapters]
    if not unused:
        return ()
    what = f"adapter {unused[0]!r} has" if len(unused) == 1 else f"the adapters {', '.join(map(repr, unused))} have"
    return (f"{what} no effect: no row names it in style or loras, and --merge does not",)


def half_warnings(adapters: Adapters) -> Iterator[str]:
    """A sentence about each adapter that leaves one of A14B's transformers as it is, where a file may be missing."""
    for adapter in adapters.values():
        if (other := adapter.file.missing) is not None:
            yield (
                f"adapter {adapter.name!r} changes one of the model's two transformers ({adapter.file.coverage()}), "
                f"since there is no {other} beside {adapter.file.path}: put it there, if there is one"
            )


def identities(images: pa.Table, adapters: Adapters) -> list[tuple[tuple[str, float], ...]]:
    """What decides the pixels of each image besides the names of its adapters: their files and weights."""
    return [
        tuple(adapters[name].identity for _, name in names if name in adapters) for names in names_of_each(images)
    ]


def with_adapters(images: pa.Table, adapters: Adapters) -> pa.Table:
    """Images with the adapters that are in effect for each, as its record will have them; null where there are none.

    The column is a dictionary, as most images have what others have, too.

    Args:
        images: of the plan, with a column `adapters` that is replaced.
        adapters: of the run, the merged ones in the order in which they are merged.
    """
    if not adapters:
        return images
    merged = [_in_effect(one, 1.0) for one in adapters.values() if one.merged]
    distinct: dict[tuple[tuple[str, float], ...], int] = {}
    pairs = zip(images["style"].to_pylist(), images["loras"].to_pylist(), strict=True)
    indices = [distinct.setdefault(own_adapters(*pair), len(distinct)) for pair in pairs]
    values = [
        merged + [_in_effect(adapters[name], weight) for name, weight in own if name in adapters] for own in distinct
    ]
    there = [index if values[index] else None for index in indices]
    column = pa.DictionaryArray.from_arrays(pa.array(there, pa.int32()), pa.array(values, WRITTEN["adapters"]))
    return images.set_column(images.schema.get_field_index("adapters"), "adapters", column)


def settings_on_card(adapters: Adapters, settings: Settings) -> dict[str, str]:
    """What a dataset card says of adapters as settings of the run: how rows have theirs, and which are merged."""
    merged = [_in_effect(one, 1.0) for one in adapters.values() if one.merged]
    of_rows = {"row_adapters": settings.row_adapters} if len(merged) < len(adapters) else {}
    return of_rows | ({"merged_adapters": adapters_words(merged, ALL_DIGITS)} if merged else {})


def own_adapters(style: str | None, loras: Sequence[Mapping[str, Any]] | None) -> tuple[tuple[str, float], ...]:
    """The names of the adapters that a row names, each with the weight that the row gives it."""
    return (*([(style, 1.0)] if style is not None else ()), *((one["name"], one["weight"]) for one in loras or ()))


def _in_effect(adapter: NamedAdapter, weight: float) -> dict[str, Any]:
    """One value of the column `adapters`. weight: that a row gives it."""
    return {
        "name": adapter.name,
        "weight": weight * adapter.weight,
        "sha256": adapter.file.digest,
        "merged": adapter.merged,
    }


def has_adapters(images: pa.Table) -> np.ndarray:
    """Whether each row or image names an adapter; bool."""
    listed = pc.fill_null(pc.list_value_length(images["loras"]), 0).to_numpy() > 0
    return pc.is_valid(images["style"]).to_numpy() | listed


def _named(rows: pa.Table) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """Rows with adapters, by their indices: the columns and names."""
    for index in np.flatnonzero(has_adapters(rows)).tolist():
        (names,) = names_of_each(rows.slice(index, 1))
        yield index, names


def names_of_each(rows: pa.Table) -> list[list[tuple[str, str]]]:
    """The adapters that each row or image names, each with the column that names it."""
    return [
        [("style", style)] * (style is not None) + [("loras", one["name"]) for one in loras or ()]
        for style, loras in zip(rows["style"].to_pylist(), rows["loras"].to_pylist(), strict=True)
    ]


def _unknown(name: str, known: Mapping[str, str]) -> str:
    register = f"register it with --lora {name}=PATH, or in [adapters] of wanbatch.toml"
    if not known:
        return f"adapter {name!r} is unknown, as none is registered: {register}"
    meant = f" (did you mean {found}?)" if (found := closest(name, known)) else ""
    return f"adapter {name!r} is unknown{meant}: use one of {', '.join(known)}, or {register}"
