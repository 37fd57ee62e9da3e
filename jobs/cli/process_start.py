"""What the command needs of the process that it is started as: a current folder, and open standard streams."""

from __future__ import annotations

import os
import sys

import click

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


def print_or_drop(text: str, err: bool = False) -> None:
    """Print a message that is not what the command was called for; if it cannot be printed, it is left out.

    So a run ends with its own exit code, whether or not anybody reads on (`| head`, a terminal that is gone) and
    whether or not there is room where its output goes.

    Args:
        text: the message.
        err: print it to standard error.
    """
    try:
        click.echo(text, err=err)
    except OSError:
        _drop(sys.stderr.fileno() if err else sys.stdout.fileno())


def said_on_stderr(line: str) -> None:
    """Print a line of what goes on meanwhile to standard error, or drop it as `print_or_drop` does."""
    print_or_drop(line, err=True)


def is_of_printing(error: OSError) -> bool:
    """Whether an error is of `click.echo`, and so of where the output goes; what it still holds is dropped then."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None or frame.tb_frame.f_code is not click.echo.__code__:
        return False
    _drop(sys.stdout.fileno())
    return True


def _drop(number: int) -> None:
    """Turn a stream to the null device, since what it still holds would fail again when Python ends."""
    opened = os.open(os.devnull, os.O_WRONLY)
    os.dup2(opened, number)
    os.close(opened)


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
