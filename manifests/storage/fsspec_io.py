"""Object stores through fsspec: bounded waiting, errors, and files that are read by ranges.

Only URLs that `urls.is_url` takes get here: others (`file:`, `http:`, chained ones) are never handed to fsspec.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import fsspec

from wanbatch.errors import UserError

CONNECT_SECONDS = 10
READ_SECONDS = 20
TRIES = 2
"""Bounds on one request and how often it is made: a store that is gone ends a run, it does not hang it. Both
botocore and s3fs try, each its own kinds of errors, so an operation ends after READ_SECONDS * TRIES**2 at most."""

HUB_BLOCK = 1 << 16
"""How much is read of a file on the Hub beyond what is asked for."""

_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError")
_REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_VERSIONS = ("ETag", "etag", "LastModified", "mtime", "updated", "last_modified", "blob_id")
"""What the file systems of stores call a file's tag or its time of change; the tags first."""
_systems: dict[tuple[str, int], Any] = {}


def tag_of(info: Mapping[str, Any]) -> str | None:
    """What a store tells versions of a file apart by; None: it says nothing. info: of a file, as fsspec gives it."""
    return next((str(info[name]) for name in _VERSIONS if info.get(name)), None)


class MissingCredentialsError(PermissionError):
    """There are no credentials for a store, or not all of them."""


def file_system(url: str) -> Any:
    """fsspec's file system for a URL, with bounded waiting and no listings kept.

    Credentials and the endpoint are the environment's (`AWS_ENDPOINT_URL`, ...), as for all tools.
    Raises UserError if what it needs is not installed.
    """
    scheme = url.partition("://")[0].lower()
    key = (scheme, os.getpid())
    if key not in _systems:
        try:
            system = fsspec.filesystem(scheme, skip_instance_cache=True, **_options(scheme))
        except (ImportError, ValueError) as error:
            package = "'wanbatch[s3]'" if scheme.startswith("s3") else "gcsfs" if scheme.startswith("g") else "adlfs"
            raise UserError(f"{url}: needs a package that is missing: pip install {package} ({error})") from error
        if hasattr(system, "retries"):
            system.retries = TRIES
        _systems[key] = system
    return _systems[key]


def forget_file_systems() -> None:
    """Make the next use of a store read the environment and the limits anew."""
    _systems.clear()


def _options(scheme: str) -> dict[str, Any]:
    if scheme == "hf":
        return {"block_size": HUB_BLOCK}
    if not scheme.startswith("s3"):
        return {"use_listings_cache": False}
    retries = {"total_max_attempts": TRIES, "mode": "standard"}
    config = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": retries}
    return {"use_listings_cache": False, "config_kwargs": config}


@contextmanager
def os_errors(location: str) -> Iterator[None]:
    """Turns whatever a store's client raises into OSError; a refused condition into FileExistsError."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, PermissionError):
        raise
    except Exception as error:  # clients have their own kinds of errors
        causes = (error, error.__cause__, error.__context__)
        responses = (getattr(cause, "response", None) for cause in causes)
        codes = {str(r.get("Error", {}).get("Code")) for r in responses if isinstance(r, dict)}
        if codes & set(_REFUSED):
            raise FileExistsError(errno.EEXIST, "File exists", location) from error
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if type(error).__name__ in _NO_CREDENTIALS:
            message = "the store's credentials are missing: set them as for its own tools"
            raise MissingCredentialsError(errno.EACCES, message, location) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(errno.EIO, reason, location) from error


class StoreFile(io.RawIOBase):
    """A file of a store, read by ranges. Its errors are OSError.

    Attributes:
        size: of the whole file, in bytes.
        version: what the store tells this content from others by: its tag, or the time of change; None: neither.
    """

    def __init__(self, system: Any, path: str):
        self._system, self._path, self._offset = system, path, 0
        with os_errors(path):
            info = system.info(path)
        if info["type"] != "file":
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        self.size: int = info["size"]
        tag = tag_of(info)
        self.version = None if tag is None else f"{self.size} bytes of {tag}"

    @classmethod
    def open(cls, system: Any, path: str, buffer: int) -> BinaryIO:
        """Open a file for reading. buffer: how many bytes are read at a time when less is asked for."""
        return cast(BinaryIO, io.BufferedReader(cls(system, path), buffer))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._offset = max(0, offset + (0, self._offset, self.size)[whence])
        return self._offset

    def readinto(self, buffer: Any) -> int:
        end = min(self.size, self._offset + len(buffer))
        if end <= self._offset:
            return 0
        with os_errors(self._path):
            data = self._system.cat_file(self._path, start=self._offset, end=end)
        if len(data) != end - self._offset:
            raise OSError(errno.EIO, "was changed while it was read", self._path)
        buffer[: len(data)] = data
        self._offset = end
        return len(data)
