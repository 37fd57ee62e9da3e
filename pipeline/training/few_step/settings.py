"""Every number of a distillation, in one place and one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from wanbatch.errors import UserError
from wanbatch.pipeline.training.float8_base import BASE_PRECISIONS, BF16

MAY_BE_ZERO = (
    "seed", "consistency_share", "consistency_again", "even_share", "source_share", "fake_warm_up", "average",
    "guidance_strength", "guidance_2",
)  # fmt: skip

OF_LARGE_MODELS: Mapping[str, Any] = {
    "batch": 8, "prompts": 2000, "teacher_latents": 1000, "consistency_rate": 1e-4, "student_rate": 5e-5,
    "fake_rate": 1e-4,
}  # fmt: skip
"""Where `FewStepSettings` has what suits the small model, which is some 600 times smaller than TI2V-5B."""


@dataclass(frozen=True, slots=True)
class FewStepSettings:
    """How a distillation is done.

    Attributes:
        seed: Of everything that is random.
        guidance: The guidance scale of the teacher that is folded in.
        guidance_2: The same below the boundary of a model of two transformers; 0: as `guidance`.
        shift: Of the noise levels, of the schedule that the student is for.
        rank: Of the student.
        fake_rank: Of the fake score, which is thrown away.
        batch: Pictures in a step.
        consistency_share: Part of the training that is consistency distillation, the start.
        consistency_steps: Into how many steps the noise levels are cut there.
        consistency_rate: The highest learning rate there.
        consistency_again: Part of the student's later steps that are consistency distillation again; this keeps what
            noise leads to what picture.
        step_counts: Steps of the schedules that are rolled out, each as likely.
        even_share: Part of the rollouts whose levels are those of the schedule that the student is for; the other
            levels are random.
        source_share: Part of the rollouts that begin at a creativity below 1, half of them from one latent and half
            from a blend of two.
        lowest_creativity: Of those.
        fake_steps: Steps of the fake score for each one of the student.
        fake_warm_up: Steps of the fake score before the student's first.
        student_rate: The highest learning rate of the student by distribution matching.
        fake_rate: That of the fake score.
        guidance_strength: What the guidance term is multiplied by; 1 as it is derived.
        average: Decay of the student's average.
        teacher_steps: Steps of Euler by which the teacher makes latents.
        teacher_latents: How many it makes.
        prompts: How many prompts there are to draw from.
        main_steps: The number of steps that the adapter's header names.
        checkpointing: Compute blocks again in the backward pass instead of keeping them: less memory, a third slower.
        base_precision: Of the frozen layers, one of `BASE_PRECISIONS`; bf16 is fp32 for small models and on a CPU.
    """

    seed: int = 31
    guidance: float = 2.0
    guidance_2: float = 0.0
    shift: float = 3.0
    rank: int = 32
    fake_rank: int = 64
    batch: int = 256
    consistency_share: float = 0.3
    consistency_steps: int = 48
    consistency_rate: float = 1e-3
    consistency_again: float = 0.1
    step_counts: tuple[int, ...] = (1, 2, 3, 4, 4, 6, 8)
    even_share: float = 0.5
    source_share: float = 0.4
    lowest_creativity: float = 0.3
    fake_steps: int = 2
    fake_warm_up: int = 200
    student_rate: float = 3e-4
    fake_rate: float = 5e-4
    guidance_strength: float = 1.0
    average: float = 0.998
    teacher_steps: int = 24
    teacher_latents: int = 20_000
    prompts: int = 100_000
    main_steps: int = 4
    checkpointing: bool = False
    base_precision: str = BF16

    def save(self, path: Path) -> None:
        """Write the settings as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path, **changed: object) -> FewStepSettings:
        """Read settings that `save` wrote, or the default ones if there are none.

        Args:
            path: Of the file.
            changed: Settings that are others.

        Raises:
            UserError: See `of`.
        """
        given = json.loads(path.read_text()) if path.exists() else {}
        return cls.of(given | changed)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> FewStepSettings:
        """Settings of plain values; those that are not given are the default ones.

        Raises:
            UserError: For a setting that there is not, or a value that is of another kind or not above 0.
        """
        defaults = {field.name: field.default for field in fields(cls)}
        unknown = sorted(set(given) - set(defaults))
        if unknown:
            raise UserError(f"unknown setting {unknown[0]!r}; there are {', '.join(sorted(defaults))}")
        return cls(**{name: _checked(name, value, defaults[name]) for name, value in given.items()})


def _checked(name: str, value: Any, default: Any) -> Any:
    """A value of the kind of a setting's default."""
    if isinstance(default, tuple):
        if isinstance(value, list | tuple) and value and all(type(one) is int and one > 0 for one in value):
            return tuple(value)
        raise UserError(f"setting {name} is {value!r}: must be a list of numbers of steps, like {list(default)}")
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        raise UserError(f"setting {name} is {value!r}: must be true or false")
    if isinstance(default, str):
        if value in BASE_PRECISIONS:
            return value
        raise UserError(f"setting {name} is {value!r}: must be {' or '.join(BASE_PRECISIONS)}")
    kinds = (int,) if isinstance(default, int) else (int, float)
    least = 0 if name in MAY_BE_ZERO else None
    if type(value) in kinds and (value > 0 if least is None else value >= least):
        return type(default)(value)
    kind = "a whole number" if isinstance(default, int) else "a number"
    raise UserError(f"setting {name} is {value!r}: must be {kind} {'above 0' if least is None else 'of at least 0'}")
