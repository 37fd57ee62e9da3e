"""What happens to workers and to the units that they hold, as the worker pool tells the dispatcher. No Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wanbatch.jobs.planning.units import Unit
from wanbatch.jobs.worker.messages import UnitReport


@dataclass(frozen=True, slots=True, eq=False)
class UnitFinished:
    """A unit that came back. worker: the number of the slot whose worker made it."""

    unit: Unit
    worker: int
    report: UnitReport

    @property
    def made(self) -> tuple[str, ...]:
        """The ids of its images that were made."""
        return () if self.report.attempt is None else self.report.attempt.made

    @property
    def failed(self) -> tuple[tuple[str, str], ...]:
        """(id, error class) of its images that failed."""
        return () if self.report.attempt is None else self.report.attempt.failed


@dataclass(frozen=True, slots=True, eq=False)
class UnitLost:
    """A unit that did not come back.

    Attributes:
        worker: the number of the slot whose worker held it.
        cause: why the worker was given up, one line.
        blamed: the worker was lost on this unit, as far as can be known; not on another one that it held, too.
    """

    unit: Unit
    worker: int
    cause: str
    blamed: bool


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker that has loaded the model and compiled what it could know of.

    Attributes:
        worker: the number of its slot.
        backends: how it computes each stage.
    """

    worker: int
    load_seconds: float
    warm_up_seconds: float
    backends: Mapping[str, str]


Event = UnitFinished | UnitLost | WorkerReady
