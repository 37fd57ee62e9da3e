"""The scheduler that a model folder comes with, as a sampler, a schedule and a shift.

diffusers' schedulers have many fields. Each field of those that are known here is in one table: what diffusers takes
where a folder leaves it out, the values that our samplers and schedules reproduce, and which of the two it decides.
Fields that are not in the table, and other values, would make other pictures than diffusers does, so they are named
and a run is refused, unless it says itself what is to be used instead.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanbatch.errors import UserError
from wanbatch.pipeline.loading.config_files import read_json
from wanbatch.pipeline.sampling.schedules import PLACES

SHIFTS = (0.01, 100.0)  # what a manifest may ask for, too
BOTH = ("sampler", "schedule")


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a scheduler's configuration.

    Attributes:
        default: What diffusers takes where the field is missing.
        works: The values that are reproduced; None: the field plays no part with the other values that are.
        decides: Which of `sampler` and `schedule` it decides.
    """

    default: Any
    works: tuple[Any, ...] | None
    decides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of schedulers.

    Attributes:
        sampler: The sampler that it is, before its fields are read.
        schedule: The schedule that it has, likewise.
        shift: Name of the field with the shift.
        fields: Those that decide something, by name; and those that do not.
    """

    sampler: str
    schedule: str
    shift: str
    fields: Mapping[str, Field]


@dataclass(frozen=True, slots=True)
class Unreproduced:
    """Something of a scheduler that would make other pictures than our nearest sampler and schedule.

    Attributes:
        decides: Which of `sampler` and `schedule` would have to be given instead.
        message: What it is, where, and what to do.
    """

    decides: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Scheduler:
    """What a model's scheduler stands for.

    Attributes:
        sampler: Name of the solver.
        schedule: Name of the schedule.
        shift: Of the schedule.
        unreproduced: What of it is not reproduced by these.
    """

    sampler: str
    schedule: str
    shift: float
    unreproduced: tuple[Unreproduced, ...]

    def unreproduced_but(self, given: Collection[str]) -> tuple[Unreproduced, ...]:
        """What is not reproduced where some of `sampler` and `schedule` are given instead."""
        return tuple(one for one in self.unreproduced if not set(one.decides) <= set(given))


def _sampler_field(default: Any, *works: Any) -> Field:
    return Field(default, works, ("sampler",))


def _schedule_field(default: Any, *works: Any) -> Field:
    return Field(default, works, ("schedule",))


def _without_part(*names: str) -> dict[str, Field]:
    return {name: Field(None, None, ()) for name in names}


_MULTISTEP = {
    "num_train_timesteps": _schedule_field(1000, 1000),
    "prediction_type": Field("epsilon", ("flow_prediction",), BOTH),
    "use_flow_sigmas": Field(False, (True,), BOTH),
    "use_dynamic_shifting": _schedule_field(False, False),
    "thresholding": _sampler_field(False, False),
    # With these, levels come from the betas of another kind of model, or are not levels at all (docs/samplers.md).
    **{f"use_{name}_sigmas": _schedule_field(False, False) for name in PLACES},
    **_without_part("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
    **_without_part("timestep_spacing", "steps_offset", "time_shift_type"),
    **_without_part("dynamic_thresholding_ratio", "sample_max_value", "flow_shift"),
}
_FLOW_MATCH = {
    "num_train_timesteps": _schedule_field(1000, 1000),
    "use_dynamic_shifting": _schedule_field(False, False),
    "invert_sigmas": _schedule_field(False, False),
    "shift_terminal": _schedule_field(None, None, 0),
    **{f"use_{name}_sigmas": _schedule_field(False, False, True) for name in PLACES},
    **_without_part("shift", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"),
}
# diffusers turns the names of other solvers' types into its own, so that one scheduler's fields can be another's.
KINDS = {
    "UniPCMultistepScheduler": Kind(
        "unipc",
        "linear",
        "flow_shift",
        {
            **_MULTISTEP,
            "solver_order": _sampler_field(2, 1, 2, 3),
            "solver_type": _sampler_field("bh2", "bh2", "midpoint", "heun", "logrho"),
            "predict_x0": _sampler_field(True, True),
            "lower_order_final": _sampler_field(True, True),
            "disable_corrector": _sampler_field([], []),
            "solver_p": _sampler_field(None, None),
            "final_sigmas_type": _schedule_field("zero", "zero"),
            "shift_terminal": _schedule_field(None, None, 0),
            **_without_part("sigma_min", "sigma_max"),
        },
    ),
    "DPMSolverMultistepScheduler": Kind(
        "dpmpp_2m",
        "dpmpp_flow",
        "flow_shift",
        {
            **_MULTISTEP,
            "solver_order": _sampler_field(2, 2),
            "solver_type": _sampler_field("midpoint", "midpoint", "logrho", "bh1", "bh2"),
            "algorithm_type": _sampler_field("dpmsolver++", "dpmsolver++", "deis"),
            "final_sigmas_type": _schedule_field("zero", "zero"),
            "use_lu_lambdas": _schedule_field(False, False),
            # A last step to 0 is of first order in any case.
            **_without_part("lower_order_final", "euler_at_final", "lambda_min_clipped", "variance_type"),
        },
    ),
    "DEISMultistepScheduler": Kind(
        "deis",
        "deis_flow",
        "flow_shift",
        {
            **_MULTISTEP,
            "solver_order": _sampler_field(2, 2),
            "solver_type": _sampler_field("logrho", "logrho", "midpoint", "heun", "bh1", "bh2"),
            "algorithm_type": _sampler_field("deis", "deis", "dpmsolver", "dpmsolver++"),
            **_without_part("lower_order_final"),  # the last step changes nothing, whatever its order
        },
    ),
    "FlowMatchEulerDiscreteScheduler": Kind(
        "euler",
        "flow_match",
        "shift",
        {**_FLOW_MATCH, "stochastic_sampling": _sampler_field(False, False, True)},
    ),
    "FlowMatchHeunDiscreteScheduler": Kind(
        "heun",
        "flow_match",
        "shift",
        {"num_train_timesteps": _FLOW_MATCH["num_train_timesteps"], **_without_part("shift")},
    ),
    "FlowMatchLCMScheduler": Kind(
        "lcm",
        "flow_match",
        "shift",
        {**_FLOW_MATCH, "scale_factors": _sampler_field(None, None, []), **_without_part("upscale_mode")},
    ),
}
"""diffusers' schedulers for flow matching, by their classes."""

