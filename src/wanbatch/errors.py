"""Every exception that wanbatch raises on purpose, and the exit code each one becomes.

    WanbatchError
    ├── UserError (2)            bad usage, settings, manifest or model folder: nothing was started
    │   └── ManifestError        all problems of a manifest at once, each with its location
    ├── RowError                 one row cannot be made: it is quarantined and the run goes on
    ├── FolderHeldError (4)      another run writes to the output folder
    └── MachineryError (75)      what runs the rows broke (workers, disk): run the same command again
        ├── DeviceError          a worker's device is in a bad state: the worker is replaced
        └── NodeError            a host cannot have workers of this run: others may

Anything else that reaches the top is a bug (exit code 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class WanbatchError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line exits with."""

    exit_code = 1


class UserError(WanbatchError):
    """Something the user gave is wrong. The message names the location and the remedy."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a manifest.

    location: where, ready to print: `shop.jsonl:7` (line, from 1) or `shop.parquet row 7` (from 0).
    message: what is wrong and what to do, one line.
    """

    location: str
    message: str

    def __str__(self) -> str:
        return f"{self.location}: {self.message}"


class ManifestError(UserError):
    """A manifest with problems; `problems` holds them all, in the order of their locations."""

    def __init__(self, problems: Sequence[Problem], shown: int = 20):
        self.problems = list(problems)
        lines = [str(problem) for problem in self.problems[:shown]]
        if len(self.problems) > shown:
            lines.append(f"... and {len(self.problems) - shown} more: `wanbatch plan MANIFEST --json` lists them all")
        super().__init__("\n".join(lines))


class RowError(WanbatchError):
    """One row cannot be made.

    stage: where it happened: `source`, `text`, `encode`, `denoise`, `decode` or `image`.
    kind: the class it is counted and retried by: `bad_image`, `missing_image`, `oom`, `nan`, `error`, ...
    """

    def __init__(self, stage: str, kind: str, message: str):
        super().__init__(message)
        self.stage, self.kind, self.message = stage, kind, message

    def __reduce__(self):
        return RowError, (self.stage, self.kind, self.message)


class FolderHeldError(WanbatchError):
    """Another run holds the output folder."""

    exit_code = 4


class MachineryError(WanbatchError):
    """Workers, disk or cluster failed in a way that running the same command again may mend."""

    exit_code = 75


class DeviceError(MachineryError):
    """The device of a worker is in a bad state that only a new process can leave."""


class NodeError(MachineryError):
    """A host cannot have workers of this run: its device or its folders are not what the run needs."""
