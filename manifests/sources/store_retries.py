"""Reads of an object store that are made again while its errors may pass, and then end the run, not the row."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from wanbatch.errors import MachineryError
from wanbatch.manifests.storage.fsspec_io import MissingCredentialsError

PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try. The store's client has made each request again itself before that."""

TOTAL_SECONDS = 120.0
"""After so many seconds no further try is begun."""

_log = logging.getLogger(__name__)
T = TypeVar("T")


class StoreFailure(Exception):
    """A store did not answer, or with an error that says nothing of the file. reason: in words."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class StoreRetries:
    """Makes reads again, and counts them. For one thread."""

    def __init__(self, pauses: Sequence[float] = PAUSES, total_seconds: float = TOTAL_SECONDS):
        """
        Args:
            pauses: seconds before each further try.
            total_seconds: no further try is begun after that.
        """
        self._pauses, self._total_seconds = pauses, total_seconds
        self._retried = 0

    @property
    def retried(self) -> int:
        """How many reads were made again so far."""
        return self._retried

    def call(self, name: str, read: Callable[[], T]) -> T:
        """What `read` returns, once it does without a StoreFailure.

        Args:
            name: of the source, for the message.
            read: reads from the store, from the beginning each time.
        Raises:
            MachineryError: if the store still fails after the last try.
        """
        deadline = time.monotonic() + self._total_seconds
        for tries, pause in enumerate((*self._pauses, None), 1):
            try:
                return read()
            except StoreFailure as error:
                if pause is None or time.monotonic() + pause >= deadline:
                    times = "once" if tries == 1 else f"{tries} times"
                    raise MachineryError(
                        f"{name}: the store of the sources failed, tried {times} ({error.reason}): see that it can "
                        "be reached, then give the same command again; what is done is kept"
                    ) from error
                _log.info("asking the store of the sources again after %.1f s (%s)", pause, error.reason)
            self._retried += 1
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")


@contextmanager
def store_failures(name: str) -> Iterator[None]:
    """Tells errors of a store from those of a file: the former become StoreFailure, the latter stay what they are.

    Raises:
        MachineryError: if there are no credentials for the store: trying again does not help, and no row is to blame.
    """
    try:
        yield
    except MissingCredentialsError as error:
        raise MachineryError(f"{name}: cannot be read: {error.strerror}") from error
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        if error.errno is None:  # a damaged file: stores' errors have a number
            raise
        raise StoreFailure(str(error.strerror or error)) from error
