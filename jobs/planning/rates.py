"""How long images take on a device and how large they get, as earlier runs recorded it or a benchmark measured it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.jobs.planning.slot_turns import ONE_BY_ONE, slots_computed
from wanbatch.jobs.planning.workload import denoising_work
from wanbatch.manifests.dataset.committed_parts import CommittedParts
from wanbatch.manifests.dataset.event_log import LOG, Event, parsed_events
from wanbatch.manifests.dataset.fingerprint import ENVIRONMENT
from wanbatch.manifests.dataset.status import read_internal_file, recorded_fingerprint
from wanbatch.manifests.dataset.unit_times import COLUMNS, DEVICE_STAGES, unit_times

TABLE = "device_speeds.json"
OF_THE_5B = "of the 5B model: another one takes other times"
"""A note of the benchmark table that says nothing to those who run a model that it knows."""
FEW_UNITS = 5
PAUSE = 60.0
"""Seconds; a worker that has nothing for longer is not waiting, but its run has ended."""

DATA_COLUMNS = ("id", "width", "height", "guidance", "sources")
TIMING_COLUMNS = ("id", "batch_size", *COLUMNS, "steps_full", "steps_cached", "blocks_full", "blocks_cached")
"""What is read of the two kinds of parts."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What images cost on one kind of device. Work and pixels are those of `workload.Workload`.

    Attributes:
        device: the kind of device.
        denoising: seconds for a unit of denoising work of which all blocks run, empty slots counted as work.
        coding: seconds for a pixel that the autoencoder encodes or decodes.
        image: seconds for each image besides.
        held: how long workers held their device for each second of the model's stages.
        low, high: what the least and the most of a range are, as shares of the middle.
        origin: where this comes from, in words.
        blocks_run: the share of the blocks that the step cache let run.
        step_cache: which that was.
        bytes_of_a_pixel: of image files; None if not known.
        format: of these files.
        images: how many were timed.
        slots: rows denoised together; None: not of one run.
        notes: what is to be known of it, a sentence each.
    """

    device: str
    denoising: float
    coding: float
    image: float
    held: float
    low: float
    high: float
    origin: str
    blocks_run: float = 1.0
    step_cache: str = "none"
    bytes_of_a_pixel: float | None = None
    format: str = "png"
    images: int = 0
    slots: int | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def is_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return not self.device.startswith("cpu")


def rates_of_folder(out: str | Path, model: str, parts: CommittedParts | None = None) -> Rates | None:
    """What the timing records of a folder say; None if it has none.

    Args:
        out: the folder, or its URL; it need not exist.
        model: which model the planned run uses, as its fingerprint names it.
        parts: of the folder, as they were found already; None: they are looked for.

    Raises:
        UserError: Another model made the folder, or it is damaged. MachineryError: It cannot be read.
    """
    fingerprint = recorded_fingerprint(out)
    if fingerprint is None:
        return None
    if fingerprint.get("model") != model:
        raise UserError(
            f"{out}: was made by the model {fingerprint.get('model')}, which says nothing about {model}: name a "
            "folder that this model made"
        )
    parts = parts or CommittedParts.open(out)
    data, timings = parts.table("data", DATA_COLUMNS), parts.table("timings", TIMING_COLUMNS)
    if data is None or timings is None or not len(data) or not len(timings):
        return None
    events = parsed_events(read_internal_file(out, LOG))
    return rates_of_records(data, timings, fingerprint, parts.bytes_of("data"), str(out), events)


def rates_of_records(
    data: pa.Table,
    timings: pa.Table,
    fingerprint: Mapping[str, Any],
    data_bytes: int,
    name: str,
    events: Sequence[Event] = (),
) -> Rates:
    """What timing records say of the device that they are of.

    Args:
        data: of the images.
        timings: of the same images, in any order; others, of rows that are just leaving the folder, do not count.
        fingerprint: of the runs that made them.
        data_bytes: that the data parts take.
        name: the folder that these are from.
        events: of its log.
    """
    rows = {name: index for index, name in enumerate(data["id"].to_pylist())}
    timings = timings.filter(pc.is_in(timings["id"], data["id"]))
    of_image = data.take(pa.array([rows[name] for name in timings["id"].to_pylist()], pa.int64()))
    work, share, pixels = _work_of(of_image, timings)
    unit = np.unique(timings["unit"].to_numpy(), return_inverse=True)[1]
    work = work * _slots_computed(of_image, timings, events)
    seconds = {stage: timings[f"{stage}_seconds"].to_numpy() for stage in DEVICE_STAGES}
    denoising = _ratio(seconds["denoise"].sum(), (work * share).sum())
    coding = _ratio((seconds["encode"] + seconds["decode"]).sum(), pixels.sum())
    image = float(seconds["text"].mean())
    spent = np.sum(list(seconds.values()), axis=0)
    expected = work * share * denoising + pixels * coding + image
    low, high = _range(np.bincount(unit, spent) / np.maximum(np.bincount(unit, expected), 1e-12))
    environment = fingerprint.get(ENVIRONMENT, {})
    own = data["width"].to_numpy().astype(np.float64) * data["height"].to_numpy()
    return Rates(
        device=str(environment.get("device_name") or timings["device"][0].as_py()),
        denoising=denoising,
        coding=coding,
        image=image,
        held=max(1.0, _held_seconds(timings) / max(1e-12, float(spent.sum()))),
        low=low,
        high=high,
        origin=f"{number_of(len(timings), 'images')} of {name}",
        blocks_run=_ratio((work * share).sum(), work.sum()) or 1.0,
        step_cache=str(fingerprint.get("step_cache", "none")),
        bytes_of_a_pixel=_ratio(data_bytes, own.sum()),
        format=str(fingerprint.get("format", "png")),
        images=len(timings),
        slots=int(timings["batch_size"][0].as_py()),
    )


def _work_of(data: pa.Table, timings: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Denoising work, the share of its blocks that ran, and pixels coded, of each image."""
    width, height, guidance = (data[name].to_numpy().astype(np.float64) for name in ("width", "height", "guidance"))
    steps = timings["steps_full"].to_numpy() + timings["steps_cached"].to_numpy()
    ran, left = (timings[name].to_numpy().astype(np.float64) for name in ("blocks_full", "blocks_cached"))
    share = np.divide(ran, ran + left, out=np.ones_like(ran), where=ran + left > 0)
    sources = np.array([len(used or ()) for used in data["sources"].to_pylist()])
    return denoising_work(width * height, steps, guidance), share, width * height * (1 + sources)


