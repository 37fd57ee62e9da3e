"""A real Ray cluster of several nodes on this machine, by `ray start`: nodes can be killed and added. With tokens."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from job_making import environment, wait_until

RAY = Path(sys.executable).parent / "ray"


class RayNodes:
    """A cluster whose head has no workers of a run.

    Attributes:
        address: of its head.
        client_address: the same, for Ray's client.
        dashboard: its URL; empty: there is none.
        variables: that a process needs to connect to it.
        token: that it asks for; empty: none.
    """

    def __init__(self, folder: Path, token: str | None, dashboard: bool = False, hidden: Path | None = None):
        self._folder, self._files = folder, Path(tempfile.mkdtemp(prefix="rn-", dir="/tmp"))  # sockets: a short path
        home = folder / "home"
        home.mkdir(exist_ok=True)
        self.token = token or ""
        tokens = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
        self.variables = {"HOME": str(home), **tokens}
        self._nodes: dict[str, subprocess.Popen] = {}
        port, client = _free_port(), _free_port()
        self.address, self.client_address = f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"
        head = ["--head", f"--port={port}", f"--temp-dir={self._files}", f"--ray-client-server-port={client}"]
        web = _free_port() if dashboard else 0
        self.dashboard = f"http://127.0.0.1:{web}" if web else ""
        head += ["--dashboard-host=127.0.0.1", f"--dashboard-port={web}"] if web else ["--include-dashboard=false"]
        self._head = [*head, "--num-cpus=0"], hidden
        self._start("head", *self._head)

    def add(self, name: str, hidden: Path | None = None) -> None:
        """Start a node with room for one worker, labelled `name=NAME`.

        Args:
            name: another one for each node.
            hidden: a folder that is empty for its processes, as on another host.
        """
        words = [f"--address={self.address}", "--num-cpus=1", f"--labels=name={name}"]
        self._start(name, words, hidden)

    def kill(self, name: str) -> None:
        """Kill every process of a node, as when its machine goes."""
        process = self._nodes.pop(name)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        process.wait(20)
        psutil.wait_procs(family, timeout=20)

    def restart_head(self) -> None:
        """Kill the head, and start another one at the same address, which knows nothing of the first."""
        self.kill("head")
        self._start("head", *self._head)

    def processes(self, name: str, words: str) -> list[psutil.Process]:
        """The processes of a node whose command has these words."""
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

    def _start(self, name: str, words: list[str], hidden: Path | None = None) -> None:
        log = self._folder / f"{name}.log"
        common = ["--block", "--node-ip-address=127.0.0.1", "--object-store-memory=80000000", "--disable-usage-stats"]
        ports = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
        common += [f"--{port}={_free_port()}" for port in ports]  # the usual ones may be another node's
        command = [str(RAY), "start", *common, *words]
        if hidden is not None:
            hidden.mkdir(exist_ok=True)
            script = f'mount -t tmpfs tmpfs "{hidden}" && exec "$@"'
            command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *command]
        with log.open("w") as out:
            self._nodes[name] = process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment(**self.variables),
                cwd=self._folder,
                start_new_session=True,
            )
        wait_until(
            lambda: process.poll() is not None or "Ray runtime started" in log.read_text(), 120, f"node {name}"
        )
        if process.poll() is not None:
            raise OSError(f"node {name} did not start: {log.read_text()[-500:]}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def ray_nodes(
    folder: Path, token: bool = True, dashboard: bool = False, hidden: Path | None = None
) -> Iterator[RayNodes]:
    """Start a head, and end all nodes at the end.

    Args:
        folder: of its logs, and of its home.
        token: whether the cluster has one.
        dashboard: whether it takes jobs.
        hidden: a folder that is empty for its processes, as on another host.
    """
    nodes = RayNodes(folder, secrets.token_hex(32) if token else None, dashboard, hidden)
    try:
        yield nodes
    finally:
        nodes.close()
