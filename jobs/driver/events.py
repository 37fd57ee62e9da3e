"""What happens to workers and to the units that they hold, as the worker pool tells the dispatcher. No Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wanbatch.errors import NodeError
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
        with_node: the worker was lost because its node was, or cannot be reached: no row did that.
    """

    unit: Unit
    worker: int
    cause: str
    blamed: bool
    with_node: bool = False


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker that has loaded the model and compiled what it could know of.

    Attributes:
        worker: the number of its slot.
        backends: how it computes each stage.
        host: name of its machine.
        device: name of its device.
        gpu: which GPU of its host that is; empty without one.
        steps: of its start, as `StartSteps.as_json` has them.
    """

    worker: int
    load_seconds: float
    warm_up_seconds: float
    backends: Mapping[str, str]
    host: str = ""
    device: str = ""
    gpu: str = ""
    steps: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeLost:
    """A node with a worker on it that is gone, was taken away, or cannot be reached.

    Attributes:
        worker: the number of the worker's slot.
        host: name of the machine.
        node: Ray's id of it.
        cause: what is known of it, one line.
    """

    worker: int
    host: str
    node: str
    cause: str


@dataclass(frozen=True, slots=True)
class NodeRefused:
    """A node that cannot have workers of this run.

    Attributes:
        worker: the number of the slot whose worker was there.
        node: Ray's id of it.
        error: why, with the name of the host and what to do.
    """

    worker: int
    node: str
    error: NodeError


@dataclass(frozen=True, slots=True)
class WorkersChanged:
    """How many workers have a place has changed. wanted: how many there are to be; placed: have one."""

    wanted: int
    placed: int


Event = UnitFinished | UnitLost | WorkerReady | NodeLost | NodeRefused | WorkersChanged
