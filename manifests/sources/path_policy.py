"""Which paths of source images are acceptable by their text alone."""

from __future__ import annotations

import os
import re
from pathlib import Path

from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.web_address import parse_web_address
from wanbatch.manifests.storage.urls import absolute, is_url

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://|^(file|data|http|https):", re.IGNORECASE)


class PathPolicy:
    """Says whether a path is acceptable by its text alone; links are resolved when the file is opened.

    Attributes:
        root: the folder that paths are relative to and may not leave, absolute, or its URL.
        allow_http: whether web addresses are acceptable too.
        in_store: whether the root is in an object store.
    """

    def __init__(self, root: str | Path, allow_http: bool = False):
        self.root, self.allow_http = absolute(root), allow_http
        self.in_store = is_url(self.root)
        real = self.root if self.in_store else os.path.realpath(self.root)
        self._roots = tuple({os.path.join(folder, "") for folder in (self.root, real)})

    def problem(self, path: str) -> str | None:
        """What is wrong with a source's path and what to do, or None."""
        if not path or "\0" in path:
            return "is empty or holds a NUL character: give a relative path"
        if ":" in path and not self._is_below(path) and (scheme := _SCHEME.match(path)):
            return self._scheme_problem(path, (scheme[1] or scheme[2]).lower())
        if ".." in path and ".." in path.split("/"):
            return f"leaves the folder {self.root}: move the file there or set --source-root"
        if path[0] == "/" and not path.startswith(self._roots):
            return f"is outside the folder {self.root}: give a relative path or set --source-root"
        return None

    def _is_below(self, path: str) -> bool:
        return self.in_store and path.startswith(self._roots)

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
            return f"is outside the folder {self.root}: set --source-root to the folder in the store"
        return f"is a {scheme}: address, which is not read: give a relative path"
