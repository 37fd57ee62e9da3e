"""The images that a report shows: small copies, their sources, and the settings that made them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wanbatch.jobs.reporting.report.collect import ReportData
from wanbatch.jobs.reporting.report.groups import adapter_groups, adapters_name, creativity_name
from wanbatch.jobs.reporting.report.sampling import stratified
from wanbatch.jobs.reporting.report.sources import SourceThumbnail, SourceThumbnails
from wanbatch.jobs.reporting.report.thumbnails import SIDE, Thumbnail, thumbnail_of_file
from wanbatch.manifests.adapter_words import adapter_words, recorded_adapters
from wanbatch.manifests.columns import RESOLVED
from wanbatch.manifests.dataset.committed_parts import PART, POSITION
from wanbatch.manifests.storage.urls import is_url

PROMPT_SHOWN, NAME_SHOWN, SOURCES_SHOWN = 400, 120, 4
READ_LOCALLY, READ_FROM_A_STORE = 4 << 30, 512 << 20
"""Bytes of pictures that are read for one report, at most: files hold many, and those before one are read with it."""

IN_TEXT = ("creativity", "width", "height", "steps", "guidance", "sampler", "schedule", "seed")
OTHERS = (*(name for name in RESOLVED if name not in (*IN_TEXT, "prompt")), "step_cache", "evaluations", "adapters")


@dataclass(frozen=True, slots=True)
class Card:
    """One image as the report shows it.

    Attributes:
        id: of the image, cut where it is long.
        picture: small; None if its file is damaged.
        prompt: what was asked for, cut where it is long.
        kinds: `class`, `creativity` and `adapters` as far as the folder has them, as text.
        settings: name and value of what it was made with, in the order in which they are shown.
        sources: what it started from; at most `SOURCES_SHOWN`.
        more_sources: how many more there are.
        rejected_by: the checks that rejected it.
        number: row of the manifest, from 0.
    """

    id: str
    picture: Thumbnail | None
    prompt: str
    kinds: Mapping[str, str]
    settings: Sequence[tuple[str, str]]
    sources: Sequence[SourceThumbnail]
    more_sources: int
    rejected_by: Sequence[str]
    number: int

    @property
    def size(self) -> int:
        """Bytes that its pictures take in the page."""
        small = [self.picture, *(source.thumbnail for source in self.sources)]
        return sum(len(one.uri) for one in small if one is not None) + 2500

    @property
    def brief(self) -> str:
        """The settings that are looked at most, in one line."""
        said = dict(self.settings)
        size = f"{said.get('width', '?')}x{said.get('height', '?')}"
        words = [f"{name} {said[name]}" for name in ("steps", "guidance", "sampler", "seed") if name in said]
        return " · ".join([size, *words])

    @property
    def summary(self) -> str:
        """The settings in one line."""
        return ", ".join(f"{name} {value}" for name, value in self.settings)


def chosen_for_gallery(report: ReportData, limit: int) -> list[int]:
    """Indices among the report's keys of images of all classes, creativities and adapters."""
    keys = report.keys
    kinds = [keys["class"].to_pylist()] if "class" in keys.column_names else []
    if (adapters := adapter_groups(keys)) is not None:
        kinds.append(adapters)
    if "creativity" in keys.column_names:
        kinds.append([creativity_name(value) for value in keys["creativity"].to_pylist()])
    strata = list(zip(*kinds, strict=True)) if kinds else [()] * len(keys)
    return stratified(strata, keys[POSITION].to_pylist(), keys["id"].to_pylist(), limit)


def indices_of(report: ReportData, ids: Iterable[str]) -> list[int]:
    """Indices among the report's keys of some ids."""
    wanted = set(ids)
    return [index for index, name in enumerate(report.keys["id"].to_pylist()) if name in wanted]


def read_cards(
    report: ReportData, indices: Sequence[int], sources: SourceThumbnails, side: int = SIDE
) -> dict[str, Card]:
    """Read images and make their cards, by id; those that would take too much reading are left out.

    Args:
        report: of the folder.
        indices: among the report's keys.
        sources: finds what they were made from.
        side: pixels of the longer side of small copies, at most.
    """
    part, place = (report.keys[name].to_pylist() for name in (PART, POSITION))
    wanted: dict[int, list[int]] = {}
    for index in indices:
        wanted.setdefault(part[index], []).append(place[index])
    most = READ_FROM_A_STORE if is_url(report.parts.backend.root) else READ_LOCALLY
    names = report.keys["id"].to_pylist()
    classes = report.keys["class"].to_pylist() if "class" in report.keys.column_names else None
    class_of = {} if classes is None else {names[index]: classes[index] for index in indices}

    def made(row: dict[str, Any]) -> tuple[str, Card]:
        return row["id"], _card(row, class_of.get(row["id"]), report, sources, side)

    return dict(report.parts.rows(wanted, made, most))


def _card(
    row: Mapping[str, Any], class_name: str | None, report: ReportData, sources: SourceThumbnails, side: int
) -> Card:
    used = row.get("sources") or ()
    kinds = {} if class_name is None else {"class": class_name}
    if "style" in row or "loras" in row:
        kinds["adapters"] = adapters_name(row)
    kinds["creativity"] = creativity_name(row.get("creativity"))
    return Card(
        id=_cut(row["id"], NAME_SHOWN),
        picture=thumbnail_of_file((row["image"] or {}).get("bytes") or b"", side),
        prompt=_cut(row["prompt"] or "", PROMPT_SHOWN),
        kinds=kinds,
        settings=_settings(row),
        sources=sources.of({**row, "sources": used[:SOURCES_SHOWN]}),
        more_sources=max(0, len(used) - SOURCES_SHOWN),
        rejected_by=report.checks.rejected.get(row["id"], ()),
        number=row["manifest_row"],
    )


def _settings(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What an image was made with; of adapters what was in effect, if its row says so, and else what was asked."""
    if adapters := recorded_adapters(row):
        row = {**row, "style": None, "loras": None, "adapters": [adapter_words(one) for one in adapters]}
    return [(name, _text(row[name])) for name in (*IN_TEXT, *OTHERS) if _is_said(row.get(name))]


def _is_said(value: Any) -> bool:
    return value is not None and value != "" and value != []


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value[:40])
    return _cut(str(value), NAME_SHOWN)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
