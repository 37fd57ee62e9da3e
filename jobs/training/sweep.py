"""A sweep: the same training with other settings, and which of these trainings is the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any

from wanbatch.errors import UserError
from wanbatch.pipeline.training.lora.settings import LoraSettings

OTHER_NAMES = {"learning_rate": "rate", "lr": "rate"}
NOT_COMPARABLE = ("seed", "held_out")
"""Settings that decide which pictures are held out, on which trials are compared."""

OF_THE_FOLDER = ("save_every", "sample_every", "sample_steps", "checkpointing", "base_precision", "expert")
"""Settings that change nothing of what is learned, or how its files are called."""

GAIN, GAIN_LESS_DAMAGE = "the highest gain", "the highest gain less damage"


@dataclass(frozen=True, slots=True)
class Trial:
    """One training of a sweep.

    Attributes:
        values: Its settings that differ from those of others, by their names.
        measures: What was measured in its end, by the names of `Measures`; None: it did not come to its end.
        failed: Why it did not; None: it did, or has not ended.
        seconds: Of the call of the command that brought it to its end.
    """

    values: Mapping[str, Any]
    measures: Mapping[str, Any] | None = field(default=None)
    failed: str | None = None
    seconds: float | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        return "_".join(f"{name}-{said(value)}" for name, value in self.values.items())

    @property
    def words(self) -> str:
        """As tables and messages name it."""
        return " ".join(f"{name}={said(value)}" for name, value in self.values.items())

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `sweep.json`."""
        found = {"name": self.name, "settings": dict(self.values)}
        for key in ("measures", "failed", "seconds"):
            if (value := getattr(self, key)) is not None:
                found[key] = dict(value) if key == "measures" else value
        return found


def said(value: Any) -> str:
    """A setting's value as a word."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def named_lists(texts: Sequence[str]) -> dict[str, list[str]]:
    """The settings of a sweep, and their values as they were written.

    Args:
        texts: Such as `rank=8,16 rate=1e-4,3e-4`.

    Raises:
        UserError: For a text of another form, or a setting that there is not or that cannot be swept.
    """
    known = [each.name for each in fields(LoraSettings) if each.name not in (*NOT_COMPARABLE, *OF_THE_FOLDER)]
    found: dict[str, list[str]] = {}
    for text in (word for each in texts for word in each.split()):
        name, equals, values = text.partition("=")
        name = OTHER_NAMES.get(name, name.replace("-", "_"))
        if not equals or not all(values.split(",")):
            raise UserError(f"--sweep {text!r}: must be NAME=VALUE,VALUE, like rank=8,16,32")
        if name in NOT_COMPARABLE:
            raise UserError(
                f"--sweep {name}: decides which pictures are held out, so trials could not be compared: drop it"
            )
        if name not in known:
            raise UserError(f"--sweep {name}: there is no such setting to sweep; there are {', '.join(known)}")
        if name in found:
            raise UserError(f"--sweep: has {name} twice: give all its values in one list")
        found[name] = values.split(",")
    return found


def trials_of(values: Mapping[str, Sequence[Any]]) -> list[Trial]:
    """Every combination of the values, each once, in their order.

    Args:
        values: By the names of settings.
    """
    found = [Trial(dict(zip(values, chosen, strict=True))) for chosen in product(*values.values())]
    return list({trial.name: trial for trial in found}.values())


def rule(trigger: str | None) -> str:
    """By what the best trial is chosen, in words.

    Args:
        trigger: The word that calls for the adapter; without one it is meant to change all pictures.
    """
    return GAIN if trigger is None else GAIN_LESS_DAMAGE


def score(trial: Trial, by: str) -> float:
    """What the best trial has most of; minus infinity for one without numbers.

    Args:
        trial: With what was measured.
        by: See `rule`.
    """
    if trial.measures is None:
        return -math.inf
    gain, damage = float(trial.measures["gain"]), float(trial.measures["damage"])
    value = gain if by == GAIN else gain - max(0.0, damage)
    return value if math.isfinite(value) else -math.inf


def best_of(trials: Sequence[Trial], by: str) -> Trial | None:
    """The best trial, the first of several; None if none came to its end.

    Args:
        trials: Of the sweep.
        by: See `rule`.
    """
    best = max(trials, key=lambda trial: score(trial, by), default=None)
    return best if best is not None and math.isfinite(score(best, by)) else None


def table(trials: Sequence[Trial], by: str) -> list[str]:
    """The trials as lines, the best with a star.

    Args:
        trials: Of the sweep.
        by: See `rule`.
    """
    best = best_of(trials, by)
    width = max(len(trial.words) for trial in trials)
    lines = [f"  {'':{width}}     gain   damage  unrelated  minutes"]
    for trial in trials:
        start = f"{'*' if trial is best else ' '} {trial.words:{width}}"
        if trial.measures is None:
            lines.append(f"{start}  {trial.failed or 'has not ended'}")
            continue
        found = trial.measures
        lines.append(
            f"{start}  {found['gain']:+z7.1%}  {found['damage']:+z7.1%}  {found['unrelated_psnr']:6.1f} dB  "
            f"{(trial.seconds or 0) / 60:7.1f}"
        )
    return lines
