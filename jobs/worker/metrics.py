"""Exporting the metrics of `jobs/config/metrics.py` by Ray; where this process has no Ray, nothing happens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from wanbatch.jobs.config.metrics import METRICS, MODEL_SECONDS, SLOTS, SLOTS_IN_USE, STAGE_SECONDS, MetricSpec

_log = logging.getLogger(__name__)

Record = Callable[[MetricSpec, float, Mapping[str, str]], None]
"""Sets a gauge, or adds to a counter, of the series with some tags."""


class RayRecorder:
    """Records values with Ray, which sends them every few seconds, in a thread of its own."""

    def __init__(self) -> None:
        """Make nothing yet: a metric is made when it is first recorded."""
        self._made: dict[str, Any] = {}
        self._failed = False

    def __call__(self, spec: MetricSpec, value: float, tags: Mapping[str, str]) -> None:
        """Record one value. If Ray does not take it, that is said once and nothing is recorded any more."""
        import ray

        if self._failed or not ray.is_initialized():
            return
        try:
            self._send(spec, value, tags)
        except Exception as error:  # noqa: BLE001  no picture is given up for a metric
            self._failed = True
            _log.warning("metrics are not exported: %s: %s", type(error).__name__, error)

    def _send(self, spec: MetricSpec, value: float, tags: Mapping[str, str]) -> None:
        metric = self._made.get(spec.name)
        if metric is None:
            metric = self._made[spec.name] = _metric(spec)
        if spec.kind == "gauge":
            metric.set(value, tags=dict(tags))
        elif value > 0:
            metric.inc(value, tags=dict(tags))


class WorkerMetrics:
    """The metrics of one worker; told once a unit, and at each exchange with the driver."""

    def __init__(self, host: str, device: str, worker: str, record: Record | None = None):
        """Export for one worker.

        Args:
            host: name of its machine.
            device: name of its device.
            worker: its name in timings.
            record: instead of Ray.
        """
        self._tags = {"host": host, "worker": worker}
        self._device = device
        self._record = record or RayRecorder()

    def unit_finished(self, stage_seconds: Mapping[str, float], model_seconds: float) -> None:
        """Add the seconds of a unit. stage_seconds: by `config.metrics.STAGES`."""
        for stage, seconds in stage_seconds.items():
            self._record(STAGE_SECONDS, seconds, {**self._tags, "stage": stage})
        self._record(MODEL_SECONDS, model_seconds, {**self._tags, "device": self._device})

    def slots(self, in_use: int, most: int) -> None:
        """Say how many slots have a row, of how many."""
        self._record(SLOTS_IN_USE, in_use, self._tags)
        self._record(SLOTS, most, self._tags)


def _metric(spec: MetricSpec) -> Any:
    from ray.util.metrics import Counter, Gauge

    assert spec in METRICS
    kind = Gauge if spec.kind == "gauge" else Counter
    return kind(spec.name, description=spec.meaning, tag_keys=spec.tags)
