"""What a cluster says of a job, and which exit code that means. No Ray."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from wanbatch.errors import FolderHeldError, MachineryError, UserError

SUCCEEDED, FAILED, STOPPED = "SUCCEEDED", "FAILED", "STOPPED"
ENDED = (SUCCEEDED, FAILED, STOPPED)
MACHINERY, USAGE, HELD = MachineryError.exit_code, UserError.exit_code, FolderHeldError.exit_code
INTERRUPTED, QUARANTINED = 130, 3
NO_COMMAND = (126, 127)
"""By which a shell says that it may not run a command, or does not find it."""
_EXIT_CODE = re.compile(r"exit code (-?\d+)")


@dataclass(frozen=True, slots=True)
class JobState:
    """How a job is.

    Attributes:
        id: its submission id.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        message: Ray's words about it.
        exit_code: of its run, once it has ended; see `exit_code_of`.
        metadata: what was noted when it was submitted.
        started: seconds since 1970.
        ended: likewise; None while it goes on.
        stop_seconds: that it has to end once it is asked to stop, before it is killed; None: not known.
        interpreter: that the cluster's shell did not find, or may not run; None: it did, or has not tried yet.
    """

    id: str
    status: str
    message: str = ""
    exit_code: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    started: float | None = None
    ended: float | None = None
    stop_seconds: int | None = None
    interpreter: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in ENDED

    @property
    def is_final(self) -> bool:
        """Whether running the same command again would do nothing: all rows are made, or the rest quarantined."""
        return self.has_ended and self.exit_code in (0, QUARANTINED)


def exit_code_of(status: str, driver: int | None, message: str | None) -> int | None:
    """The exit code of a job's run; None while it goes on.

    Args:
        status: of the job.
        driver: the exit code of its process, as Ray has it.
        message: Ray's words about it, which have the code in versions that have no field for it.

    Returns:
        The process's own. A process that was killed, or that never began, is the machinery's failure; one that the
        user stopped was interrupted; one whose interpreter the shell did not find is bad usage.
    """
    if status not in ENDED:
        return None
    if status == SUCCEEDED:
        return 0
    if status == STOPPED:
        return INTERRUPTED
    code = _driver_code(driver, message)
    if code in NO_COMMAND:
        return USAGE
    return MACHINERY if code is None or code <= 0 or (code >= 128 and code != INTERRUPTED) else code


def missing_interpreter(status: str, driver: int | None, message: str | None, entrypoint: str) -> str | None:
    """The interpreter that the cluster's shell did not find, or may not run; None if it did.

    Args:
        status, driver, message: as of `exit_code_of`.
        entrypoint: the job's command, as `Submission.entrypoint` makes it.
    """
    if status != FAILED or _driver_code(driver, message) not in NO_COMMAND:
        return None
    words = shlex.split(entrypoint.partition(" -m ")[0])
    return words[-1] if words else "python"


def _driver_code(driver: int | None, message: str | None) -> int | None:
    """The exit code of a job's process. Arguments as of `exit_code_of`."""
    if driver is None and (found := _EXIT_CODE.search(message or "")) is not None:
        return int(found[1])
    return driver
