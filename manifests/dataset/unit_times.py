"""When units had their worker's device, by the timing records of their images. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DEVICE_STAGES = ("text", "encode", "denoise", "decode")
"""Stages that need the device; a worker reads sources and writes files beside them."""

COLUMNS = ("unit", "attempt", "worker", "device", "started", *(f"{stage}_seconds" for stage in DEVICE_STAGES))


@dataclass(frozen=True, slots=True)
class UnitTime:
    """One attempt at a unit that counts.

    Attributes:
        device, worker: of the attempt.
        began: when its sources began to be read, seconds since 1970.
        begin, end: when it had the device. A unit waits for the one before it, whose images are in the model while
            its own sources are read.
    """

    device: str
    worker: str
    began: float
    begin: float
    end: float

    @property
    def busy(self) -> float:
        """Seconds that its images were in the model."""
        return self.end - self.begin


def unit_times(timings: pa.Table) -> list[UnitTime]:
    """The units of a folder, worker by worker, each worker's in their order. timings: `COLUMNS` of all images."""
    seconds = np.sum([pc.fill_null(timings[f"{stage}_seconds"], 0.0).to_numpy() for stage in DEVICE_STAGES], axis=0)
    table = timings.select(["unit", "attempt", "worker", "device", "started"]).append_column(
        "seconds", pa.array(seconds, pa.float64())
    )
    grouped = table.group_by(["worker", "device", "unit", "attempt"]).aggregate(
        [("started", "min"), ("seconds", "sum")]
    )
    found: list[UnitTime] = []
    ends: dict[str, float] = {}
    for row in grouped.sort_by([("worker", "ascending"), ("started_min", "ascending")]).to_pylist():
        began = row["started_min"].timestamp()
        begin = max(began, ends.get(row["worker"], began))
        ends[row["worker"]] = begin + row["seconds_sum"]
        found.append(UnitTime(row["device"], row["worker"], began, begin, ends[row["worker"]]))
    return found
