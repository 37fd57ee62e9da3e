"""Asking a web server for the beginning of a file, and only if it changed; what the headers of its answer say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from urllib3 import HTTPResponse

HEADERS: Mapping[str, str] = {
    "Accept": "image/*",
    "Accept-Encoding": "identity",
    "User-Agent": "wanbatch",
    "Connection": "close",
}
MAX_VALIDATOR = 1024
"""Characters of a validator that are worth keeping."""

_VALIDATORS = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first bytes of a file on the web, or the last ones.

    Attributes:
        data: the bytes; None: the file is the one that the request's validator was of.
        whole: whether they are all of the file.
        validator: what its server tells versions of the file apart by, like `ETag: "1a2b"`; None: it says nothing.
    """

    data: bytes | None
    whole: bool
    validator: str | None


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """What is asked of a server.

    Attributes:
        first: so many bytes from the beginning; None: all.
        last: so many bytes at the end instead; None: as `first` says.
        validator: of the version of the file that is known already; None: none is.
    """

    first: int | None = None
    validator: str | None = None
    last: int | None = None

    @property
    def partial(self) -> bool:
        """Whether a part of the file is asked for."""
        return self.first is not None or self.last is not None

    def headers(self) -> dict[str, str]:
        """The headers of the request."""
        headers = dict(HEADERS)
        if self.first is not None:
            headers["Range"] = f"bytes=0-{self.first - 1}"
        if self.last is not None:
            headers["Range"] = f"bytes=-{self.last}"
        if self.validator is not None:
            name, _, value = self.validator.partition(": ")
            headers[_VALIDATORS[name]] = value
        return headers


def file_size(response: HTTPResponse, wanted: RangeRequest) -> int | None:
    """The bytes of the whole file, as an answer's headers promise them; None: they do not.

    Raises ValueError for a range that is not the one that was wanted.
    """
    if response.status != 206:
        return response.length_remaining
    unit, _, given = response.headers.get("Content-Range", "").strip().partition(" ")
    span, _, size = given.partition("/")
    total = int(size) if size.strip().isdecimal() else None
    begin, _, end = (part.strip() for part in span.partition("-"))
    right = begin == "0" if wanted.last is None else end.isdecimal() and total == int(end) + 1
    if unit.lower() != "bytes" or not right:
        part = "beginning" if wanted.last is None else "end"
        raise ValueError(f"the server sent Content-Range: {one_line(given) or 'nothing'}, not the {part}")
    return total


def validator_of(response: HTTPResponse) -> str | None:
    """The header that tells this version of a file from others, as `Beginning.validator` has it."""
    found = (f"{name}: {response.headers[name]}" for name in _VALIDATORS if response.headers.get(name, "").strip())
    return next((text for text in found if text.isprintable() and len(text) < MAX_VALIDATOR), None)


def one_line(text: str) -> str:
    """Text of a server as it may stand in a message: printable, on one line, at most 200 characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]
