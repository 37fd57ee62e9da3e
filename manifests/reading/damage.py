"""Damaged files, told from disks and stores that do not let them be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from wanbatch.errors import UserError
from wanbatch.manifests.storage.urls import is_url


@contextmanager
def readable(path: str, form: str) -> Iterator[None]:
    """Turns what pyarrow raises on a damaged file into a UserError, and an error of the disk into another one.

    What the system says, and pyarrow does not find wrong inside the file, has a number. Errors of a store stay.

    Args:
        path: of the file, absolute or a URL.
        form: what it should be, as in "cannot be read as Parquet".
    """
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError, MemoryError, OverflowError) as error:
        if (number := getattr(error, "errno", None)) is not None:
            if is_url(path):
                raise
            raise UserError(f"{path}: cannot be read ({os.strerror(number)})") from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: cannot be read as {form} ({reason}): write the file again") from error
