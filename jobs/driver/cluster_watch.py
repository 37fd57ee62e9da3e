"""What a worker pool knows of its cluster: the nodes that are alive or refused, and how many workers there can be."""

from __future__ import annotations

import time

import ray

from wanbatch.errors import MachineryError, NodeError
from wanbatch.jobs.driver.cluster_nodes import Node, Placement, alive_nodes
from wanbatch.jobs.driver.cluster_session import nothing_placed
from wanbatch.jobs.driver.events import NodeRefused, WorkersChanged

LOOK_SECONDS = 5.0
FRESH_SECONDS = 0.5
TELL_SECONDS = 1.0


class ClusterWatch:
    """Looks at the nodes of a cluster every few seconds. Failed calls of Ray's own are raised as Ray raises them."""

    def __init__(self, placement: Placement):
        self._placement = placement
        self._nodes: list[Node] = []
        self._looked = self._told_at = 0.0  # monotonic
        self._told: WorkersChanged | None = None
        self._refused: dict[str, NodeError] = {}
        self._none_since: float | None = time.monotonic()

    @property
    def refused(self) -> tuple[str, ...]:
        """Ids of nodes that get no workers of this run."""
        return tuple(self._refused)

    def nodes(self, age: float = LOOK_SECONDS) -> list[Node]:
        """The nodes that are alive, as of so many seconds ago at most."""
        if not age or time.monotonic() - self._looked > age:
            self._nodes, self._looked = alive_nodes(ray.nodes()), time.monotonic()
        return self._nodes

    def is_alive(self, node: str, age: float) -> bool:
        """Whether a node is alive.

        Args:
            node: Ray's id of it; empty: the worker had no place yet.
            age: as of so many seconds ago at most; 0: as of now.
        """
        return not node or any(one.id == node for one in self.nodes(age))

    def workers_wanted(self, most: int) -> int:
        """How many workers there can be on the nodes that there are, at least 1. most: never more."""
        return max(1, min(most, self._placement.workers_in(self.nodes(), self._refused)))

    def refuse(self, event: NodeRefused, placed: int) -> None:
        """Give a node no workers any more.

        Args:
            event: what its worker said.
            placed: how many workers have a place.

        Raises:
            NodeError: There is no other node that could have one.
        """
        self._refused[event.node] = event.error
        if placed or self._placement.workers_in(self.nodes(FRESH_SECONDS), self._refused):
            return
        if len(self._refused) == 1:
            raise event.error
        raise NodeError(
            "\n".join(["no node of the cluster can make these pictures:", *map(str, self._refused.values())])
        )

    def ensure_any_placed(self, placed: int, wanted: int) -> None:
        """Check that some worker has a place, or has not waited for too long.

        Raises:
            MachineryError: None had one for as long as the deadline says.
        """
        now = time.monotonic()
        self._none_since = None if placed else self._none_since or now
        if self._none_since is not None and now - self._none_since > self._placement.start_deadline:
            raise MachineryError(
                nothing_placed(self._placement, wanted, self._placement.start_deadline, self.nodes(FRESH_SECONDS))
            )

    def changed(self, wanted: int, placed: int) -> WorkersChanged | None:
        """What there is to tell of the number of workers: on a cluster, when it changed, once a second at most."""
        state, now = WorkersChanged(wanted, placed), time.monotonic()
        if not self._placement.on_cluster or state == self._told or now - self._told_at < TELL_SECONDS:
            return None
        self._told, self._told_at = state, now
        return state
