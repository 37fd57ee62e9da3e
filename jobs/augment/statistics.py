"""Whether augmentation pays, from accuracies of paired trainings. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from wanbatch.counting import number_of

ARMS: dict[str, str] = {
    "real": "the originals",
    "repeated": "the originals, each as often as it takes to train as long as ours",
    "classic": "the same, each time cropped, mirrored and recoloured at random",
    "ours": "the originals and the pictures that were made",
    "both": "these, cropped, mirrored and recoloured at random",
    "filtered": "the originals and the pictures that no check rejects",
}
"""What a classifier is trained on."""

OURS = ("ours", "both", "filtered")
AGAINST = ("repeated", "classic")

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's t for a two-sided interval of 95 %, for 1 to 15 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean of paired differences, and its interval of 95 % (Student's t)."""

    mean: float
    low: float
    high: float

    @property
    def is_gain(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """The interval of the differences of trainings with the same seeds, in order."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = fmean(differences)
    if len(differences) < 2:
        return Interval(mean, -math.inf, math.inf)
    degrees = len(differences) - 1
    half = (_T[degrees - 1] if degrees <= len(_T) else 1.96) * stdev(differences) / math.sqrt(len(differences))
    return Interval(mean, mean - half, mean + half)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured.

    Attributes:
        classes: their names, in the order of `per_class`.
        accuracies: of each arm, one for each seed, 0 to 1.
        per_class: of each arm, the accuracy of each class, the mean of all seeds.
        pictures: of each arm, how many different pictures it was trained on.
        test: how many pictures it was tested on.
    """

    classes: tuple[str, ...]
    accuracies: Mapping[str, tuple[float, ...]]
    per_class: Mapping[str, tuple[float, ...]]
    pictures: Mapping[str, int]
    test: int

    def against(self, arm: str, other: str) -> Interval:
        """The gain of an arm over another one."""
        return paired(self.accuracies[arm], self.accuracies[other])

    def paying(self) -> list[str]:
        """The arms with our pictures that are better than repetition and than classic augmentation, each for sure."""
        return [arm for arm in OURS if all(self.against(arm, other).is_gain for other in AGAINST)]

    def changes_by_class(self) -> list[tuple[str, float]]:
        """The change of each class from classic augmentation to ours, the largest gain first."""
        pairs = zip(self.classes, self.per_class["ours"], self.per_class["classic"], strict=True)
        changes = ((name, round(mine - theirs, 4)) for name, mine, theirs in pairs)
        return sorted(changes, key=lambda change: (-change[1], change[0]))

    def verdict(self) -> str:
        """One sentence for people."""
        if names := self.paying():
            best = max(names, key=lambda arm: fmean(self.accuracies[arm]))
            least = min(self.against(best, other).mean for other in AGAINST)
            return (
                f"It pays: {', '.join(names)} {'is' if len(names) == 1 else 'are'} better than repetition and than "
                f"classic augmentation; {best} by {100 * least:.1f} points at least."
            )
        best = max(OURS, key=lambda arm: fmean(self.accuracies[arm]))
        told = " and ".join(
            f"{100 * gain.mean:+.1f} points [{100 * gain.low:.1f}, {100 * gain.high:.1f}] over {other}"
            for other in AGAINST
            if not (gain := self.against(best, other)).is_gain
        )
        return f"It does not pay here: {best}, the best arm with made pictures, has {told}."

    def as_json(self) -> dict[str, Any]:
        """All numbers."""
        return {
            "verdict": self.verdict(),
            "paying": self.paying(),
            "test_pictures": self.test,
            "arms": {
                arm: {
                    "pictures": self.pictures[arm],
                    "accuracy": round(fmean(self.accuracies[arm]), 4),
                    "by_seed": [round(value, 4) for value in self.accuracies[arm]],
                    "by_class": dict(zip(self.classes, (round(v, 4) for v in self.per_class[arm]), strict=True)),
                }
                for arm in ARMS
            },
            "gains": {
                arm: {other: [round(v, 4) for v in _numbers(self.against(arm, other))] for other in AGAINST}
                for arm in OURS
            },
            "change_by_class": dict(self.changes_by_class()),
        }


def _numbers(interval: Interval) -> tuple[float, float, float]:
    return interval.mean, interval.low, interval.high


def table(measured: Measured) -> list[str]:
    """The lines of a table for people: accuracies in per cent, gains in points with their intervals."""
    lines = [f"  {'arm':<10} {'pictures':>8} {'accuracy':>9}   {'over repeated':>22} {'over classic':>22}"]
    for arm in ARMS:
        accuracy = 100 * fmean(measured.accuracies[arm])
        gains = [_gain(measured.against(arm, other)) if arm in OURS else "" for other in AGAINST]
        lines.append(
            f"  {arm:<10} {measured.pictures[arm]:>8} {accuracy:>8.1f}%   {gains[0]:>22} {gains[1]:>22}".rstrip()
        )
    changes = measured.changes_by_class()
    most, least = changes[:3], changes[-3:]
    told = ", ".join(f"{name} {100 * change:+.1f}" for name, change in dict.fromkeys([*most, *least]))
    return [*lines, f"  by class, ours over classic: {told}"]


def _gain(gain: Interval) -> str:
    return f"{100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def plot(measured: Measured) -> str:
    """The accuracies of all arms as SVG: a dot a seed, and a bar at the mean."""
    width, left, row, top = 720, 110, 44, 40
    values = [value for its in measured.accuracies.values() for value in its]
    low, high = max(0.0, min(values) - 0.05), min(1.0, max(values) + 0.05)

    def x(value: float) -> float:
        return round(left + (value - low) / (high - low) * (width - left - 30), 1)

    height = top + row * len(ARMS) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="Accuracy of each arm" font-family="system-ui, sans-serif" font-size="14">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{left}" y="22" fill="#16181d">accuracy on {number_of(measured.test, "test pictures")}, a dot '
        f"a seed</text>",
    ]
    for index, arm in enumerate(ARMS):
        y = top + row * index + row / 2
        colour = "#b1480b" if arm in OURS else "#2457c5"
        mean = x(fmean(measured.accuracies[arm]))
        parts.append(f'<text x="12" y="{y + 5}" fill="#16181d">{arm}</text>')
        parts.append(f'<line x1="{left}" y1="{y}" x2="{width - 30}" y2="{y}" stroke="#e2e5ea"/>')
        parts.append(f'<rect x="{mean - 1.5}" y="{y - 13}" width="3" height="26" fill="{colour}"/>')
        parts += [
            f'<circle cx="{x(value)}" cy="{y}" r="5" fill="{colour}" fill-opacity="0.45"/>'
            for value in measured.accuracies[arm]
        ]
    for tick in range(round(low * 10), round(high * 10) + 1):
        if low <= tick / 10 <= high:
            label = (
                f'<text x="{x(tick / 10)}" y="{height - 14}" text-anchor="middle" fill="#565c69">{tick * 10}%</text>'
            )
            parts.append(label)
    return "\n".join([*parts, "</svg>"]) + "\n"
