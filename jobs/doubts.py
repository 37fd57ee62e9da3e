"""Whose fault it is that workers are lost: a row's, or that of what runs the rows.

A worker may be lost because of the row that it works on, or because somebody killed it, its node was taken away,
its device broke. One loss does not tell. Three rules keep rows safe from what is not their fault:

- What was in the hands of a lost worker is suspect and given out alone from then on; only losses of a worker that
  had nothing else count. (Which of two units it was on cannot be known: it may have died of the second so soon
  that its report of the first was lost with it.)
- A row is condemned by `ROW_TRIES` such losses. If each try of a row is hit by chance with probability p, it is
  condemned wrongly with probability p ** ROW_TRIES.
- It is quarantined only once something else was finished after the last of them. Where nothing is left that could
  be, or where losses pile up, a picture that is made already is made again as a *control* and thrown away. If
  `ROW_TRIES` controls are lost in a row too, it is the machinery, and the run ends without a word about the row.

A row costs at most 1 + UNIT_TRIES * ceil(log2(rows of a unit)) + ROW_TRIES workers. docs/faults.md has the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from wanbatch.errors import MachineryError
from wanbatch.jobs.crew import Lost, Unit

UNIT_TRIES = 2  # of a unit of several rows, before it is halved
ROW_TRIES = 4  # of a row alone, before it is condemned
DOUBTFUL_LOSSES = 8  # in a row, before a control is made
MOST_LOSSES = 32  # in a row, before the machinery is to blame; or, if there are many workers:
MOST_LOSSES_EACH = 4


@dataclass(slots=True)
class Doubts:
    """What the losses so far speak for.

    proven: place of an image that can be made, since it has been; None before there is one.
    condemned: rows that wait for a sign that anything can be made. control: the one in a worker's hands.
    losses, lost_controls: since a unit was last finished. cause: of the last one.
    """

    proven: int | None
    condemned: list[Lost] = field(default_factory=list)
    control: Unit | None = None
    losses: int = 0
    lost_controls: int = 0
    cause: str = ""

    def add(self, lost: Lost) -> None:
        """A worker was lost with a unit in hand."""
        self.losses += 1
        self.lost_controls += self.is_control(lost.unit)
        self.cause = lost.cause

    def dispelled(self) -> None:
        """A unit was finished."""
        self.losses = self.lost_controls = 0

    def wants_control(self, others_left: bool) -> bool:
        """Whether a control should be handed out now. others_left: whether other units wait or are in hand."""
        asked = (bool(self.condemned) and not others_left) or self.losses >= DOUBTFUL_LOSSES
        return asked and self.proven is not None and self.control is None

    def new_control(self, number: int) -> Unit:
        """The control to hand out."""
        self.control = Unit(number, np.array([self.proven]), suspect=True)
        return self.control

    def is_control(self, unit: Unit) -> bool:
        return unit is self.control

    @property
    def hopeless(self) -> bool:
        """Whether rows are condemned and no image was ever made that could serve as a control."""
        return bool(self.condemned) and self.proven is None

    def require_hope(self, workers: int) -> None:
        """Raises MachineryError if too many workers were lost in a row."""
        if self.lost_controls >= ROW_TRIES:
            told = "workers were lost one after the other with a picture that could be made before"
            raise MachineryError(f"{self.lost_controls} {told}; the last: {self.cause}")
        if self.losses > max(MOST_LOSSES, MOST_LOSSES_EACH * workers):
            raise MachineryError(f"{self.losses} workers were lost one after the other; the last: {self.cause}")