_ANYWHERE = {name for kind in KINDS.values() for name in kind.fields}
"""Fields of any of them. diffusers ignores those of another class, which `from_config` leaves in a file."""


def read_scheduler(folder: Path) -> Scheduler:
    """Read what the scheduler of a model folder stands for.

    Raises:
        UserError: If there is none, its class is not known or its shift is not a shift.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    config = read_json(path, "the model has no scheduler")
    name = config.get("_class_name")
    if name not in KINDS:
        raise UserError(f"{path}: {name} is not known; known: {', '.join(KINDS)}")
    kind = KINDS[name]
    sampler, schedule = _names(kind, config)
    shift = config.get(kind.shift, 1.0)
    if isinstance(shift, bool) or not isinstance(shift, int | float) or not SHIFTS[0] <= shift <= SHIFTS[1]:
        raise UserError(f"{path}: {kind.shift} is {shift!r}: must be a number from {SHIFTS[0]} to {SHIFTS[1]:g}")
    return Scheduler(sampler, schedule, float(shift), tuple(_unreproduced(path, kind, config, (sampler, schedule))))


def _names(kind: Kind, config: Mapping[str, Any]) -> tuple[str, str]:
    """The sampler and the schedule, or the nearest ones."""
    sampler, schedule = kind.sampler, kind.schedule
    if sampler == "unipc":
        sampler = {1: "unipc1", 3: "unipc3"}.get(_order(config), "unipc")
    if config.get("stochastic_sampling") and "stochastic_sampling" in kind.fields:
        sampler = "lcm"  # the same step
    placed = [place for place in PLACES if config.get(f"use_{place}_sigmas")]
    if placed and kind.schedule == "flow_match" and f"use_{placed[0]}_sigmas" in kind.fields:
        schedule = f"flow_match_{placed[0]}"
    elif placed and kind.schedule != "flow_match":
        schedule = placed[0]
    return sampler, schedule


def _order(config: Mapping[str, Any]) -> int:
    order = config.get("solver_order", 2)
    return int(order) if isinstance(order, int | float) and math.isfinite(order) else 0


def _unreproduced(
    path: Path, kind: Kind, config: Mapping[str, Any], nearest: tuple[str, str]
) -> Iterator[Unreproduced]:
    """What of a scheduler its sampler and schedule do not reproduce."""
    for name, field in kind.fields.items():
        value = config.get(name, field.default)
        if field.works is not None and value not in field.works:
            yield Unreproduced(field.decides, _refusal(path, f"{name} is {value!r}", field.decides, nearest))
    for name in config:
        if not name.startswith("_") and name not in _ANYWHERE:
            yield Unreproduced(BOTH, _refusal(path, f"{name} is not a known field", BOTH, nearest))
    placed = [f"use_{place}_sigmas" for place in PLACES if config.get(f"use_{place}_sigmas")]
    if len(placed) > 1:
        what = f"{placed[0]} and {placed[1]} are both true"
        yield Unreproduced(("schedule",), _refusal(path, what, ("schedule",), nearest))


def _refusal(path: Path, what: str, decides: Sequence[str], nearest: tuple[str, str]) -> str:
    """That something is not reproduced, and the flags with which the nearest that is known is used."""
    flags = " ".join(f"--{name} {value}" for name, value in zip(BOTH, nearest, strict=True) if name in decides)
    return (
        f"{path}: {what}, which no sampler and schedule of wanbatch reproduces: give {flags}, the nearest, to have "
        "other pictures than diffusers makes with this scheduler"
    )
