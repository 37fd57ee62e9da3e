"""What a Ray of one's own starts, and how it is waited for; without a Ray."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from types import MappingProxyType, SimpleNamespace

import pytest
import ray

from wanbatch.errors import MachineryError
from wanbatch.jobs.driver import ray_processes, ray_session
from wanbatch.jobs.driver.ray_processes import AgentFailedError, needed_processes_alone


class State:
    """Ray's view of its nodes: after two looks there is one."""

    def __init__(self):
        self.looks = 0

    def _initialize_global_state(self, options: object) -> None:
        pass

    def node_table(self) -> list[dict[str, str]]:
        self.looks += 1
        return [{"NodeID": "other"}] + [{"NodeID": "mine"}] * (self.looks > 2)

    def disconnect(self) -> None:
        pass


@pytest.fixture
def node(monkeypatch, tmp_path):
    """A node that is starting, in place of Ray's, and whether its process has ended."""
    ports = {**dict.fromkeys(ray_processes.AGENT_PORTS, 0), "dashboard_agent_listen_port": 52365}
    started = SimpleNamespace(ended=None, killed=False, state=State(), ports=SimpleNamespace(**ports))
    raylet = SimpleNamespace(process=SimpleNamespace(poll=lambda: started.ended))

    def kill(check_alive: bool, allow_graceful: bool) -> None:
        started.killed = True

    class Node:
        all_processes = MappingProxyType({"raylet": [raylet]})
        kill_all_processes = staticmethod(kill)
        node_id, _ray_params = "a" * 56, started.ports

        def get_session_dir_path(self) -> str:
            return str(tmp_path)

        def start_ray_processes(self) -> str:
            return "started"

        def start_monitor(self) -> None:
            pytest.fail("of clusters")

    monkeypatch.setattr(ray._private.node, "Node", Node)
    monkeypatch.setattr(ray._private.services, "get_node", lambda address, name: {"name": name})
    monkeypatch.setattr(ray._private.services, "_get_gcs_client_options", lambda address: address)
    monkeypatch.setattr(ray._private.state, "GlobalState", lambda: started.state)
    return started


def test_a_node_is_there_as_soon_as_ray_knows_it(node):
    original = ray._private.services.get_node
    with needed_processes_alone(ExitStack()):
        starting = ray._private.node.Node()
        assert starting.start_ray_processes() == "started"
        starting.start_monitor()
        assert ray._private.services.get_node("here", "mine") == {"name": "mine"}
    assert node.state.looks == 3
    assert ray._private.services.get_node is original


def test_a_node_that_ends_is_not_waited_for(node):
    node.ended = 1
    with needed_processes_alone(ExitStack()):
        ray._private.node.Node().start_ray_processes()
        with pytest.raises(AgentFailedError):
            ray._private.services.get_node("here", "mine")
    assert node.killed


@pytest.mark.parametrize(("package", "asked"), [("json", False), ("no_such_package.at_all", True)])
def test_packages_that_are_there_are_not_imported_first(monkeypatch, package, asked):
    monkeypatch.setattr(ray_processes, "AGENT_NEEDS", (package,))
    original = ray._private.utils.get_dashboard_dependency_error
    with needed_processes_alone(ExitStack()):
        assert (ray._private.utils.get_dashboard_dependency_error is original) == asked
    assert ray._private.utils.get_dashboard_dependency_error is original


def test_ray_starts_as_it_does_by_itself_where_a_package_of_its_agent_is_broken(monkeypatch):
    ways: list[bool] = []

    def init(workers: int, folder: str, held: ExitStack, quick: bool = True) -> None:
        ways.append(quick)
        raise AgentFailedError("ended") if quick else OSError("no ports")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray_session, "_init", init)
    with pytest.raises(MachineryError, match="Ray did not start: no ports"), ray_session.local_ray():
        pytest.fail("there is none")
    assert ways == [True, False]


@pytest.mark.parametrize("package", ["json", "no_such_package"])
def test_a_node_need_not_wait_until_its_agents_say_where_they_listen(node, monkeypatch, tmp_path, package):
    """Ray reads it from files for 15 s; `faults/test_slow_agents.py` has agents that take longer."""
    monkeypatch.setattr(ray_processes, "AGENT_NEEDS", (package,))
    held = ExitStack()
    with needed_processes_alone(held):
        ray._private.node.Node().start_ray_processes()
    told = [
        ray._raylet.wait_for_persisted_port(str(tmp_path), "a" * 56, name, 0) for name in ray_processes.AGENT_PORTS
    ]
    if package == "json":
        assert told == [getattr(node.ports, name) for name in ray_processes.AGENT_PORTS]
        assert len({*told, 0, 52365}) == 5, "free ones, and the one that was given"
    else:
        assert told == [-1, -1, -1, node.ports.runtime_env_agent_port], "its agent listens nowhere"
        assert node.ports.metrics_agent_port == 0
    held.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_the_ports_of_agents_are_kept_for_them(node, monkeypatch):
    """Whoever takes any free port of this machine does not get one that an agent listens at seconds later."""
    monkeypatch.setattr(ray_processes, "AGENT_NEEDS", ("json",))
    with ExitStack() as held, ExitStack() as others:
        with needed_processes_alone(held):
            ray._private.node.Node().start_ray_processes()
        chosen = {getattr(node.ports, name) for name in ray_processes.AGENT_PORTS} - {52365}
        for port in chosen:
            with pytest.raises(OSError, match="in use"), socket.socket() as stranger:
                stranger.bind(("127.0.0.1", port))
            agent = others.enter_context(socket.create_server(("127.0.0.1", port)))  # sets SO_REUSEADDR
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client, agent.accept()[0] as served:
                client.sendall(b"x")
                assert served.recv(1) == b"x"
    for port in chosen:
        socket.create_server(("127.0.0.1", port)).close()
