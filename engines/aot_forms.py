"""Which form of `aot` engines runs on this machine: found out in a process of its own, which a crash ends alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from wanbatch.engines import aot, aot_artifact, aot_package, probe
from wanbatch.engines.graphs import Graph
from wanbatch.errors import UserError

COMPILERS = ("g++", "clang++")


@dataclass(frozen=True, slots=True)
class Way:
    """A way to build an `aot` engine.

    Attributes:
        name: In words.
        suffix: Of its file.
        compiler: The C++ compiler, if it is not the one that PyTorch takes.
    """

    name: str
    suffix: str
    compiler: str | None = None


def ways(device: str) -> Iterator[Way]:
    """All ways on this machine, the preferred one first.

    Args:
        device: `cuda`; or `cpu`, for which an artifact has C++ that would be compiled in each process.

    PyTorch compiles with what the variable CXX names, which may be a compiler whose libraries crash with PyTorch's
    own, so those that are found by their names are tried, too.
    """
    named = os.environ.get("CXX", COMPILERS[0])
    yield Way(f"package by {named}", aot_package.SUFFIX)
    taken = {_real(shutil.which(named))}
    for other in map(shutil.which, COMPILERS):
        if other is not None and _real(other) not in taken:
            taken.add(_real(other))
            yield Way(f"package by {other}", aot_package.SUFFIX, other)
    if device == "cuda":
        yield Way("artifact", aot_artifact.SUFFIX)


@dataclass(slots=True)
class FormsHere:
    """What is known of the ways to build `aot` engines on this machine.

    Attributes:
        refused: How the first engine of a way failed that did not run, by the name of the way.
        ran: Ways of which an engine ran.
    """

    refused: dict[str, str] = field(default_factory=dict)
    ran: set[Way] = field(default_factory=set)

    def build(self, graph: Graph, folder: Path, name: str, description: dict[str, Any]) -> Path:
        """Compile a graph in the first way that gives an engine which runs here.

        Args:
            graph: What is compiled.
            folder: Of the engine's file.
            name: Of the file, without its suffix.
            description: Of the graph, see `probe.description_of`.

        Returns:
            The engine's file.

        Raises:
            UserError: PyTorch cannot compile it, or no way gives one that runs here.
        """
        wrong: list[UserError] = []
        for way in ways(device_of(graph)):
            if way.name in self.refused:
                continue
            path = folder / f"{name}{way.suffix}"
            try:
                aot.build(graph, path, way.compiler)
            except UserError as error:
                wrong.append(error)
                continue
            failure = None if way in self.ran else probe.failure_at(path, description)
            if failure is None:
                self.ran.add(way)
                return path
            self.refused[way.name] = failure
            path.unlink()
        if wrong:
            raise UserError(f"{wrong[0]}; {self}" if self.refused else str(wrong[0])) from wrong[0].__cause__
        raise UserError(
            f"{graph.label}: what PyTorch {torch.__version__} compiles ahead of time does not run here ({self}): run "
            "without --engines, which compiles when a run starts"
        )

    def __str__(self) -> str:
        return "; ".join(f"{way}: {failure}" for way, failure in self.refused.items())


def device_of(graph: Graph) -> str:
    """`cuda` or `cpu`: where the examples of a graph lie."""
    return next(iter(graph.inputs.values())).device.type


def _real(path: str | None) -> str:
    return os.path.realpath(path) if path else ""
