"""The units that are still to be made: which is next for whom, and what becomes of those that do not come back. Pure.

A worker may be lost because of the row that it works on, or because somebody killed it, its node was taken away,
its device broke. One loss does not tell which. So rows are judged like this:

- Units that a lost worker held are *isolated*: from then on they are handed out alone, to workers that hold nothing
  else. Which of two units a worker was on cannot be known, as it may die of the second so soon that its report of
  the first is lost with it.
- An isolated unit is only given to a *trusted* worker, one whose process has made an image. A new worker earns
  trust with a waiting unit, or, where nothing waits or all that waits was lost, with a *probe*: an image that is
  made already is made again and thrown away. Broken machinery never earns trust.
- Each loss of a worker that held an isolated unit, and so only that, counts against the unit (`deaths_alone`). One
  splits a unit into halves; `MAX_DEATHS_OF_ROW` quarantine a row. If each attempt at an innocent row is hit by
  chance with probability p, it is quarantined with probability p ** MAX_DEATHS_OF_ROW.

- A node that is lost, drained or out of reach is no row's fault: what its workers held waits again as it was, before
  all else. Only a unit that a worker was on at `MAX_NODES_LOST` such losses is judged like any other from then on.

A row costs at most 1 + ceil(log2(rows of a unit)) + MAX_DEATHS_OF_ROW workers. Only if nothing was ever made and
nothing else waits are isolated units given to workers without trust. docs/faults.md has the numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from wanbatch.errors import MachineryError
from wanbatch.jobs.driver.events import UnitLost
from wanbatch.jobs.planning.units import Unit

MAX_DEATHS_OF_ROW = 4
LOSSES_BEFORE_PROBES = 8  # in a row, before probes are made though something waits
MAX_LOSSES_IN_A_ROW = 32  # before the machinery is to blame; or, if there are many workers:
MAX_LOSSES_IN_A_ROW_PER_WORKER = 4
MAX_DAMAGED_ATTEMPTS = 4  # of a unit, before the disk is to blame
MAX_NODES_LOST = 8  # with a unit in the model there, before it might be the unit


class UnitQueue:
    """Units that wait to be handed out."""

    def __init__(self, units: Iterable[np.ndarray], first_number: int, made_image: int | None):
        """Queue units.

        Args:
            units: the images of each, as indices into the plan's images.
            first_number: of the first of these units; further ones count up.
            made_image: index of an image that can be made, since it has been; None if there is none yet.
        """
        self._next_number, self._made_image = first_number, made_image
        self._waiting = deque(self._new(images) for images in units)
        self._isolated: deque[Unit] = deque()
        self._losses_in_a_row = 0  # since a unit was last finished
        self._last_cause = ""

    def __bool__(self) -> bool:
        return bool(self._waiting or self._isolated)

    @property
    def waiting(self) -> Sequence[Unit]:
        """The units that no worker was lost with, in the order in which they are handed out."""
        return tuple(self._waiting)

    def for_idle(self, trusted: bool) -> Unit | None:
        """The unit for a worker that holds none; None if there is nothing for it.

        Args:
            trusted: the worker's process has made an image.
        """
        if self._isolated and (trusted or not (self._waiting or self._made_image is not None)):
            return self._isolated.popleft()
        probe_first = self._losses_in_a_row >= LOSSES_BEFORE_PROBES and self._made_image is not None and not trusted
        if self._waiting and not probe_first:
            return self._waiting.popleft()
        if self._waiting or self._isolated:
            return replace(self._new(np.array([self._made_image])), probe=True)
        return None

    def for_busy(self, workers: int) -> list[Unit]:
        """Units for as many workers, at most, that work on another one; enough are kept free for isolated units."""
        count = min(max(0, workers - len(self._isolated)), len(self._waiting))
        return [self._waiting.popleft() for _ in range(count)]

    def finished(self, unit: Unit, made: int) -> None:
        """Note that a unit came back, with so many images made."""
        self._losses_in_a_row = 0
        if made == unit.size:
            self._made_image = int(unit.indices[0])
        elif unit.probe:
            self._made_image = None  # it cannot be made any more, so it proves nothing

    def make_again(self, unit: Unit, problem: str) -> None:
        """Queue a unit again whose attempt is not whole as the driver reads it. No row is blamed for that.

        Args:
            unit: as it was handed out.
            problem: what is wrong with its attempt, and where it was written.

        Raises:
            MachineryError: It was damaged `MAX_DAMAGED_ATTEMPTS` times.
        """
        unit = replace(unit, attempt=unit.attempt + 1, damaged=unit.damaged + 1)
        if unit.damaged >= MAX_DAMAGED_ATTEMPTS:
            raise MachineryError(
                f"unit {unit.number} was written {unit.damaged} times, and never read back whole: {problem}; check "
                "the disk, and that this host and the worker's see the same output folder"
            )
        (self._isolated if unit.isolated else self._waiting).append(unit)

    def take_back(self, lost: UnitLost) -> Unit | None:
        """Take back a unit that a lost worker held.

        Returns:
            The unit if it is a single row that is to be quarantined; it is not queued again then. Otherwise None.
        """
        unit = lost.unit
        if lost.with_node and unit.nodes_lost < MAX_NODES_LOST:
            if not unit.probe:
                again = replace(unit, nodes_lost=unit.nodes_lost + lost.blamed)
                (self._isolated if unit.isolated else self._waiting).appendleft(again)
            return None
        if lost.blamed:
            self._losses_in_a_row += 1
            self._last_cause = lost.cause
        if unit.probe:
            return None
        unit = replace(
            unit,
            attempt=unit.attempt + lost.blamed,
            deaths_alone=unit.deaths_alone + unit.isolated,
            isolated=True,
        )
        if unit.size == 1 and unit.deaths_alone >= MAX_DEATHS_OF_ROW:
            return unit
        if unit.size > 1 and unit.deaths_alone:
            middle = unit.size // 2
            halves = (self._new(images) for images in (unit.indices[:middle], unit.indices[middle:]))
            self._isolated.extend(replace(half, isolated=True) for half in halves)
        else:
            self._isolated.append(unit)
        return None

    def raise_if_too_many_losses(self, workers: int) -> None:
        """Raise MachineryError if too many workers were lost in a row, for a run with so many workers."""
        if self._losses_in_a_row > max(MAX_LOSSES_IN_A_ROW, MAX_LOSSES_IN_A_ROW_PER_WORKER * workers):
            raise MachineryError(
                f"{self._losses_in_a_row} workers were lost one after the other; the last: {self._last_cause}"
            )

    def _new(self, images: np.ndarray) -> Unit:
        self._next_number += 1
        return Unit(self._next_number - 1, images)
