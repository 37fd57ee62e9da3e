"""Whether a command of a tick came to its own end, or was ended by a library inside it.

Ray ends the process that uses it with exit code 1, past all that Python does at an end, where its node dies while it
starts or its head is gone for a minute. Seen from outside that looks like a bug, which ends a command with 1, too. So
a command that a tick started says that it ends: by a byte in a pipe that it was given.
"""

from __future__ import annotations

import atexit
import os
import stat
from collections.abc import MutableMapping
from contextlib import suppress
from types import TracebackType
from typing import Self

VARIABLE = "WANBATCH_SCHEDULED_END"
"""Variable with the number of the pipe's open file."""

BYTE = b"."


class OwnEnd:
    """The pipe of one command, on the side of who starts it. Used as a context, it is closed at the end.

    Attributes:
        number: of the open file that the command inherits.
    """

    def __init__(self) -> None:
        """Make the pipe. Raises OSError."""
        self._told, self.number = os.pipe()
        os.set_blocking(self._told, False)  # a process that the command left behind may keep the other side open

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._told)
        os.close(self.number)

    @property
    def environment(self) -> dict[str, str]:
        """The variable that the command is given."""
        return {VARIABLE: str(self.number)}

    def was_said(self) -> bool:
        """Whether the command, which has ended, has said that it does."""
        try:
            return os.read(self._told, 1) == BYTE
        except BlockingIOError:
            return False


def say_own_end(environment: MutableMapping[str, str]) -> None:
    """Say at the end of this process that it has come, if a tick started it; nothing happens otherwise.

    Args:
        environment: that of this process; the variable is taken out, since it is not for its children.
    """
    with suppress(KeyError, ValueError, OverflowError, OSError):
        number = int(environment.pop(VARIABLE))
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            os.set_inheritable(number, False)
            atexit.register(_say, number)


def _say(number: int) -> None:
    with suppress(OSError):
        os.write(number, BYTE)
