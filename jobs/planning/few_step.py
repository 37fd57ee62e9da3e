"""Adapters that were made for few steps, and images that use them otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from wanbatch.counting import number_of
from wanbatch.jobs.planning.adapters import NamedAdapter, names_of_each
from wanbatch.jobs.planning.plan import Plan
from wanbatch.pipeline.adapters.few_step import FewStepUse, steps_by_name

MOST_STEPS = 2  # times those that it was made for
SAME_SHIFT = 0.01  # relative


def warnings_of_few_steps(plan: Plan) -> Iterator[str]:
    """A sentence about each adapter for few steps whose images take other settings than it was made for."""
    for adapter in plan.adapters.values():
        made_for = FewStepUse.of(adapter.file.path, adapter.file.metadata)
        if not plan.images.num_rows:
            continue
        if made_for is not None:
            yield from _warning(plan, adapter, made_for)
        elif (steps := steps_by_name(adapter.file.path)) is not None:
            yield from _warning_by_name(plan, adapter, steps)


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
    what, differ = _differing(other, used)
    if not what:
        return
    flags = f"--steps {made_for.steps} --sampler {made_for.sampler} --guidance {made_for.guidance:g}"
    if "another schedule" in what or "another shift" in what:
        flags += f" --schedule {made_for.schedule} --shift {made_for.shift:g}"
    by_preset = ", or --preset fast, which takes them from its file" if adapter.merged else ""
    yield (
        f"adapter {adapter.name!r} was made for {number_of(made_for.steps, 'steps')} of {made_for.sampler} with "
        f"guidance {made_for.guidance:g}, and {differ} of {_users(used)} "
        f"{'has' if differ == 1 else 'have'} {' and '.join(what)}: give {flags}, or the same in their rows{by_preset}"
    )


def _warning_by_name(plan: Plan, adapter: NamedAdapter, steps: int) -> Iterator[str]:
    """Of a file that does not say what it was made for, where its name does."""
    images, used = plan.images, _using(plan, adapter)
    other = {
        "guidance": images["guidance"].to_numpy() > 1,
        "more steps": images["steps"].to_numpy() > MOST_STEPS * steps,
    }
    what, differ = _differing(other, used)
    if not what:
        return
    yield (
        f"adapter {adapter.name!r} seems to be made for {number_of(steps, 'steps')} without guidance, by the "
        f"name of its file {Path(adapter.file.path).name}, which does not say it inside, and {differ} of "
        f"{_users(used)} {'has' if differ == 1 else 'have'} "
        f"{' and '.join(what)}: if it is, give --steps {steps} --guidance 1, or the same in their rows; if it is "
        f"not, this does not matter"
    )


def _users(used: np.ndarray) -> str:
    """The images that use an adapter, in words. used: of each image whether it does, bool."""
    return number_of(int(used.sum()), "images", "that uses it", "that use it")


def _differing(other: Mapping[str, np.ndarray], used: np.ndarray) -> tuple[list[str], int]:
    """What is other than it should be, and in how many images.

    Args:
        other: What it is -> which images have it; bool.
        used: Which images count; bool.
    """
    marked = {name: each & used for name, each in other.items()}
    what = [name for name, each in marked.items() if each.any()]
    return what, int(np.any(list(marked.values()), axis=0).sum())


def _not(images: pa.Table, column: str, wanted: str) -> np.ndarray:
    """Which images have another value; bool."""
    return np.array([each != wanted for each in images[column].to_pylist()])


def _using(plan: Plan, adapter: NamedAdapter) -> np.ndarray:
    """Which images get an adapter; bool."""
    if adapter.merged:
        return np.ones(plan.images.num_rows, dtype=bool)
    return np.array([adapter.name in {name for _, name in names} for names in names_of_each(plan.images)])
