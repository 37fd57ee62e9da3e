"""What an adapter for few steps was made for, as the header of its file says it. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wanbatch.errors import UserError

KIND, FEW_STEP = "wanbatch.kind", "few-step"
USUAL_STEPS = 4
_STEPS = re.compile(r"(?<!\d)([1-8])[ _-]?steps?(?![a-z]|[ _-]?\d)", re.IGNORECASE)
_DISTILLED = re.compile(
    r"lightning|lightx2v|causvid|accvid|fastwan|turbo|distill|(?<![a-z])(dmd|lcm)(?![a-z])", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class FewStepUse:
    """How pictures are made with an adapter for few steps.

    Attributes:
        steps: Of the sampler.
        sampler: Its name.
        schedule: Of the noise levels.
        shift: Of the noise levels.
        guidance: The scale; 1 is none.
    """

    steps: int
    sampler: str
    schedule: str
    shift: float
    guidance: float

    @classmethod
    def of(cls, path: str | Path, said: Mapping[str, str]) -> FewStepUse | None:
        """Read it from a file's header; None if the adapter is of another kind.

        Args:
            path: Of the file, for the message.
            said: Strings of its header.

        Raises:
            UserError: If it is not whole, or a number of it is none.
        """
        if said.get(KIND) != FEW_STEP:
            return None
        try:
            return cls(
                steps=int(said["wanbatch.steps"]),
                sampler=said["wanbatch.sampler"],
                schedule=said["wanbatch.schedule"],
                shift=float(said["wanbatch.shift"]),
                guidance=float(said["wanbatch.guidance"]),
            )
        except (KeyError, ValueError) as error:
            raise UserError(
                f"adapter {path}: its header does not say rightly for what steps, sampler, schedule, shift and "
                f"guidance it was made ({error!r}): fetch it again"
            ) from error

    def settings(self) -> dict[str, Any]:
        """The settings of a run that uses it, by their names."""
        return asdict(self)

    def header(self) -> dict[str, str]:
        """What `of` reads again."""
        said = {
            name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in asdict(self).items()
        }
        return {KIND: FEW_STEP} | {f"wanbatch.{name}": text for name, text in said.items()}


def steps_by_name(path: str | Path) -> int | None:
    """How many steps a file of another trainer seems to be for, by what such files are called; None: it does not.

    Args:
        path: Of the file.

    Returns:
        The number that its name says, else 4.
    """
    name = Path(path).stem
    if (said := _STEPS.search(name)) is not None:
        return int(said[1])
    return USUAL_STEPS if _DISTILLED.search(name) else None
