"""The processes that a Ray of one's own is made of: those that one machine needs, waited for no longer than needed.

This takes the place of parts of Ray that are not its interface; a version that has them no more starts as it does.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

import ray

FOR_CLUSTERS = ("start_monitor", "start_api_server", "start_log_monitor")
"""Methods that start what adds nodes, what takes jobs and shows pages, and what sends lines of logs around."""

AGENT_NEEDS = ("aiohttp", "aiohttp_cors", "grpc", "opencensus", "opentelemetry.exporter.prometheus",
               "opentelemetry.proto", "prometheus_client", "pydantic")  # fmt: skip
"""Packages without which Ray's agent, which exports metrics, runs without these (`ray.dashboard.optional_deps`)."""

AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
"""Parameters of a node, and files in its folder by which its agents tell it where they listen. It waits 15 s for each
file and then ends: too short for what agents import, on a busy machine."""

HOLDS_PORTS = sys.platform.startswith("linux")
"""Whether a port can be kept from others while the process that it is meant for may listen there."""

POLL_SECONDS, PATIENCE_SECONDS = 0.02, 30.0


class AgentFailedError(Exception):
    """Ray's node ended while it started, perhaps as its agent did: a package it needs is there, but broken."""


@contextmanager
def needed_processes_alone(held: ExitStack, quick: bool = True) -> Iterator[None]:
    """Keep Ray from starting what only clusters need: seconds of a core, some of which Ray waits for.

    Args:
        held: keeps the ports of its agents for them until it is closed: as long as the node lives.
        quick: also take packages that are found for good ones, where Ray imports them all before it starts its
            node; tell it the ports of its agents in their place, so that it need not wait for them; and look often
            whether the node is there, where Ray looks once a second.

    Raises:
        AgentFailedError: The node ended at once, with `quick`.
    """
    node, services, utils = ray._private.node.Node, ray._private.services, ray._private.utils
    replaced: list[tuple[Any, str, Any]] = [(node, name, _nothing) for name in FOR_CLUSTERS]
    if quick:
        started: list[Any] = []
        listening = all(map(_is_there, AGENT_NEEDS))
        if hasattr(node, "start_ray_processes") and hasattr(services, "get_node"):
            replaced.append(
                (node, "start_ray_processes", _prepared(node.start_ray_processes, started, listening, held))
            )
            replaced.append((services, "get_node", _polling(services.get_node, started)))
        if listening:
            replaced.append((utils, "get_dashboard_dependency_error", _nothing))
    with _replaced(replaced):
        yield


@contextmanager
def nothing_printed() -> Iterator[None]:
    """Keep Ray from printing to standard output that a process died, which it does without `log_to_driver`, too.

    That output is the command's own answer, perhaps JSON. What became of its workers the run logs itself.
    """
    with _replaced([(ray._private.worker, "_worker_logs_enabled", False)]):
        yield


@contextmanager
def _replaced(replaced: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Put other things in the place of attributes that are there."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced if hasattr(owner, name)]
    for owner, name, other in replaced:
        if hasattr(owner, name):
            setattr(owner, name, other)
    try:
        yield
    finally:
        for owner, name, original in before:
            setattr(owner, name, original)


def _nothing(*given: Any, **named: Any) -> None:
    return None


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # its parent is not
        return False


def _prepared(start: Callable[..., Any], started: list[Any], listening: bool, held: ExitStack) -> Callable[..., Any]:
    """Note a node that starts, and choose the ports of its agents before."""

    def prepared(self: Any, *given: Any, **named: Any) -> Any:
        started.append(self)
        if hasattr(ray._raylet, "persist_port"):
            _choose_ports(self, listening, held)
        return start(self, *given, **named)

    return prepared


def _choose_ports(node: Any, listening: bool, held: ExitStack) -> None:
    """Choose free ports of this machine for the agents of a node, where nobody has, and tell it in their place.

    An agent that finds its port taken ends, and its node with it.

    Args:
        node: that starts.
        listening: whether its agent has the packages without which it listens nowhere.
        held: keeps the ports for the agents until it is closed, where the system can.
    """
    raylet: Any = ray._raylet
    parameters = node._ray_params
    with ExitStack() as meanwhile:  # all at once, so that they differ
        for name in AGENT_PORTS:
            port = getattr(parameters, name)
            if not listening and name != "runtime_env_agent_port":
                port = -1  # as the agent says that runs without these packages
            elif not port:
                port = _free_port(held if HOLDS_PORTS else meanwhile)
                setattr(parameters, name, port)
            raylet.persist_port(node.get_session_dir_path(), node.node_id, name, port)


def _free_port(held: ExitStack) -> int:
    """A free port that the system gives to nobody who asks for any, until `held` is closed.

    On Linux a process that asks for this very port may listen there meanwhile, if it sets SO_REUSEADDR as agents do,
    since the socket that holds it does not listen (`man 7 socket`).
    """
    holder = held.enter_context(socket.socket())
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return int(holder.getsockname()[1])


def _polling(get_node: Callable[[str, str], Any], started: Sequence[Any]) -> Callable[[str, str], Any]:
    def polling(gcs_address: str, node_id: str) -> Any:
        options = ray._private.services._get_gcs_client_options(gcs_address)
        state = ray._private.state.GlobalState()
        state._initialize_global_state(options)
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end and all(node["NodeID"] != node_id for node in state.node_table()):
            if started and _has_ended(started[-1]):
                started[-1].kill_all_processes(check_alive=False, allow_graceful=False)
                raise AgentFailedError("its node ended at once")
            time.sleep(POLL_SECONDS)
        state.disconnect()
        return get_node(gcs_address, node_id)

    return polling


def _has_ended(node: Any) -> bool:
    raylets = node.all_processes.get("raylet", ())
    return any(one.process.poll() is not None for one in raylets)
