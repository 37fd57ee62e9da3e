"""What a run is by the number of rows that are denoised together: its engines, and its fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from wanbatch.jobs.config.hardware import ExecutionConfig, Hardware
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.engine_choice import ChosenEngines, choose_engines
from wanbatch.jobs.driver.fingerprint import fingerprint_of
from wanbatch.jobs.planning.plan import Plan
from wanbatch.pipeline.loading.registry import ModelInfo


def of_slots(
    settings: Settings, plan: Plan, model: ModelInfo, execution: ExecutionConfig, hardware: Hardware
) -> tuple[Callable[[int], ChosenEngines], Callable[[int], dict[str, Any]]]:
    """What says which engines a run has, and what its fingerprint is, with so many rows denoised together."""

    @cache  # their files are read whole
    def engines(slots: int) -> ChosenEngines:
        return choose_engines(settings, model, execution, slots, hardware, plan.adapters.values())

    def fingerprint(slots: int) -> dict[str, Any]:
        used = engines(slots).digests
        return fingerprint_of(settings, model, execution, slots, hardware, used, plan.adapters.values())

    return engines, fingerprint
