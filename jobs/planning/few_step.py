"""Adapters that were made for few steps, and images that use them otherwise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from wanbatch.jobs.planning.adapters import NamedAdapter, names_of_each
from wanbatch.jobs.planning.plan import Plan
from wanbatch.pipeline.adapters.few_step import FewStepUse

MOST_STEPS = 2  # times those that it was made for
SAME_SHIFT = 0.01  # relative


def warnings_of_few_steps(plan: Plan) -> Iterator[str]:
    """A sentence about each adapter for few steps whose images take other settings than it was made for."""
    for adapter in plan.adapters.values():
        made_for = FewStepUse.of(adapter.file.path, adapter.file.metadata)
        if made_for is not None and plan.images.num_rows:
            yield from _warning(plan, adapter, made_for)


def _warning(plan: Plan, adapter: NamedAdapter, made_for: FewStepUse) -> Iterator[str]:
    images = plan.images
    used = _using(plan, adapter)
    other = {
        "guidance": images["guidance"].to_numpy() > max(1.0, made_for.guidance),
        "another sampler": _not(images, "sampler", made_for.sampler),
        "more steps": images["steps"].to_numpy() > MOST_STEPS * made_for.steps,
        "another schedule": _not(images, "schedule", made_for.schedule),
        "another shift": np.abs(images["shift"].to_numpy() - made_for.shift) > SAME_SHIFT * made_for.shift,
    }
    differ = np.any([marked & used for marked in other.values()], axis=0)
    if not differ.any():
        return
    what = [name for name, marked in other.items() if (marked & used).any()]
    flags = f"--steps {made_for.steps} --sampler {made_for.sampler} --guidance {made_for.guidance:g}"
    if "another schedule" in what or "another shift" in what:
        flags += f" --schedule {made_for.schedule} --shift {made_for.shift:g}"
    by_preset = ", or --preset fast, which takes them from its file" if adapter.merged else ""
    yield (
        f"adapter {adapter.name!r} was made for {made_for.steps} steps of {made_for.sampler} with guidance "
        f"{made_for.guidance:g}, and {int(differ.sum())} of {int(used.sum())} images that use it have "
        f"{' and '.join(what)}: give {flags}, or the same in their rows{by_preset}"
    )


def _not(images: pa.Table, column: str, wanted: str) -> np.ndarray:
    """Which images have another value; bool."""
    return np.array([each != wanted for each in images[column].to_pylist()])


def _using(plan: Plan, adapter: NamedAdapter) -> np.ndarray:
    """Which images get an adapter; bool."""
    if adapter.merged:
        return np.ones(plan.images.num_rows, dtype=bool)
    return np.array([adapter.name in {name for _, name in names} for names in names_of_each(plan.images)])
