"""Damaged files, told from stores that do not answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from wanbatch.errors import UserError
from wanbatch.manifests.storage.urls import is_url


@contextmanager
def readable(path: str, form: str) -> Iterator[None]:
    """Turns what pyarrow raises on a damaged file into a UserError; errors of a store stay what they are.

    Args:
        path: of the file, absolute or a URL.
        form: what it should be, as in "cannot be read as Parquet".
    """
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError, MemoryError, OverflowError) as error:
        if is_url(path) and getattr(error, "errno", None) is not None:
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: cannot be read as {form} ({reason}): write the file again") from error
