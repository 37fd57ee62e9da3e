"""A server on this machine that takes what clients push to one dataset of the Hugging Face Hub, as the Hub does.

It speaks the Hub's API for creating a repository, for the upload mode of files, for large files (Git LFS, transfer
`basic`), and for commits; what it is sent is checked. It serves what was committed through `HubServer`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

from http_serving import served
from hub_server import HubHandler, HubServer

TOKEN = "hf_SecretTokenOfTheTests"


class WritableHub(HubServer):
    """Takes pushes to `owner/name`, which need not exist yet.

    Attributes:
        objects: SHA-256 -> content of large files, whether a commit names them or not.
        uploaded: the bytes of large files that were sent, in their order.
        created: what repositories were created with.
        summaries: of the commits, the oldest first.
        private: whether the repository is.
        fail_uploads_after: so many large files are taken; then uploads answer 500.
        refuse: a status that commits are answered with.
    """

    def __init__(self, name: str, folder: Path):
        super().__init__(name, [], _WritingHandler)
        self.folder = folder
        self.objects: dict[str, bytes] = {}
        self.uploaded: list[int] = []
        self.created: list[dict] = []
        self.summaries: list[str] = []
        self.private = False
        self.fail_uploads_after: int | None = None
        self.refuse: int | None = None

    def create(self, private: bool) -> None:
        """Make the repository, with its first commit."""
        self.private = private
        self.add_commit({".gitattributes": b"*.parquet filter=lfs\n"}, set(), "initial commit")

    def add_commit(self, added: dict[str, bytes], removed: set[str], summary: str) -> str:
        """Commit files on top of `main`. Returns the commit."""
        before = self.files() if self.commits else {}
        files = {name: data for name, data in before.items() if name not in removed} | added
        commit = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        place = self.folder / commit
        for name, data in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
        self.commits[commit] = place
        self.summaries.append(summary)
        return commit

    def files(self) -> dict[str, bytes]:
        """The files of `main`."""
        folder = list(self.commits.values())[-1]
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
        }


class _WritingHandler(HubHandler):
    server: WritableHub

    def do_PUT(self) -> None:
        oid = urlparse(self.path).path.rpartition("/")[2]
        data = self._body()
        self.server.seen.append(("PUT", urlparse(self.path).path))
        limit = self.server.fail_uploads_after
        if limit is not None and len(self.server.uploaded) >= limit:
            self._give(403, b"{}")  # what the client does not try again
            return
        assert hashlib.sha256(data).hexdigest() == oid, "other bytes than were announced"
        assert "Authorization" not in self.headers, "the token is not for the store of large files"
        self.server.objects[oid] = data
        self.server.uploaded.append(len(data))
        self._give(200, b"")

    def _answer(self, body: bytes = b"") -> None:
        path = urlparse(self.path).path
        api = f"/api/datasets/{self.server.name}"
        known = path == "/api/repos/create" or self.server.name in path
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and known:
            self.server.seen.append((self.command, path))
            self._give(401, b'{"error": "Invalid credentials"}', {"X-Error-Message": "Invalid credentials"})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            asked = json.loads(body)
            assert asked["repoType"] == "dataset"
            assert asked["content"].startswith("---\n")
            self._give_json({"errors": [], "warnings": []})
        elif not self.server.commits and path.startswith(api):
            self._missing("RepoNotFound")
        elif path.startswith(f"{api}/preupload/"):
            self._upload_modes(json.loads(body))
        elif path == f"/datasets/{self.server.name}.git/info/lfs/objects/batch":
            self._large_files(json.loads(body))
        elif path.startswith(f"{api}/commit/"):
            self._commit(body)
        else:
            super()._answer(body)

    def _create(self, asked: dict) -> None:
        owner, name = self.server.name.split("/")
        assert (asked["organization"], asked["name"], asked["type"]) == (owner, name, "dataset")
        self.server.created.append(asked)
        self.server.create(asked.get("visibility") == "private")
        self._give_json({"url": f"{self.server.url}/datasets/{self.server.name}"})

    def _upload_modes(self, asked: dict) -> None:
        for file in asked["files"]:
            assert len(base64.b64decode(file["sample"])) == min(512, file["size"])
        there = {entry["path"]: entry["oid"] for entry in self._tree(list(self.server.commits.values())[-1], "")}
        self._give_json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".parquet") else "regular",
                        "shouldIgnore": False,
                        "oid": there.get(file["path"]),
                    }
                    for file in asked["files"]
                ]
            }
        )

    def _large_files(self, asked: dict) -> None:
        assert asked["operation"] == "upload"
        assert asked["hash_algo"] == "sha256"
        objects = []
        for one in asked["objects"]:
            action = {"upload": {"href": f"{self.server.url}/store/{one['oid']}"}}
            known = one["oid"] in self.server.objects
            objects.append({"oid": one["oid"], "size": one["size"], **({} if known else {"actions": action})})
        self._give_json({"transfer": "basic", "objects": objects})

    def _commit(self, body: bytes) -> None:
        if self.server.refuse is not None:
            self._give(self.server.refuse, b'{"error": "refused by the test"}', {"X-Error-Message": "refused"})
            return
        lines = [json.loads(line) for line in body.splitlines()]
        assert lines[0]["key"] == "header"
        if lines[0]["value"].get("parentCommit") != list(self.server.commits)[-1]:
            self._give(412, b'{"error": "A commit has happened since"}', {"X-Error-Message": "A commit happened"})
            return
        added, removed = {}, set()
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                added[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                added[value["path"]] = self.server.objects[value["oid"]]
                assert len(added[value["path"]]) == value["size"]
            else:
                assert line["key"] == "deletedFile"
                removed.add(value["path"])
        commit = self.server.add_commit(added, removed, lines[0]["value"]["summary"])
        url = f"{self.server.url}/datasets/{self.server.name}/commit/{commit}"
        self._give_json({"commitUrl": url, "commitOid": commit})


@contextmanager
def writable_hub(name: str, folder: Path) -> Iterator[WritableHub]:
    """Serve a Hub that takes pushes to a dataset. folder: where it keeps what it has."""
    with served(WritableHub(name, folder)) as server:
        yield server
