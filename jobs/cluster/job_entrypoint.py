"""What a submitted job runs on the cluster: `python -m wanbatch.jobs.cluster.job_entrypoint EXPECTED run ...`.

It checks what was expected of the cluster, so that what is missing is one message and no traceback, and is then
`wanbatch` in an empty folder, without settings of the node that it happens to run on. It imports nothing that a
cluster may lack before it has looked.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NoReturn

OLDEST_PYTHON = (3, 11)
PREFIX = "WANBATCH_"
HEAD_BYTES = 1 << 20
ENTRIES, SETTLED_SECONDS = 50, 3600
USAGE = 2
SHARED = "give a path that every node sees"
UPLOAD = f"{SHARED}, the URL of it in a store, or --upload s3://BUCKET/FOLDER, which puts manifest and sources there"


def content_of(path: str) -> str:
    """Return what tells a local file or folder from another one: names, sizes, and how a file begins.

    Raises:
        OSError: It is not there, or cannot be read.
    """
    if os.path.isdir(path):
        sizes = sorted((entry.name, entry.stat().st_size if entry.is_file() else -1) for entry in os.scandir(path))
        return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:24]
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(HEAD_BYTES) + str(os.path.getsize(path)).encode()).hexdigest()[:24]


def entries_of(path: str) -> list[list[Any]]:
    """Return some entries of a folder, by which it is known although more may come; none for a file.

    Returns:
        The name of each, and its size in bytes, or -1 for one that is no file or was written less than
        `SETTLED_SECONDS` ago, as it may grow.

    Raises:
        OSError: It is not there, or cannot be read.
    """
    if not os.path.isdir(path):
        os.stat(path)
        return []
    names = sorted(os.listdir(path), key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
    return [[name, _settled_size(os.path.join(path, name))] for name in names[:ENTRIES]]


def _settled_size(path: str) -> int:
    try:
        found = os.stat(path)
    except OSError:  # a link that leads nowhere
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime > SETTLED_SECONDS else -1


def _has(folder: str, name: str, size: int) -> bool:
    path = os.path.join(folder, name)
    return os.path.lexists(path) if size < 0 else os.path.isfile(path) and os.path.getsize(path) == size


def problem_with_paths(expected: Mapping[str, Any], host: str) -> str | None:
    """Say which path this host does not see as the submitting machine does; None if it sees them all.

    Args:
        expected: `contents`: path -> what `content_of` says of it there, or for a folder that may grow `entries_of`,
            or None if it was not seen there either;
            `remedies`: path -> what to do if it is not seen here, if that is not `UPLOAD`.
        host: the name of this one.
    """
    for path, content in expected.get("contents", {}).items():
        remedy = expected.get("remedies", {}).get(path, UPLOAD)
        try:
            found = content_of(path)
        except OSError as error:
            return f"{path}: the cluster does not see it (host {host}: {error.strerror or error}): {remedy}"
        grows = isinstance(content, list) and os.path.isdir(path)
        same = all(_has(path, name, size) for name, size in content) if grows else content == found
        if content is not None and not same:
            return (
                f"{path}: host {host} of the cluster has another one of this name than the machine that submitted "
                f"it: {remedy}"
            )
    return None


def problem_with_output(expected: Mapping[str, Any], host: str) -> str | None:
    """Say why this host does not see the output folder of the submitting machine; None if it does."""
    from wanbatch.errors import WanbatchError
    from wanbatch.manifests.dataset.visibility import take_mark

    if not expected.get("mark"):
        return None
    try:
        take_mark(expected["out"], expected["mark"], expected["host"], patience=expected.get("patience"))
    except WanbatchError:
        return (
            f"{expected['out']}: host {host} of the cluster has another folder of this name than the machine that "
            "submitted it: give --out a folder that every node shares, or one in a store (s3://...)"
        )
    return None


def refuse(message: str) -> NoReturn:
    """Print a message as wanbatch does and end with the exit code of wrong usage."""
    print("wanbatch: " + message, file=sys.stderr, flush=True)
    sys.exit(USAGE)


def forget_node_settings(environment: MutableMapping[str, str]) -> Iterator[str]:
    """Take settings of the node out of an environment and yield a warning for each."""
    for name in sorted(name for name in environment if name.startswith(PREFIX)):
        del environment[name]
        yield f"{name} of this node is not used: the command that was submitted says all settings"


def main(arguments: Sequence[str]) -> None:
    """Check what is expected and run `wanbatch`. arguments: the expected as JSON, then those of `wanbatch`."""
    host = os.uname().nodename
    if sys.version_info < OLDEST_PYTHON:
        have, need = ".".join(map(str, sys.version_info[:2])), ".".join(map(str, OLDEST_PYTHON))
        refuse(f"the cluster runs Python {have} ({sys.executable}) and wanbatch needs {need}: use another image")
    try:
        _run(json.loads(arguments[0]), arguments[1:], host)
    except ImportError as error:
        refuse(
            f"the cluster's Python ({sys.executable}) cannot import what wanbatch needs ({error}): use an image with "
            "wanbatch installed, or say with --python which interpreter has it"
        )


def _run(expected: Mapping[str, Any], arguments: Sequence[str], host: str) -> None:
    problem = problem_with_paths(expected, host) or problem_with_output(expected, host)
    if problem is not None:
        refuse(problem)
    for warning in forget_node_settings(os.environ):
        print("wanbatch: " + warning, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="wanbatch-job-") as folder:
        os.chdir(folder)  # no wanbatch.toml of the node
        try:
            sys.argv = ["wanbatch", *arguments]
            runpy.run_module("wanbatch.jobs.cli", run_name="__main__", alter_sys=True)
        finally:
            os.chdir("/")


if __name__ == "__main__":
    main(sys.argv[1:])
