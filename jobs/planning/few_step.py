"""Adapters that were made for few steps, and images that use them otherwise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wanbatch.jobs.planning.adapters import NamedAdapter, names_of_each
from wanbatch.jobs.planning.plan import Plan

KIND, FEW_STEP = "wanbatch.kind", "few-step"
MOST_STEPS = 2  # times those that it was made for


def warnings_of_few_steps(plan: Plan) -> Iterator[str]:
    """A sentence about each adapter for few steps whose images take other settings than it was made for."""
    for adapter in plan.adapters.values():
        if adapter.file.metadata.get(KIND) == FEW_STEP and plan.images.num_rows:
            yield from _warning(plan, adapter)


def _warning(plan: Plan, adapter: NamedAdapter) -> Iterator[str]:
    said = adapter.file.metadata
    steps, guidance = int(said.get("wanbatch.steps", 4)), float(said.get("wanbatch.guidance", 1))
    sampler = said.get("wanbatch.sampler", "euler")
    images = plan.images
    used = _using(plan, adapter)
    other = {
        "guidance": images["guidance"].to_numpy() > max(1.0, guidance),
        "another sampler": np.array([each != sampler for each in images["sampler"].to_pylist()]),
        "more steps": images["steps"].to_numpy() > MOST_STEPS * steps,
    }
    differ = np.any([marked & used for marked in other.values()], axis=0)
    if not differ.any():
        return
    what = " and ".join(name for name, marked in other.items() if (marked & used).any())
    yield (
        f"adapter {adapter.name!r} was made for {steps} steps of {sampler} with guidance {guidance:g}, and "
        f"{int(differ.sum())} of {int(used.sum())} images that use it have {what}: give --steps {steps} "
        f"--sampler {sampler} --guidance {guidance:g}, or the same in their rows"
    )


def _using(plan: Plan, adapter: NamedAdapter) -> np.ndarray:
    """Which images get an adapter; bool."""
    if adapter.merged:
        return np.ones(plan.images.num_rows, dtype=bool)
    return np.array([adapter.name in {name for _, name in names} for names in names_of_each(plan.images)])
