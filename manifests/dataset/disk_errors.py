"""Errors of the disk or the store under an output folder, told from files that are damaged, and as messages."""

from __future__ import annotations

import errno

from wanbatch.errors import MachineryError

REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EROFS: "have the disk mounted so that it can be written to",
    errno.EACCES: "have its owner let you write there",
    errno.EPERM: "have its owner let you write there",
}
"""What to do before the same command is run again."""


def is_of_the_disk(error: Exception) -> bool:
    """Whether an error says that a file could not be read, not that the file is absent or damaged.

    What pyarrow finds wrong inside a file is an OSError without a number, or no OSError.
    """
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError)


def first_line(error: Exception) -> str:
    """What an error says, in one line; those of pyarrow have several, some of which are empty."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()


def machinery_error(root: str, error: OSError, reading: bool = False) -> MachineryError:
    """The error for an output folder whose disk or store refuses.

    Args:
        root: the folder's path or URL.
        error: what was raised; the file that it names is named too.
        reading: whether the folder was only read.
    """
    return MachineryError(disk_message(root, error, reading))


def disk_message(root: str, error: OSError, reading: bool = False) -> str:
    """The words for what `machinery_error` is raised for."""
    file = f" at {error.filename}" if error.filename not in (None, root) else ""
    said = f"{root}: cannot be {'read' if reading else 'written to'} ({error.strerror or error}){file}"
    remedy = REMEDIES.get(error.errno or 0)
    return f"{said}: {remedy}, and run the same command again" if remedy and not reading else said
