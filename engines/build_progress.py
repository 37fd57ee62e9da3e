"""How far a build of engines is, in words: which one, which part of it, and how long the others will take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

STEP = 0.25  # shares of a phase that are told of


@dataclass(slots=True)
class BuildProgress:
    """Tells of a build.

    Attributes:
        count: Engines that are to be built.
        report: Told in words.
        done: Engines that were built.
        seconds: That they took.
        label: Of the engine that is being built.
        told: The phase of its build that was told of last, and how many quarters of it.
    """

    count: int
    report: Callable[[str], None]
    done: int = 0
    seconds: float = 0.0
    label: str = ""
    told: tuple[str, int] = ("", 0)

    def begins(self, label: str) -> None:
        """Another engine is built; what is left is estimated by those before.

        Args:
            label: The part that it stands for.
        """
        self.label = label
        left = round(self.seconds / self.done * (self.count - self.done)) if self.done else 0
        estimate = f", some {left} s left" if left else ""
        self.report(f"{label}: building, {self.done + 1} of {self.count}{estimate}")

    def ended(self, seconds: float) -> None:
        """It was built.

        Args:
            seconds: That it took.
        """
        self.done += 1
        self.seconds += seconds

    def phase(self, name: str, share: float) -> None:
        """Tell of a phase of a plan's build, at most once a quarter.

        Args:
            name: As TensorRT calls it.
            share: How much of it is done.
        """
        reached = name, int(share / STEP)
        if reached[1] and reached != self.told:
            self.told = reached
            self.report(f"{self.label}: {name} {reached[1] * STEP:.0%}")
