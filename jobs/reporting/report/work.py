"""Where the time of a folder's images went, and what was used: stages, devices, slots, caches. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.manifests.dataset.unit_times import unit_times
from wanbatch.manifests.records import TIMING_SCHEMA

STAGES = tuple(name.removesuffix("_seconds") for name in TIMING_SCHEMA.names if name.endswith("_seconds"))
BACKENDS = tuple(field.name for field in TIMING_SCHEMA.field("backends").type)
COLUMNS = tuple(name for name in TIMING_SCHEMA.names if name != "id")
"""Columns of `timings/` that are read."""


def stage_seconds(timings: pa.Table) -> dict[str, float]:
    """Seconds of each stage, summed over all images."""
    return {stage: round(pc.sum(timings[f"{stage}_seconds"]).as_py() or 0.0, 3) for stage in STAGES}


def device_use(timings: pa.Table, run_begins: Sequence[datetime]) -> list[dict[str, Any]]:
    """For each kind of device: its workers, and the hours that they held it and were busy, all runs together.

    A worker holds its device from the begin of its first unit of a run to the end of its last one.

    Args:
        timings: of all images.
        run_begins: when the runs of the folder began.
    """
    units = unit_times(timings)
    begins = np.array([begin.timestamp() for begin in run_begins])
    runs = np.searchsorted(begins, [unit.began + 1e-3 for unit in units]).tolist()
    spans: dict[tuple[str, str, int], tuple[float, float]] = {}
    busy: dict[str, float] = {}
    for unit, run in zip(units, runs, strict=True):
        key = (unit.device, unit.worker, run)
        begin, end = spans.get(key, (unit.begin, unit.end))
        spans[key] = (min(begin, unit.begin), max(end, unit.end))
        busy[unit.device] = busy.get(unit.device, 0.0) + unit.busy
    found = []
    for device, seconds in busy.items():
        held = [end - begin for (of, _, _), (begin, end) in spans.items() if of == device]
        workers = len({worker for of, worker, _ in spans if of == device})
        hours = {"hours": round(sum(held) / 3600, 7), "busy_hours": round(seconds / 3600, 7)}
        found.append({"device": device, "workers": workers, **hours})
    return found


def slot_use(timings: pa.Table, events: Sequence[Mapping[str, Any]] = ()) -> float | None:
    """The share of the slots' evaluations that were of a row; None if nothing was evaluated.

    Workers count it and say so in the log, and of each image that they made in its timing record, which is what is
    left without a log. For images of earlier versions, of which neither says it, the most that it can have been is
    computed: a unit of rows with e evaluations in s slots, which shared none with another one, takes at least
    max(sum(e) / s, max(e)) turns.

    Args:
        timings: of all images.
        events: of the folder's log.
    """
    counted = [event for event in events if event.get("slot_steps")]
    if counted:
        slot_steps = sum(float(event["slot_steps"]) for event in counted)
        return round(sum(int(event.get("evaluations", 0)) for event in counted) / slot_steps, 4)
    evaluations = (timings["steps_full"].to_numpy() + timings["steps_cached"].to_numpy()).astype(np.float64)
    if not evaluations.sum():
        return None
    recorded = timings["slot_steps"] if "slot_steps" in timings.column_names else None
    if recorded is not None and not recorded.null_count and (slot_steps := pc.sum(recorded).as_py()):
        return round(float(evaluations.sum()) / slot_steps, 4)
    _, unit = np.unique(timings["unit"].to_numpy(), return_inverse=True)
    slots = np.zeros(unit.max() + 1)
    slots[unit] = timings["batch_size"].to_numpy()
    total, most = np.bincount(unit, evaluations), np.zeros(len(slots))
    np.maximum.at(most, unit, evaluations)
    turns = np.maximum(np.ceil(total / slots), most)
    return round(float(total.sum() / (turns * slots).sum()), 4)


def cache_use(timings: pa.Table) -> dict[str, Any]:
    """Evaluations and blocks that ran and that the step cache stood in for, and the share that it saved."""
    names = ("steps_full", "steps_cached", "blocks_full", "blocks_cached")
    counts = {name: pc.sum(timings[name]).as_py() or 0 for name in names}
    blocks = counts["blocks_full"] + counts["blocks_cached"]
    return {**counts, "blocks_saved": round(counts["blocks_cached"] / blocks, 4) if blocks else 0.0}


def backend_use(timings: pa.Table) -> dict[str, dict[str, int]]:
    """Stage -> implementation -> how many images it ran for; `not run` where the stage had nothing to do."""
    backends = timings["backends"].combine_chunks()
    found = {}
    for stage in BACKENDS:
        counts = pc.value_counts(pc.fill_null(pc.struct_field(backends, stage), "not run"))
        found[stage] = {value["values"]: value["counts"] for value in counts.to_pylist()}
    return found


def peak_memory(timings: pa.Table) -> int | None:
    """The most device memory that a worker had in use, in bytes; None where it was not measured."""
    return pc.max(timings["peak_memory_bytes"]).as_py()
