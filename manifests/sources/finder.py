"""Finding the file of a source: every way to read its path, and what to say if there is none."""

from __future__ import annotations

import difflib
import errno
import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.path_policy import PathPolicy, is_below, with_slashes

FOLDERS_KEPT = 256
NAMES_LISTED = 100_000
NAMES_COMPARED = 2_000
"""A folder with more names than `NAMES_LISTED` is not listed; of one with more than `NAMES_COMPARED`, only names that
differ in case, blanks or Unicode form are suggested."""

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
T = TypeVar("T")


def is_absent(error: OSError) -> bool:
    """Whether an error says that there is no such file, rather than that it cannot be told."""
    return isinstance(error, FileNotFoundError) or error.errno in _ABSENT


def _devices(folders: Iterable[str]) -> dict[str, int]:
    """The file system that each folder is on, of those that can be looked at."""
    found = {}
    for folder in folders:
        with suppress(OSError):
            found[folder] = os.stat(folder).st_dev
    return found


class SourceFinder:
    """Finds sources by their paths. Keeps listings of folders, for one thread."""

    def __init__(self, policy: PathPolicy):
        """policy: says where paths start and what they may not leave."""
        self._policy = policy
        self._listings: dict[str, tuple[str, ...]] = {}
        self._root_is_right = False  # since a source was found in it
        self._devices = {} if policy.in_store else _devices((policy.root, policy.fence))

    def first(self, path: str, action: Callable[[str], T]) -> T:
        """What an action gives for the first location that a path may mean and at which there is something.

        Args:
            path: acceptable by the policy.
            action: takes a location, an absolute path or a URL; its `OSError` says if there is nothing there.
        Raises:
            SourceError: of kind `missing_image`, if there is nothing at any of them.
            OSError: of the action, if it cannot be told; or nothing can, since the folder of the sources is gone.
        """
        for location in self._policy.locations(path):
            try:
                found = action(location)
            except OSError as error:
                if not is_absent(error):
                    raise
            else:
                self._root_is_right = self._root_is_right or is_below(location, self._policy.root)
                return found
        if not self._policy.in_store and (same := self._same_name(path)) is not None:
            return action(same)
        self._require_folders()
        raise SourceError("missing_image", self._missing(path))

    def _require_folders(self) -> None:
        """Raise OSError if a folder of sources has left since: below a mount that is gone nothing can be found."""
        now = _devices(self._devices)
        for folder, device in self._devices.items():
            if now.get(folder) != device:
                what = "is gone" if folder not in now else "is on another file system than before"
                raise OSError(errno.ESTALE, f"the folder {folder} {what}: is it mounted?")

    def _same_name(self, path: str) -> str | None:
        """The file whose path differs from this one only in the Unicode form of some of its names."""
        if path.isascii():
            return None
        for text in with_slashes(path):
            folder, left = self._walk(text)
            if not left:
                return folder
        return None

    def _walk(self, path: str) -> tuple[str, list[str]]:
        """The part of a path that exists, whatever its Unicode form, and the names that are left of it."""
        location = self._policy.location(path)
        here = next((f for f in (self._policy.fence, self._policy.real_fence) if is_below(location, f)), None)
        if here is None:
            return location, [location]
        left = location[len(here) :].strip("/").split("/")
        while left:
            there = os.path.join(here, left[0])
            if not os.path.lexists(there):
                wanted = _composed(left[0])
                there = next((f"{here}/{name}" for name in self._names(here) if _composed(name) == wanted), "")
            if not there:
                break
            here, left = there, left[1:]
        return here, left

    def _names(self, folder: str) -> tuple[str, ...]:
        """The names in a folder inside the fence; none if it is too large or cannot be listed."""
        if folder not in self._listings:
            if len(self._listings) >= FOLDERS_KEPT:
                self._listings.clear()
            self._listings[folder] = self._list(folder)
        return self._listings[folder]

    def _list(self, folder: str) -> tuple[str, ...]:
        if not is_below(os.path.realpath(folder), self._policy.real_fence):
            return ()
        names = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    names.append(entry.name)
                    if len(names) > NAMES_LISTED:
                        return ()
        except OSError:  # this is only for a hint in a message about a file that is known to be absent
            return ()
        return tuple(sorted(names))

    def _missing(self, path: str) -> str:
        """What is said of a path at which there is nothing: where it was looked for, and what may be meant."""
        text = with_slashes(path)[-1]
        where = "" if text[0] == "/" or "://" in text else f" in {self._policy.root}"
        if self._policy.in_store:
            return f"does not exist{where}"
        location = self._policy.location(text)
        if os.path.islink(location):
            return f"is a link to {os.readlink(location)}, where there is nothing"
        if where and (other := self._other_root(text)) is not None:
            return f"does not exist{where}, but it does in {other}: set --source-root {other}"
        folder, left = self._walk(text)
        if len(left) > 1 or (left and not os.path.isdir(folder)):
            where += f" (there is no folder {left[0]!r} in {folder})" if os.path.isdir(folder) else ""
        near = self._nearest(folder, left[0]) if left else None
        return f"does not exist{where}" + (f": there is {near!r}, if that is meant" if near else "")

    def _nearest(self, folder: str, name: str) -> str | None:
        names = self._names(folder)
        loose = _loose(name)
        if (same := next((other for other in names if _loose(other) == loose), None)) is not None:
            return same
        if len(names) > NAMES_COMPARED:
            return None
        alike = [other for other in names if _numbers(other) == _numbers(name)]  # `dog07` is no slip for `dog01`
        close = difflib.get_close_matches(name[:255], alike, 1, 0.85)
        return close[0] if close else None

    def _other_root(self, path: str) -> str | None:
        """The current folder, or the one above the root, if the path is that of a file below it.

        Not if the root is the right one: others were found in it, or it has the folder that the path begins with.
        """
        first, _, rest = path.removeprefix("./").partition("/")
        if self._root_is_right or (rest and os.path.isdir(os.path.join(self._policy.root, first))):
            return None
        for folder in (os.getcwd(), posixpath.dirname(self._policy.root)):
            there = os.path.normpath(f"{folder}/{path}")
            if folder != self._policy.root and is_below(there, folder) and os.path.isfile(there):
                return folder
        return None


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _numbers(name: str) -> list[int]:
    return [int(figures) for figures in re.findall("[0-9]{1,18}", name)]


def _loose(name: str) -> str:
    return _composed(name).strip().casefold()
