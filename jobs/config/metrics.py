"""The metrics of a run, declared once: the driver and the workers export them, a dashboard shows them. No Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

STAGES = ("load", "text", "encode", "denoise", "decode", "image")
EXPORTED_PREFIX = "ray_"
"""What Ray puts before the names of its users' metrics."""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: as this program calls it.
        kind: `gauge`: how it is now. `counter`: what has added up since its process began.
        meaning: one sentence, with the unit.
        tags: what tells its series from each other.
    """

    name: str
    kind: Literal["gauge", "counter"]
    meaning: str
    tags: tuple[str, ...]

    @property
    def exported(self) -> str:
        """The name that Prometheus sees."""
        return EXPORTED_PREFIX + self.name


MADE = MetricSpec("wanbatch_images_made", "gauge", "Images of the folder that are made or in hand", ("out",))
FAILED = MetricSpec("wanbatch_images_failed", "gauge", "Images of the folder that are quarantined", ("out",))
PENDING = MetricSpec("wanbatch_images_pending", "gauge", "Images that are still to be made: the queue", ("out",))
STAGE_SECONDS = MetricSpec(
    "wanbatch_stage_seconds_total", "counter", "Seconds of images in each stage", ("stage", "host", "worker")
)
MODEL_SECONDS = MetricSpec(
    "wanbatch_model_seconds_total",
    "counter",
    "Seconds in which a worker had images in the model; its rate is the share of time in which the device is busy",
    ("host", "device", "worker"),
)
SLOTS = MetricSpec("wanbatch_slots", "gauge", "Rows that a worker denoises together at most", ("host", "worker"))
SLOTS_IN_USE = MetricSpec("wanbatch_slots_in_use", "gauge", "Slots that have a row now", ("host", "worker"))

METRICS = (MADE, FAILED, PENDING, STAGE_SECONDS, MODEL_SECONDS, SLOTS, SLOTS_IN_USE)
