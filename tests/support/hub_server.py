"""A server on this machine that answers as the Hugging Face Hub does of a dataset or a model: files of a folder."""

from __future__ import annotations

import hashlib
import http.server
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from http_serving import served
from huggingface_hub import constants

from wanbatch.manifests.storage import fsspec_io

COMMITS = ("1" * 40, "2" * 40)
"""The commits of the repository, the oldest first."""


class HubServer(http.server.ThreadingHTTPServer):
    """Serves `owner/name`.

    Attributes:
        commits: for each commit, the folder with its files; `main` is the last one.
        seen: the method and path of every request.
        failing: answers 500 to everything from now on.
        kind: `datasets` or `models`.
    """

    daemon_threads = True

    private = False
    kind = "datasets"

    def __init__(
        self, name: str, folders: list[Path], handler: type[http.server.BaseHTTPRequestHandler] | None = None
    ):
        super().__init__(("127.0.0.1", 0), handler or HubHandler)
        self.name, self.commits = name, dict(zip(COMMITS, folders, strict=False))
        self.seen: list[tuple[str, str]] = []
        self.failing = False
        self.url = f"http://127.0.0.1:{self.server_port}"

    def push(self, folder: Path) -> None:
        """Make a folder the files of the next commit, and so of `main`."""
        self.commits[COMMITS[len(self.commits)]] = folder

    def commit(self, revision: str) -> str | None:
        """The commit that a revision names."""
        names = {"main": list(self.commits)[-1], "v1": COMMITS[0]} | {commit: commit for commit in self.commits}
        return names.get(revision)


class HubHandler(http.server.BaseHTTPRequestHandler):
    """Answers for a `HubServer`."""

    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        pass

    def handle(self) -> None:
        with suppress(OSError):
            super().handle()

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer(self._body())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, body: bytes = b"") -> None:
        path = urlparse(self.path).path
        self.server.seen.append((self.command, path))
        if self.server.failing:
            self._give(500, b"{}")
            return
        kind, name = self.server.kind, self.server.name
        api, files = f"/api/{kind}/{name}", f"/{'' if kind == 'models' else f'{kind}/'}{name}/resolve/"
        if path.startswith(files):
            revision, _, name = path.removeprefix(files).partition("/")
            self._file(unquote(revision), unquote(name))
        elif path == api or path.startswith(f"{api}/"):
            what, _, rest = path.removeprefix(api).strip("/").partition("/")
            self._describe(what or "revision", rest or "main", body)
        else:
            self._missing("RepoNotFound")

    def _describe(self, what: str, rest: str, body: bytes) -> None:
        revision, _, below = rest.partition("/")
        commit = self.server.commit(unquote(revision))
        if commit is None:
            self._missing("RevisionNotFound")
        elif what == "revision":
            self._give_json({"id": self.server.name, "sha": commit, "siblings": [], "private": self.server.private})
        elif what == "tree":
            self._give_json(list(self._tree(self.server.commits[commit], unquote(below))))
        else:
            paths = json.loads(body)["paths"] if self.headers["Content-Type"] == "application/json" else []
            entries = {e["path"]: e for e in self._tree(self.server.commits[commit], "")}
            self._give_json([entries[path] for path in paths if path in entries])

    def _tree(self, folder: Path, below: str) -> Iterator[dict]:
        for path in sorted((folder / below).rglob("*")):
            name = str(path.relative_to(folder))
            if path.is_dir():
                yield {"type": "directory", "path": name, "oid": "0" * 40}
            else:
                data = path.read_bytes()
                oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
                large = {"lfs": lfs} if name.endswith(".parquet") else {}
                yield {"type": "file", "path": name, "size": len(data), "oid": oid, **large}

    def _file(self, revision: str, name: str) -> None:
        commit = self.server.commit(revision)
        path = self.server.commits[commit] / name if commit else None
        if path is None or not path.is_file():
            self._missing("EntryNotFound")
            return
        data, status = path.read_bytes(), 200
        tag = hashlib.sha1(data).hexdigest()
        if given := self.headers["Range"]:
            start, end = (int(number) for number in given.removeprefix("bytes=").split("-"))
            data, status = data[start : end + 1], 206
        self._give(status, data, {"ETag": f'"{tag}"', "X-Repo-Commit": str(commit)})

    def _missing(self, code: str) -> None:
        self._give(404, b"{}", {"X-Error-Code": code})

    def _give_json(self, value: object) -> None:
        self._give(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _give(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def use_hub(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the Hub's client in this process ask a server."""
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    fsspec_io.forget_file_systems()


@contextmanager
def hub(name: str, *folders: Path) -> Iterator[HubServer]:
    """Serve a dataset. folders: the files of its commits, the oldest first."""
    with served(HubServer(name, list(folders))) as server:
        yield server
