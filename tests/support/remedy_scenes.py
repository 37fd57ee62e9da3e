"""Mistakes that take more than rows and flags to make, and what their messages offer, followed by test_remedies.py.

A scene makes a mistake, yields the message that it gets, and goes on to do what the message offers; it may do so
several times. Scenes are in files by the part of the code whose messages they are about.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import invoke
from job_making import picture, write_jsonl

from wanbatch.errors import WanbatchError

SCENES: dict[str, Callable[[At], Iterator[str]]] = {}


def scene(play: Callable[[At], Iterator[str]]) -> Callable[[At], Iterator[str]]:
    """Take a function for a scene."""
    assert play.__name__ not in SCENES
    SCENES[play.__name__] = play
    return play


@dataclass(frozen=True)
class At:
    """Where a scene plays: the current folder, new, with two pictures.

    Attributes:
        folder: this folder.
        monkeypatch: undone after the scene.
    """

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file, and the folders around it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def rows(self, *rows: dict | str, name: str = "m.jsonl") -> Path:
        """Write a manifest."""
        self.write(name, b"")
        return write_jsonl(self.folder / name, rows)

    def picture(self, name: str) -> Path:
        """Write a small picture."""
        return picture(self.write(name, b""), 32, 32)

    def refused(self, *arguments: object, code: int = 2) -> str:
        """What a refused command says."""
        result = invoke(*arguments)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result.stderr

    def works(self, *arguments: object) -> str:
        """What a command that works says."""
        result = invoke(*arguments)
        assert result.exit_code == 0, result.output
        assert "cannot be read" not in result.output
        return result.output

    def works_with_warnings(self, *arguments: object) -> str:
        """What a command says that works, though sources cannot be read."""
        result = invoke(*arguments)
        assert (result.exit_code, "cannot be read" in result.output) == (0, True), result.output
        return result.output

    def planned(self, *arguments: object) -> dict[str, Any]:
        """What `wanbatch plan --json` says of a good manifest."""
        return json.loads(invoke("plan", *arguments, "--json").stdout)

    def shell(self, command: str) -> None:
        """Do what a message shows as a command."""
        subprocess.run(["bash", "-c", command], cwd=self.folder, check=True, timeout=60)


def raised(call: Callable[[], object]) -> str:
    """The message of the error that a call ends in."""
    with pytest.raises((WanbatchError, ValueError, OSError)) as caught:
        call()
    return str(caught.value)
