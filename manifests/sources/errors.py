"""The error of a source image that is not to be had."""

from __future__ import annotations


class SourceError(Exception):
    """A source image cannot be used.

    Attributes:
        kind: the class that the row is counted by: `missing_image`, `forbidden_source`, `too_large`,
            `unreadable_image`, `unreachable` or `bad_image`.
        message: what is wrong; it follows the name of the source, as in "`a.png` does not exist".
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind, self.message = kind, message
