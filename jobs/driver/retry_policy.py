"""The units that are still to be made: which is next for whom, and what becomes of those that do not come back.

A worker may be lost because of the row that it works on, or because somebody killed it, its node was taken away,
its device broke. One loss does not tell. So rows are judged like this:

- What was in the hands of a lost worker is *suspect*. A suspect is given out alone: which of two units a worker
  was on cannot be known, as it may die of the second so soon that its report of the first is lost with it.
- It is only given to a *trusted* worker, one whose process has finished a unit: something that waits, or, where
  nothing waits or all that waits was lost, a *control*, a picture that is made already and is thrown away. Broken
  machinery is never trusted.
- Each loss of a worker with a suspect is a strike. One halves a unit, `ROW_STRIKES` quarantine a row. If each try
  of an innocent row is hit by chance with probability p, it is quarantined with probability p ** ROW_STRIKES.

A row costs at most 1 + ceil(log2(rows of a unit)) + ROW_STRIKES workers. Only if nothing was ever made and nothing
else waits must suspects do without trust. docs/faults.md has the numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from wanbatch.errors import MachineryError
from wanbatch.jobs.driver.worker_pool import Unit, UnitLost

ROW_STRIKES = 4
DOUBTFUL_LOSSES = 8  # in a row, before controls are made though something waits
MOST_LOSSES = 32  # in a row, before the machinery is to blame; or, if there are many workers:
MOST_LOSSES_EACH = 4


class UnitQueue:
    """Units that wait to be handed out. Pure: no clock, no Ray.

    number: of the next new unit. proven: the place of an image that can be made, since it has been; None before
    there is one.
    """

    def __init__(self, units: Iterable[np.ndarray], number: int, proven: int | None):
        self.number, self.proven = number, proven
        self.waiting = deque(self._new(places) for places in units)
        self.suspects: deque[Unit] = deque()
        self.losses = 0  # since a unit was last finished
        self.cause = ""  # of the last one

    def __bool__(self) -> bool:
        return bool(self.waiting or self.suspects)

    def for_idle(self, trusted: bool) -> Unit | None:
        """The unit for a worker that has none."""
        if self.suspects and (trusted or not (self.waiting or self.proven is not None)):
            return self.suspects.popleft()
        doubtful = self.losses >= DOUBTFUL_LOSSES and self.proven is not None and not trusted
        if self.waiting and not doubtful:
            return self.waiting.popleft()
        if self.waiting or self.suspects:
            return replace(self._new(np.array([self.proven])), control=True)
        return None

    def for_later(self, workers: int) -> list[Unit]:
        """Units for as many workers, at most, that work on another one; some are kept free for suspects."""
        count = min(max(0, workers - len(self.suspects)), len(self.waiting))
        return [self.waiting.popleft() for _ in range(count)]

    def finished(self, unit: Unit, made: int) -> None:
        """A unit came back, with so many images made."""
        self.losses = 0
        if made == len(unit.places):
            self.proven = int(unit.places[0])

    def put_back(self, lost: UnitLost) -> Unit | None:
        """Take back what a lost worker had in hand. Returns it if it is a row that is to be quarantined."""
        if lost.first:
            self.losses += 1
            self.cause = lost.cause
        unit = lost.unit
        if unit.control:
            return None
        unit = replace(unit, attempt=unit.attempt + lost.first, strikes=unit.strikes + unit.suspect, suspect=True)
        if len(unit.places) == 1 and unit.strikes >= ROW_STRIKES:
            return unit
        if len(unit.places) > 1 and unit.strikes:
            middle = len(unit.places) // 2
            halves = (self._new(places) for places in (unit.places[:middle], unit.places[middle:]))
            self.suspects.extend(replace(half, suspect=True) for half in halves)
        else:
            self.suspects.append(unit)
        return None

    def raise_if_too_many_losses(self, workers: int) -> None:
        """Raises MachineryError if too many workers were lost in a row."""
        if self.losses > max(MOST_LOSSES, MOST_LOSSES_EACH * workers):
            raise MachineryError(f"{self.losses} workers were lost one after the other; the last: {self.cause}")

    def _new(self, places: np.ndarray) -> Unit:
        self.number += 1
        return Unit(self.number - 1, places)
