"""Which form of `aot` engines runs on this machine: found out in a process of its own, which a crash ends alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from wanbatch.engines import aot, probe
from wanbatch.engines.graphs import Graph
from wanbatch.errors import UserError


@dataclass(slots=True)
class FormsHere:
    """What is known of the forms of `aot` engines on this machine.

    Attributes:
        refused: How the first engine of a form failed that did not run.
        ran: Forms of which an engine ran.
    """

    refused: dict[str, str] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)

    def build(self, graph: Graph, folder: Path, name: str, description: dict[str, Any]) -> Path:
        """Compile a graph in the first form that runs here.

        Args:
            graph: What is compiled.
            folder: Of the engine's file.
            name: Of the file, without its suffix.
            description: Of the graph, see `probe.description_of`.

        Returns:
            The engine's file.

        Raises:
            UserError: PyTorch cannot compile it, or no form runs here.
        """
        wrong: list[UserError] = []
        for form, kind in aot.FORMS.items():
            if form in self.refused:
                continue
            path = folder / f"{name}{kind.SUFFIX}"
            try:
                aot.build(graph, path)
            except UserError as error:
                wrong.append(error)
                continue
            failure = None if form in self.ran else probe.failure_at(path, description)
            if failure is None:
                self.ran.add(form)
                return path
            self.refused[form] = failure
            path.unlink()
        if wrong:
            raise wrong[0]
        raise UserError(
            f"{graph.label}: what PyTorch {torch.__version__} compiles ahead of time does not run here ({self}): run "
            "without --engines, which compiles when a run starts"
        )

    def __str__(self) -> str:
        return "; ".join(f"{form}: {failure}" for form, failure in self.refused.items())
