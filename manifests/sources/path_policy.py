"""Which paths of source images are acceptable by their text alone, and where on the disk or in the store they are.

Two folders matter: the *root*, where relative paths start, and the *fence*, which no source may leave. They are the
same unless the user sets a wider fence.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from pathlib import Path

from wanbatch.errors import MachineryError, UserError
from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.web_address import parse_web_address
from wanbatch.manifests.storage.urls import absolute, is_url, kind_of

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://|^(file|data|http|https):", re.IGNORECASE)
_WINDOWS = re.compile(r"^(?:[A-Za-z]:[\\/]|\\)")
"""A drive letter, or a backslash at the beginning: the root of a drive, or a share of another machine."""


class PathPolicy:
    """Says whether a path is acceptable by its text alone; links are resolved when the file is opened.

    Attributes:
        root: the folder that relative paths start from, absolute, or its URL.
        fence: the folder that no source may leave, absolute, or its URL.
        real_fence: the fence with its links resolved.
        allow_http: whether web addresses are acceptable too.
        in_store: whether both folders are in an object store.
    """

    def __init__(self, root: str | Path, allow_http: bool = False, fence: str | Path | None = None):
        """
        Args:
            root: a path or URL.
            allow_http: accept web addresses too.
            fence: a path or URL; None: the root.
        Raises:
            UserError: if one of the folders is local and the other is not.
        """
        self.root, self.allow_http = absolute(root), allow_http
        self.fence = self.root if fence is None else absolute(fence)
        self.in_store = is_url(self.root)
        if is_url(self.fence) != self.in_store:
            raise UserError(
                f"{self.fence}: cannot be the fence of sources below {self.root}: give both --source-root and "
                "--source-fence as folders on the disk, or both as folders in a store"
            )
        self.real_fence = self.fence if self.in_store else os.path.realpath(self.fence)
        self._real_root = self.root if self.in_store else os.path.realpath(self.root)
        self._fences = tuple({self.fence, self.real_fence})
        self._root_is_inside = self.is_inside(self.root) or self.is_inside(self._real_root)

    def problem(self, path: str) -> str | None:
        """What is wrong with a source's path and what to do, or None."""
        if not path or "\0" in path:
            return "is empty or holds a NUL character: give a relative path"
        if ":" in path and not self._is_url_inside(path) and (scheme := _SCHEME.match(path)):
            return self._scheme_problem(path, (scheme[1] or scheme[2]).lower())
        if (":" in path or path[0] == "\\") and _WINDOWS.match(path):
            return (
                f"is a path of a Windows machine, which is not read: give a path relative to {self.root}, like "
                r"images\1.png or images/1.png"
            )
        if self._root_is_inside and path[0] != "/" and ".." not in path:
            return None
        return next((wrong for text in with_slashes(path) if (wrong := self._leaves(text)) is not None), None)

    def location(self, path: str) -> str:
        """The absolute path or the URL of a source, without `.` and `..`, links unresolved.

        One with a backslash is taken as a name that has it; `spellings` gives the other ways to read a path.
        """
        return self._below(self.root, path)

    def locations(self, path: str) -> tuple[str, ...]:
        """Where a source may be: all ways to read its path that stay inside, the literal one first."""
        roots = dict.fromkeys((self.root, self._real_root))
        found = (self._below(root, text) for text in spellings(path) if not self.problem(text) for root in roots)
        return tuple(dict.fromkeys(location for location in found if self.is_inside(location)))

    def is_inside(self, location: str) -> bool:
        """Whether a location is the fence or below it, by its text."""
        return any(is_below(location, fence) for fence in self._fences)

    def fence_around(self, location: str) -> str:
        """The smallest folder that holds both the root and a location; the location's own if only `/` holds both."""
        shared = os.path.commonpath([self._real_root, location])
        return os.path.dirname(location) if shared == "/" else shared

    def _leaves(self, path: str) -> str | None:
        """The message about a path whose text leaves the fence, or None."""
        location = self._below(self._real_root, path)
        if self.is_inside(location) or self.is_inside(self._below(self.root, path)):
            return None
        if path[0] == "/" and self.in_store:
            return f"is outside the folder {self.fence}: give a relative path or set --source-root"
        wider = self._store_around(location) if self.in_store else self.fence_around(location)
        what = "is outside" if path[0] == "/" else "leaves"
        starts = "" if self._root_is_inside else f" (relative paths start from {self.root})"
        remedy = f", or set --source-fence {wider} if sources may be read from there" if wider else ""
        return f"{what} the folder {self.fence}{starts}: give a path inside it{remedy}"

    def _store_around(self, location: str) -> str | None:
        """As `fence_around`, of URLs; None if they are in different buckets."""
        scheme, _, root = self.root.partition("://")
        shared = posixpath.commonpath([root, location.partition("://")[2]])
        return f"{scheme}://{shared}" if shared else None

    def _below(self, root: str, path: str) -> str:
        if not self.in_store:
            return os.path.normpath(path if path[:1] == "/" else f"{root}/{path}")
        if self._is_url_inside(path):
            root, path = path, ""
        elif path[:1] == "/":
            return path  # of no store
        scheme, _, key = root.partition("://")
        return f"{scheme}://{posixpath.normpath(f'{key}/{path}')}"

    def _is_url_inside(self, path: str) -> bool:
        return self.in_store and path.startswith((f"{self.root}/", f"{self.fence}/"))

    def _scheme_problem(self, path: str, scheme: str) -> str | None:
        if scheme in ("http", "https"):
            if not self.allow_http:
                return "needs --allow-http: give that, or download it and give a relative path"
            try:
                parse_web_address(path)
            except SourceError as error:
                return f"{error.message}: give a plain http or https address"
            return None
        if is_url(path):
            return f"is outside the folder {self.fence}: set --source-root to the folder in the store"
        return f"is a {scheme}: address, which is not read: give a relative path"


def with_slashes(path: str) -> tuple[str, ...]:
    """A path as it is and, if it has backslashes, with slashes in their place, as Windows has it."""
    return (path, path.replace("\\", "/")) if "\\" in path else (path,)


def spellings(path: str) -> tuple[str, ...]:
    """All ways to read a path, the literal one first: backslashes, and the composed and decomposed forms of Unicode.

    macOS and some archives write decomposed names (`e` and an accent) where others write composed ones.
    """
    if path.isascii():
        return with_slashes(path)
    forms = (path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path))
    return tuple(dict.fromkeys(text for form in forms for text in with_slashes(form)))


def is_below(location: str, folder: str) -> bool:
    """Whether a location is a folder or below it, by its text."""
    return location == folder or location.startswith(os.path.join(folder, ""))


def require_source_folder(folder: str, flag: str) -> None:
    """Make sure that a folder of sources is there, unless it is in a store.

    Args:
        folder: absolute, or a URL.
        flag: that gives it.
    Raises:
        UserError: It is not there, or no folder.
        MachineryError: That cannot be told.
    """
    try:
        if not is_url(folder) and kind_of(folder) != "folder":
            raise UserError(f"{folder}: is not a folder: give {flag} an existing one")
    except OSError as error:
        raise MachineryError(f"{folder}: cannot be looked at ({error.strerror or error}): is it mounted?") from error
