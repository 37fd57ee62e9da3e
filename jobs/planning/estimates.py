"""What a run will take: images, evaluations, hours of a device, bytes on the disk, each with a range. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from wanbatch.jobs.config.settings import AUTO, Settings
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.rates import Rates
from wanbatch.jobs.planning.run_units import units_of_run
from wanbatch.jobs.planning.slot_turns import MAX_IN_MODEL, dealt, slots_computed
from wanbatch.jobs.planning.unit_sizes import size_classes
from wanbatch.jobs.planning.workload import Workload, workload_of

BYTES_OF_A_PIXEL = {"png": (0.3, 1.5, 2.4), "webp": (0.2, 1.1, 1.8), "jpeg": (0.15, 0.45, 0.9)}
"""Least, usual and most, without records of an earlier run: flat drawings, photographs, fine noise."""

USUAL_SLOTS = 8
"""Rows denoised together on a GPU, where a run is to measure it."""

RECORDED = (0.7, 1.4)
"""The same as shares of what an earlier run's images had."""


@dataclass(frozen=True, slots=True)
class Range:
    """An estimate."""

    least: float
    middle: float
    most: float

    def as_json(self) -> dict[str, float]:
        """Its three values."""
        return {name: float(f"{getattr(self, name):.4g}") for name in ("least", "middle", "most")}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What making the images that are left will take.

    Attributes:
        images: how many are left.
        evaluations: of the model, guidance aside.
        seconds: that devices are held, all workers together, loading the model aside; None if nothing is known.
        bytes: of `data/`.
        rates: what the seconds are computed with; None if nothing is known.
        notes: what is to be known of it, a sentence each.
    """

    images: int
    evaluations: int
    seconds: Range | None
    bytes: Range
    rates: Rates | None
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Its values, as JSON has them."""
        found: dict[str, Any] = {
            "images": self.images,
            "evaluations": self.evaluations,
            "bytes": self.bytes.as_json(),
        }
        if self.seconds is not None and self.rates is not None:
            found["device_seconds"] = self.seconds.as_json()
            found["device"] = self.rates.device
            found["from"] = self.rates.origin
        return {**found, "notes": list(self.notes)}


def estimate(
    plan: Plan,
    rates: Rates | None,
    settings: Settings,
    done: Collection[str] = (),
    in_model: int = MAX_IN_MODEL,
) -> Estimate:
    """Estimate what a plan takes.

    Args:
        plan: what is made, with the sizes of its images.
        rates: what images cost; None: not known.
        settings: of the run, with the preset applied.
        done: ids that are made already, or have failed.
        in_model: units that a worker has open at a time (`slot_turns.ONE_BY_ONE`: as versions until 0.1.0 had).
    """
    format = settings.format
    left = np.array([name not in done for name in plan.ids()], dtype=bool)
    images = plan.images
    pixels = (images["width"].to_numpy().astype(np.float64) * images["height"].to_numpy())[left].sum()
    evaluations = int(images["evaluations"].to_numpy()[left].sum(dtype=np.int64))
    seconds, notes = None, list(rates.notes if rates else ())
    if rates is not None:
        work = workload_of(plan)
        share, said = _blocks_run(rates, settings.step_cache)
        notes += said
        denoising = work.denoising * _slots_computed(plan, work, rates, settings, done, in_model)
        busy = denoising[left].sum() * share * rates.denoising + work.coding[left].sum() * rates.coding
        held = float(busy + left.sum() * rates.image) * rates.held
        seconds = Range(held * rates.low, held, held * rates.high)
    return Estimate(int(left.sum()), evaluations, seconds, _bytes(float(pixels), rates, format), rates, tuple(notes))


def supposed(settings: Settings, rates: Rates | None) -> tuple[int, int]:
    """Workers and slots that a run will have, as far as its settings and those of earlier runs tell."""
    slots = ((rates.slots if rates else None) or USUAL_SLOTS) if settings.slots == AUTO else int(settings.slots)
    return settings.workers if isinstance(settings.workers, int) else 1, slots


def _slots_computed(
    plan: Plan, work: Workload, rates: Rates, settings: Settings, done: Collection[str], in_model: int
) -> np.ndarray:
    """How many slots are computed for each evaluation of an image, with the units that the run will cut."""
    workers, slots = supposed(settings, rates)
    units = units_of_run(plan, done, workers, slots, settings.unit_rows)
    factor = np.ones(len(plan))
    if units:
        images, sizes = np.concatenate(units), [len(unit) for unit in units]
        workers_of = dealt((work.denoising[unit].sum() for unit in units), workers)
        first = {workers_of.index(worker) for worker in set(workers_of)}
        kinds = np.stack([np.repeat(workers_of, sizes), size_classes(plan.images, images)])
        group = np.unique(kinds, axis=1, return_inverse=True)[1]
        evaluations = plan.images["evaluations"].to_numpy()[images]
        number = np.repeat(np.arange(len(units)), sizes)
        factor[images] = slots_computed(evaluations, group.reshape(-1), number, slots, in_model, first)
    return factor


def _blocks_run(rates: Rates, step_cache: str) -> tuple[float, list[str]]:
    """The share of the blocks that will run under the planned step cache."""
    if step_cache == rates.step_cache:
        return rates.blocks_run, []
    if step_cache == "none":
        return 1.0, []
    return 1.0, [f"what the step cache {step_cache} saves is not known before and not taken off"]


def _bytes(pixels: float, rates: Rates | None, format: str) -> Range:
    if rates is not None and rates.bytes_of_a_pixel and rates.format == format:
        middle = pixels * rates.bytes_of_a_pixel
        return Range(middle * RECORDED[0], middle, middle * RECORDED[1])
    return Range(*(pixels * each for each in BYTES_OF_A_PIXEL[format]))