def _slots_computed(data: pa.Table, timings: pa.Table, events: Sequence[Event]) -> np.ndarray:
    """How many slots were computed for each evaluation of an image, float64 [images].

    Workers count it and say so in the log. Units of which it does not, those of earlier versions, shared no slots.
    """
    counted = {
        (event["unit"], event["attempt"]): float(event["slot_steps"]) / event["evaluations"]
        for event in events
        if event["event"] == "unit" and event.get("slot_steps") and event.get("evaluations")
    }
    unit = timings["unit"].to_numpy()
    steps = timings["steps_full"].to_numpy() + timings["steps_cached"].to_numpy()
    kinds = [data["width"].to_numpy(), data["height"].to_numpy(), data["guidance"].to_numpy() > 1]
    group = np.unique(np.stack([unit, *kinds]), axis=1, return_inverse=True)[1].reshape(-1)
    supposed = slots_computed(steps, group, unit, int(timings["batch_size"][0].as_py()), ONE_BY_ONE)
    names = zip(unit.tolist(), timings["attempt"].to_pylist(), strict=True)
    return np.array([counted.get(name, one) for name, one in zip(names, supposed.tolist(), strict=True)])


def _held_seconds(timings: pa.Table) -> float:
    """From the begin of each worker's first unit to the end of its last one, less the pauses between runs."""
    held, before = 0.0, None
    for unit in unit_times(timings):
        held += unit.busy
        if before is not None and before.worker == unit.worker and unit.begin - before.end <= PAUSE:
            held += unit.begin - before.end
        before = unit
    return held


def _ratio(above: float, below: float) -> float:
    return float(above) / float(below) if below > 0 else 0.0


def _range(ratios: np.ndarray) -> tuple[float, float]:
    """What the least and the most may be, by how far units were from what is expected of them."""
    least, most = np.percentile(ratios, (10, 90))
    narrow = (0.9, 1.15) if len(ratios) >= FEW_UNITS else (0.75, 1.35)
    return float(min(least, narrow[0])), float(max(most, narrow[1]))


def benchmark_table() -> dict[str, Any]:
    """The committed table of what was measured on GPUs: `device_speeds.json` beside this file."""
    return json.loads(resources.files(__package__ or "").joinpath(TABLE).read_text(encoding="utf-8"))


MODELS = {"5b": "TI2V-5B", "a14b": "A14B", "1.3b": "Wan2.1 T2V-1.3B"}
"""The models of the benchmark table."""


def rates_of_gpu(name: str, precision: str, transformer: Sequence[int] | None = None) -> Rates:
    """What the benchmark table says of a GPU and a model; of the 5B model where it does not know the model.

    Args:
        name: a key of its `gpus`.
        precision: `bf16` or `fp8`.
        transformer: blocks, width and width of the feed-forward layers of the model's transformer.
    """
    found = benchmark_table()["gpus"][name]
    form = found["transformer"] if transformer is None else list(transformer)
    others = (size for size, other in found["others"].items() if other["transformer"] == form)
    model = next(others, "5b")
    of_model = found if model == "5b" else found["others"][model]
    known = of_model["transformer"] == form
    notes = [note for note in found["notes"] if not known or note != OF_THE_5B]
    return Rates(
        device=found["device"],
        denoising=of_model["denoising"][precision],
        coding=of_model["coding"],
        image=of_model["image"],
        held=found["held"],
        low=found["low"],
        high=found["high"],
        origin=f"the benchmarks of {MODELS[model]} with random weights on an NVIDIA H200 "
        f"({', '.join(of_model['results'])})",
        notes=tuple(notes),
    )
