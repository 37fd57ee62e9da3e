"""What the command needs of the process that it is started as: a current folder, and open standard streams."""

from __future__ import annotations

import os
import sys

from wanbatch.errors import UserError

STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_standard_streams() -> None:
    """Open those of stdin, stdout and stderr that whoever started this process has closed, as the null device.

    Otherwise the next file that is opened takes their number, and what is printed goes into it.
    """
    for number, (name, mode) in enumerate(STREAMS):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def ensure_current_folder() -> None:
    """Check that the current folder is there, since relative paths start from it.

    Raises:
        UserError: It was removed, or its disk is gone.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(
            f"the current folder cannot be used ({error.strerror}): it was removed, or its disk is gone: `cd` to "
            "another one"
        ) from error
