"""A real Ray cluster of several nodes on this machine, by `ray start`: nodes can be killed and added. With tokens."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from free_ports import free_port
from job_making import environment, wait_until

RAY = Path(sys.executable).parent / "ray"
TRIES = 3
DRAIN = """
import sys, time
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION
address, name, seconds = sys.argv[1:]
client = GcsClient(address=address)
nodes = client.get_all_node_info()
[node] = [node for node, told in nodes.items() if told.labels.get("name") == name and told.state == 0]
deadline = int(1000 * (time.time() + float(seconds)))
accepted, why = client.drain_node(node.hex(), DRAIN_NODE_REASON_PREEMPTION, "a spot machine is taken back", deadline)
sys.exit(0 if accepted else why)
"""
"""What `ray drain-node` does, and what a cluster's autoscaler does as a spot machine is taken back."""


class RayNodes:
    """A cluster whose head has no workers of a run.

    Attributes:
        address: of its head.
        client_address: the same, for Ray's client.
        dashboard: its URL; empty: there is none.
        variables: that a process needs to connect to it.
        token: that it asks for; empty: none.
        logs: folder of what Ray's processes print, those of jobs and workers, too.
    """

    def __init__(
        self, folder: Path, token: str | None, dashboard: bool = False, hidden: Path | None = None, **changes: str
    ):
        self._folder, self._files = folder, Path(tempfile.mkdtemp(prefix="rn-", dir="/tmp"))  # sockets: a short path
        self.logs = self._files / "session_latest" / "logs"
        home = folder / "home"
        home.mkdir(exist_ok=True)
        self.token = token or ""
        tokens = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
        self.variables = {"HOME": str(home), **tokens}
        self._of_nodes = {
            "PATH": os.pathsep.join([str(RAY.parent), os.environ.get("PATH", os.defpath)]),  # `python` of jobs
            "RAY_health_check_period_ms": "1000",  # five failed checks, and a node is dead: the usual period is 3 s
            **changes,
        }
        self._nodes: dict[str, subprocess.Popen] = {}
        self._number = itertools.count()
        port, client = free_port(), free_port()
        self.address, self.client_address = f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"
        head = ["--head", f"--port={port}", f"--temp-dir={self._files}", f"--ray-client-server-port={client}"]
        web = free_port() if dashboard else 0
        self.dashboard = f"http://127.0.0.1:{web}" if web else ""
        head += ["--dashboard-host=127.0.0.1", f"--dashboard-port={web}"] if web else ["--include-dashboard=false"]
        self._head = [*head, "--num-cpus=0"], hidden
        self._launch("head", *self._head)
        self._await("head", *self._head)

    def add(self, *names: str, hidden: Path | None = None) -> None:
        """Start nodes with room for one worker each, labelled `name=NAME`, each as soon as the last has its sockets.

        Two that start at the same moment choose the same names for them, and one of them fails after half a minute.

        Args:
            names: another one for each node.
            hidden: a folder that is empty for their processes, as on another host.
        """
        words = {name: [f"--address={self.address}", "--num-cpus=1", f"--labels=name={name}"] for name in names}
        for name in names:
            self._launch_apart(name, words[name], hidden)
        for name in names:
            self._await(name, words[name], hidden)

    @property
    def names(self) -> list[str]:
        """Of the nodes beside the head, in the order in which they were added."""
        return [name for name in self._nodes if name != "head"]

    def grow(self, count: int, hidden: Path | None = None) -> list[str]:
        """Add nodes until there are so many, and return their names. hidden: as of `add`."""
        missing = range(count - len(self.names))
        self.add(*(f"node-{next(self._number)}" for _ in missing), hidden=hidden)
        return self.names

    def drain(self, name: str, seconds: float) -> None:
        """Tell Ray that a node will be taken away.

        Args:
            name: of the node.
            seconds: until then.
        """
        command = [sys.executable, "-c", DRAIN, self.address, name, str(seconds)]
        done = subprocess.run(command, env=environment(**self.variables), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    def kill(self, name: str) -> None:
        """Kill every process of a node, as when its machine goes."""
        process = self._nodes.pop(name)
        family: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):  # it did not start
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        process.wait(20)
        psutil.wait_procs(family, timeout=20)

    def restart_head(self) -> None:
        """Kill the head, and start another one at the same address, which knows nothing of the first."""
        self.kill("head")
        (self._files / "ray_current_cluster").unlink()  # a machine of its own would not have it
        self._launch("head", *self._head)
        self._await("head", *self._head)

    def processes(self, name: str, words: str) -> list[psutil.Process]:
        """The processes of a node whose command, or what Ray has put in its place, has these words."""
        found = []
        for one in psutil.Process(self._nodes[name].pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if words in " ".join(one.cmdline()):
                    found.append(one)
        return found

    def close(self) -> None:
        """End what is left."""
        for name in list(self._nodes):
            self.kill(name)
        shutil.rmtree(self._files, ignore_errors=True)

    def _launch(self, name: str, words: list[str], hidden: Path | None = None) -> None:
        common = ["--block", "--node-ip-address=127.0.0.1", "--object-store-memory=80000000", "--disable-usage-stats"]
        common += ["--include-log-monitor=false"]  # a run does not want what its workers print
        ports = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
        common += [f"--{port}={free_port()}" for port in ports]  # the usual ones may be another node's
        command = [str(RAY), "start", *common, *words]
        if hidden is not None:
            hidden.mkdir(exist_ok=True)
            script = f'mount -t tmpfs tmpfs "{hidden}" && exec "$@"'
            command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *command]
        with self._log(name).open("w") as out:
            self._nodes[name] = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment(**self.variables, **self._of_nodes),
                cwd=self._folder,
                start_new_session=True,
            )

    def _await(self, name: str, words: list[str], hidden: Path | None) -> None:
        """Wait until a node has started; Ray gives one 30 s, so that on a busy machine it is started again."""
        for tries in range(TRIES):
            if tries:
                self._launch(name, words, hidden)
            wait_until(
                lambda: self._has_ended(name) or "Ray runtime started" in self._told(name), 120, f"node {name}"
            )
            if not self._has_ended(name):
                return
            self.kill(name)
        raise OSError(f"node {name} did not start: {self._told(name)[-500:]}")

    def _launch_apart(self, name: str, words: list[str], hidden: Path | None) -> None:
        """Start a node, and wait until it has taken names for its sockets."""
        before = self._sockets()
        self._launch(name, words, hidden)
        wait_until(lambda: self._sockets() >= before + 2 or self._has_ended(name), 60, f"sockets of {name}")

    def _sockets(self) -> int:
        """How many a node has of its own: of its raylet, and of its object store."""
        folder = self._files / "session_latest" / "sockets"
        return sum(1 for path in folder.iterdir() if path.name.startswith(("raylet", "plasma_store")))

    def _has_ended(self, name: str) -> bool:
        return self._nodes[name].poll() is not None

    def _is_up(self, name: str) -> bool:
        return "Ray runtime started" in self._told(name)

    def _told(self, name: str) -> str:
        return self._log(name).read_text()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


@contextmanager
def ray_nodes(
    folder: Path, token: bool = True, dashboard: bool = False, hidden: Path | None = None, **changes: str
) -> Iterator[RayNodes]:
    """Start a head, and end all nodes at the end.

    Args:
        folder: of its logs, and of its home.
        token: whether the cluster has one.
        dashboard: whether it takes jobs.
        hidden: a folder that is empty for its processes, as on another host.
        changes: of the environment of its processes.
    """
    nodes = RayNodes(folder, secrets.token_hex(32) if token else None, dashboard, hidden, **changes)
    try:
        yield nodes
    finally:
        nodes.close()
