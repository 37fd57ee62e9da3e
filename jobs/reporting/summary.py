"""What a run leaves, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run leaves.

    Attributes:
        out: the output folder, a path or URL.
        rows: images of the manifest.
        made: of these, made by this run and earlier ones.
        quarantined: of these, quarantined.
        failures: error class -> quarantined images.
        made_now: images that this run made.
        seconds: of each part of the command; `warm_up`, where the model was compiled, is inside `start`, and of the
            worker that took longest.
        interrupted: the run was asked to stop before everything was made.
        too_many_failures: it stopped because more images were quarantined than it may.
        model_busy: the share of the time that workers were making images in which they had one in the model; None
            if nothing was made.
        first_unit: the units of this run are numbered from it.
        dropped: images of units that an interruption cut off; they are made again.
    """

    out: str
    rows: int
    made: int
    quarantined: int
    failures: dict[str, int]
    made_now: int
    seconds: dict[str, float]
    interrupted: bool
    too_many_failures: bool = False
    model_busy: float | None = None
    first_unit: int = 0
    dropped: int = 0

    @property
    def pending(self) -> int:
        """Images that are neither made nor quarantined."""
        return self.rows - self.made - self.quarantined

    @property
    def exit_code(self) -> int:
        """What the command line exits with: 0, 3 if images are quarantined, 130 if the run was interrupted."""
        if self.interrupted:
            return 130
        return 3 if self.quarantined else 0
