"""The nodes of a Ray cluster: which could have workers of a run, and how many. Pure: judges what Ray says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wanbatch.counting import number_of

ACCELERATOR = "accelerator_type:"
NODE_ID_LABEL = "ray.io/node-id"


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is alive.

    Attributes:
        id: Ray's, in hexadecimal.
        host: its host's name.
        gpus: that it has in all, used or not.
        cpus: the same.
        accelerators: the kinds of its GPUs, as Ray calls them, like `H100`.
        labels: of the node.
    """

    id: str
    host: str
    gpus: int = 0
    cpus: int = 0
    accelerators: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


def alive_nodes(told: Iterable[Mapping[str, Any]]) -> list[Node]:
    """The nodes that are alive.

    Args:
        told: what `ray.nodes()` returns.
    """
    return [_node(one) for one in told if one["Alive"]]


def _node(told: Mapping[str, Any]) -> Node:
    resources = told.get("Resources", {})
    return Node(
        id=told["NodeID"],
        host=told.get("NodeManagerHostname") or told.get("NodeName") or told["NodeID"][:8],
        gpus=int(resources.get("GPU", 0)),
        cpus=int(resources.get("CPU", 0)),
        accelerators=tuple(name.removeprefix(ACCELERATOR) for name in resources if name.startswith(ACCELERATOR)),
        labels=dict(told.get("Labels", {})),
    )


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the workers of a run may be.

    Attributes:
        on_cluster: whether there may be several hosts; otherwise all workers are on one, wherever there is room.
        device: `cuda`: each worker has a GPU; `cpu`: each has `cpus` processors, and they are spread over the nodes.
        cpus: that a worker on a CPU has.
        labels: that its node must have, as Ray's selectors say them: `spot`, `!spot`, `in(a,b)`, `!in(a,b)`.
        accelerator: the kind of GPU, as Ray calls it; None: any.
        grows: workers are added where nodes join, and no longer waited for where nodes have left.
        start_deadline: seconds until the first worker must have found a place.
    """

    on_cluster: bool = False
    device: str = "cpu"
    cpus: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    accelerator: str | None = None
    grows: bool = False
    start_deadline: float = 1800.0

    def actor_options(self, refused: Collection[str] = ()) -> dict[str, Any]:
        """What Ray is asked of a worker's place.

        Args:
            refused: ids of nodes that may have none.
        """
        if self.device == "cuda":
            options: dict[str, Any] = {"num_cpus": 0, "num_gpus": 1}
            if self.accelerator is not None:
                options["accelerator_type"] = self.accelerator
        elif self.on_cluster:
            options = {"num_cpus": self.cpus, "num_gpus": 0, "scheduling_strategy": "SPREAD"}
        else:
            options = {"num_cpus": 0, "num_gpus": 0}
        labels = dict(self.labels)
        if refused:
            labels[NODE_ID_LABEL] = f"!in({','.join(sorted(refused))})"
        if labels:
            options["label_selector"] = labels
            options.pop("scheduling_strategy", None)  # Ray takes one of the two
        return options

    def workers_on(self, node: Node) -> int:
        """How many workers a node could have, if nobody else used it."""
        if not all(matches(node.labels, key, value) for key, value in self.labels.items()):
            return 0
        if self.device == "cuda":
            kind_fits = self.accelerator is None or self.accelerator in node.accelerators
            return node.gpus if kind_fits else 0
        return int(node.cpus >= self.cpus) if self.on_cluster else 1

    def workers_in(self, nodes: Iterable[Node], refused: Collection[str] = ()) -> int:
        """How many workers nodes could have, without those that are refused."""
        return sum(self.workers_on(node) for node in nodes if node.id not in refused)

    def described(self) -> str:
        """What a worker needs, in words."""
        if self.device == "cuda":
            needs = f"a GPU{f' of type {self.accelerator}' if self.accelerator else ''}"
        else:
            needs = f"{self.cpus} CPUs" if self.cpus != 1 else "1 CPU"
        labels = ", ".join(f"{key}={value}" for key, value in self.labels.items())
        return f"{needs} on a node labelled {labels}" if labels else needs


def matches(labels: Mapping[str, str], key: str, wanted: str) -> bool:
    """Whether a node's labels are what a selector of Ray asks for.

    Args:
        labels: of the node.
        key: of the selector.
        wanted: its value: `spot`, `!spot`, `in(a,b)` or `!in(a,b)`.
    """
    positive = wanted.removeprefix("!")
    values = [positive]
    if positive.startswith("in(") and positive.endswith(")"):
        values = [value.strip() for value in positive[3:-1].split(",")]
    return (labels.get(key) in values) != wanted.startswith("!")


def what_there_is(nodes: Sequence[Node]) -> str:
    """What nodes have, in words, for messages: the commonest first."""
    if not nodes:
        return "no nodes"
    kinds = Counter(_kind(node) for node in nodes)
    return "; ".join(f"{count} node{'s' if count != 1 else ''} with {kind}" for kind, count in kinds.most_common(5))


def _kind(node: Node) -> str:
    kinds = f" ({', '.join(node.accelerators)})" if node.accelerators else ""
    return f"{number_of(node.gpus, 'GPUs')}{kinds} and {number_of(node.cpus, 'CPUs')}"


def kind_to_use(nodes: Sequence[Node], device_name: str | None) -> tuple[str | None, tuple[str, ...]]:
    """Which kind of GPU a run takes where a cluster has several.

    Args:
        nodes: that may have workers.
        device_name: of what the output folder was filled with, like `NVIDIA H100 80GB HBM3`; None: it is new.

    Returns:
        The kind as Ray calls it, and the others; None if there are fewer than two kinds.
    """
    gpus: Counter[str] = Counter()
    for node in nodes:
        for kind in node.accelerators:
            gpus[kind] += node.gpus
    if len(gpus) < 2:
        return None, ()
    by_name = [kind for kind in gpus if device_name and kind.split("-")[0] in device_name.replace("-", " ").split()]
    chosen = max(by_name or gpus, key=lambda kind: (gpus[kind], kind))
    return chosen, tuple(sorted(kind for kind in gpus if kind != chosen))
