"""Collects what a report says of an output folder, as plain data; it draws and writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from wanbatch import __version__
from wanbatch.errors import UserError
from wanbatch.jobs.reporting.report import groups, work
from wanbatch.jobs.reporting.report.checks import Checks, read_checks
from wanbatch.jobs.reporting.report.failed_classes import MOST_ROWS, class_label_names, classes_of_failures
from wanbatch.jobs.reporting.report.failures import failure_classes
from wanbatch.jobs.reporting.report.history import Session, Timeline, sessions_of, timeline_of
from wanbatch.jobs.reporting.report.sources import FindManifest, manifest_of
from wanbatch.manifests.dataset.committed_parts import PART, POSITION, CommittedParts
from wanbatch.manifests.dataset.event_log import LOG, Event, parsed_events, speed_of
from wanbatch.manifests.dataset.status import read_internal_file, status

FORMAT = 1
KEYS = ("id", "manifest_row", "variant", "creativity", "style", "loras")
FAILURE_COLUMNS = ("id", "manifest_row", "stage", "error_class", "message")
MOST_GROUPS = 1000
"""Values of a column that `report.json` counts; what is beyond is summed up."""


@dataclass(frozen=True, slots=True)
class ReportData:
    """What a report is made of.

    Attributes:
        data: everything that `report.json` has, as JSON values.
        parts: the committed parts of the folder.
        keys: one row for each image, in the order of the parts: `KEYS` as far as they are there, `PART`,
            `POSITION`, and `class` as text if images have one.
        checks: what was checked.
        plan: what the folder records of its last run.
        timeline: speed and workers over time; None if no unit was finished.
        failures: rows of `failures/`.
    """

    data: dict[str, Any]
    parts: CommittedParts
    keys: pa.Table
    checks: Checks
    plan: Mapping[str, Any]
    timeline: Timeline | None = None
    failures: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def collect(
    out: str | Path, class_column: str | None = None, over: bool = False, manifest: FindManifest | None = None
) -> ReportData:
    """Read an output folder, without its lock, so also while a run goes on.

    Args:
        out: the folder, or its URL.
        class_column: the column that has the class of an image; None: the first of `groups.CLASS_COLUMNS`.
        over: the run is over, although its process still holds the folder.
        manifest: of the last run, where that is at hand; default: it is read again if failed images have a class.

    Raises:
        UserError: It is no output folder, or a part of it is lost.
        MachineryError: It cannot be read.
    """
    found = status(out)
    events = parsed_events(read_internal_file(out, LOG))
    sessions = sessions_of(events)
    parts = CommittedParts.open(out)
    folder = parts.backend.root
    keys, column = _keys(parts, class_column)
    checks = read_checks(out, frozenset(keys["id"].to_pylist()))
    failed = parts.table("failures", FAILURE_COLUMNS)
    failures = [] if failed is None else failed.sort_by("manifest_row").to_pylist()
    column, failed_classes = _failed_classes(failures, parts, found["plan"], column or class_column, manifest)
    data = {
        "format": FORMAT,
        "name": folder.rstrip("/").rpartition("/")[2] or folder,
        "wanbatch": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "folder": folder,
        "state": _state(found, sessions, over),
        "counts": _counts(found, checks),
        "failures": failure_classes(failures, folder, failed_classes),
        **_grouped(keys, column, checks, failed_classes),
        "checks": checks.as_json(),
        **_work(parts, sessions, events),
        "warnings": _warnings(events),
        "model": {name: found["fingerprint"].get(name) for name in ("model", "revision")},
        "settings": found["plan"].get("settings", {}),
        "manifest": {name: found["plan"].get(name) for name in ("manifest", "digest")},
        "versions": {"begun by wanbatch": found["info"].get("wanbatch"), "reported by wanbatch": __version__},
        "fingerprint": found["fingerprint"],
    }
    return ReportData(data, parts, keys, checks, found["plan"], timeline_of(events), failures)


def _keys(parts: CommittedParts, wanted: str | None) -> tuple[pa.Table, str | None]:
    """The keys of all images, with `class` as text; and the column that it comes from."""
    schema = parts.schema("data")
    if schema is None:
        empty = pa.table({"id": pa.array([], pa.string()), PART: pa.array([], pa.int32())})
        return empty.append_column(POSITION, pa.array([], pa.int32())), None
    column = wanted or groups.class_column(schema)
    more = [] if column is None else [column, "sources", groups.OF_ONE_PICTURE]
    table = parts.table("data", [*KEYS, *more])
    assert table is not None
    if column is None:
        return table, None
    if column not in table.column_names or not groups.is_plain(table.schema.field(column).type):
        there = ", ".join(name for name in schema.names if groups.is_plain(schema.field(name).type))
        raise UserError(f"{parts.backend.root}: has no column {column!r} of text or whole numbers; it has: {there}")
    classes = groups.class_names(table[column], class_label_names(schema, column))
    others = table.drop_columns([column])
    if "class" in others.column_names:
        others = others.drop_columns(["class"])
    return others.append_column("class", pa.array(classes, pa.string())), column


def _failed_classes(
    failures: Sequence[Mapping[str, Any]],
    parts: CommittedParts,
    plan: Mapping[str, Any],
    column: str | None,
    manifest: FindManifest | None,
) -> tuple[str | None, list[str] | None]:
    """The column of classes, and the class of each failed image; None: that is not known, or images have none."""
    if not failures:
        return column, []
    unclassed = column is None and bool(parts.names["data"])
    if unclassed or (plan.get("rows") or 0) > MOST_ROWS:
        return column, None
    read = manifest or manifest_of(plan, only_with_images=False)
    return classes_of_failures(failures, read(), plan.get("digest"), column)


def _counts(found: Mapping[str, Any], checks: Checks) -> dict[str, Any]:
    names = {"rows": "rows", "made": "done", "failed": "quarantined", "left": "pending"}
    return {**{name: found[key] for name, key in names.items()}, "rejected_by_checks": len(checks.rejected)}


def _state(found: Mapping[str, Any], sessions: Sequence[Session], over: bool) -> str:
    """`running`, how the last run ended (`event_log.ENDS`), or `ended without a word`, as a killed run does."""
    if found["holder"] and not over:
        return "running"
    if sessions and sessions[-1].ended:
        return sessions[-1].ended
    if found["pending"] == 0:
        return "finished"
    return "ended without a word" if sessions or found["pending"] else "not begun"


def _grouped(keys: pa.Table, column: str | None, checks: Checks, failed: Sequence[str] | None) -> dict[str, Any]:
    """Counts by class, creativity and adapters, and classes before and after."""
    found: dict[str, Any] = {"groups": {}, "class_column": column, "classes": []}
    if column is not None:
        classes = keys["class"].to_pylist() if "class" in keys.column_names else []
        rejected = [name in checks.rejected for name in keys["id"].to_pylist()]
        sources = groups.source_names(keys)
        found["classes"] = groups.classes_before_and_after(classes, sources, rejected, failed)
    if "creativity" in keys.column_names:
        names = [groups.creativity_name(value) for value in keys["creativity"].to_pylist()]
        found["groups"]["creativity"] = groups.counted(names, MOST_GROUPS)
    if (adapters := groups.adapter_groups(keys)) is not None:
        found["groups"]["adapters"] = groups.counted(adapters, MOST_GROUPS)
    return found


def _work(parts: CommittedParts, sessions: Sequence[Session], events: Sequence[Event]) -> dict[str, Any]:
    """Where the time went and what was used."""
    runs = [session.as_json() for session in sessions]
    seconds = sum(session.seconds for session in sessions)
    sums = [sum(getattr(session, name) for session in sessions) for name in ("made", "failed", "making_seconds")]
    speed = speed_of(*sums)
    calibrated = [event for event in events if event["event"] == "calibrated"]
    found: dict[str, Any] = {
        "runs": runs,
        "seconds": round(seconds, 3),
        "images_per_second": None if speed is None else round(speed.made, 4),
        "calibration": None if not calibrated else calibrated[-1]["milliseconds_of_a_step_and_row"],
    }
    timings = parts.table("timings", work.COLUMNS)
    if timings is None or not len(timings):
        return {**found, "stage_seconds": {}, "devices": [], "slot_use": None, "step_cache": {}, "backends": {}}
    return {
        **found,
        "stage_seconds": work.stage_seconds(timings),
        "devices": work.device_use(timings, [session.begin for session in sessions]),
        "slot_use": work.slot_use(timings, events),
        "step_cache": work.cache_use(timings),
        "backends": work.backend_use(timings),
        "peak_memory_bytes": work.peak_memory(timings),
    }


def _warnings(events: Sequence[Event]) -> list[str]:
    """What runs warned of, each sentence once; the last ones last."""
    said = [str(event["message"]) for event in events if event["event"] == "warning" and "message" in event]
    return list(dict.fromkeys(said))
