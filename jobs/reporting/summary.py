"""What a run leaves, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wanbatch.manifests.sources.notes import NotedImages

MAX_FAILURES, CIRCUIT_BREAKER = "max_failures", "circuit_breaker"
"""What may stop a run besides the user: the settings' names."""

EXIT_CODES = {MAX_FAILURES: 5, CIRCUIT_BREAKER: 6}


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
        stopped_by: `MAX_FAILURES`: more images were quarantined than may be; `CIRCUIT_BREAKER`: images failed for a
            common cause; None: neither. Images are left, and the same command goes on.
        stop_cause: that common cause, and what to do.
        model_busy: the share of the time that workers were making images in which they had one in the model; None
            if nothing was made.
        slot_use: the share of the denoiser's slots that had an image in them when the model was evaluated; None if it
            never was.
        moves: how often parts of the model came to a device, where there was no room for all of them.
        move_seconds: how long that took, all workers together.
        first_unit: the units of this run are numbered from it.
        dropped: images that were made and not committed when the run was stopped; they are made again.
        drained: images that were committed after it was asked to stop.
        removed: images, made or quarantined, that this run took out of the dataset, since the manifest does not ask
            for them any more.
        removed_failed: of these, quarantined.
        source_notes: what the user should know of the sources of images that this run made: the name of each note
            (`notes.WORDS`) -> how many images it concerns, and a source that it is about.
        adapters: those of the run, each with how much of the model it changes, in words.
        warnings: what of the manifest is not read or not used, a sentence each.
        report: path or URL of the report; None if there is none.
    """

    out: str
    rows: int
    made: int
    quarantined: int
    failures: dict[str, int]
    made_now: int
    seconds: dict[str, float]
    interrupted: bool
    stopped_by: str | None = None
    stop_cause: str | None = None
    model_busy: float | None = None
    slot_use: float | None = None
    moves: int = 0
    move_seconds: float = 0.0
    first_unit: int = 0
    dropped: int = 0
    drained: int = 0
    removed: int = 0
    removed_failed: int = 0
    source_notes: Mapping[str, NotedImages] = field(default_factory=dict)
    adapters: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    report: str | None = None

    @property
    def pending(self) -> int:
        """Images that are neither made nor quarantined."""
        return self.rows - self.made - self.quarantined

    @property
    def ended(self) -> str:
        """How it ended, in a word, as the log has it."""
        return "interrupted" if self.interrupted else "stopped" if self.stopped_by else "finished"

    @property
    def for_log(self) -> dict[str, Any]:
        """What the log's last event of the run says of it, which outlives what the command has printed."""
        counts = ("rows", "made", "made_now", "pending", "quarantined", "failures", "dropped", "drained")
        names = (*counts, "exit_code", "seconds", "model_busy", "slot_use", "moves", "move_seconds")
        why = {"by": self.stopped_by, "cause": self.stop_cause} if self.stopped_by else {}
        return {name: getattr(self, name) for name in names} | why

    @property
    def exit_code(self) -> int:
        """What the command line exits with.

        130 if the run was interrupted; 6 if the circuit breaker stopped it, 5 if too many failures did; 3 if images
        are quarantined, and 0 if all are made.
        """
        if self.interrupted:
            return 130
        if self.stopped_by is not None:
            return EXIT_CODES[self.stopped_by]
        return 3 if self.quarantined else 0
