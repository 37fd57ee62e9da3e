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
        variables: that a process needs to connect to it.
        token: that it asks for; empty: none.
    """

    def __init__(self, folder: Path, token: str | None):
        self._folder, self._files = folder, Path(tempfile.mkdtemp(prefix="rn-", dir="/tmp"))  # sockets: a short path
        home = folder / "home"
        home.mkdir(exist_ok=True)
        self.token = token or ""
        tokens = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
        self.variables = {"HOME": str(home), **tokens}
        self._nodes: dict[str, subprocess.Popen] = {}
        port, client = _free_port(), _free_port()
        self.address, self.client_address = f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"
        head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self._files}"]
        head += [f"--ray-client-server-port={client}"]
        self._start("head", [*head, "--num-cpus=0"])

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

    def close(self) -> None:
        """End what is left."""
        for name in list(self._nodes):
            self.kill(name)
        shutil.rmtree(self._files, ignore_errors=True)

    def _start(self, name: str, words: list[str], hidden: Path | None = None) -> None:
        log = self._folder / f"{name}.log"
        common = ["--block", "--node-ip-address=127.0.0.1", "--object-store-memory=80000000", "--disable-usage-stats"]
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
def ray_nodes(folder: Path, token: bool = True) -> Iterator[RayNodes]:
    """Start a head, and end all nodes at the end."""
    nodes = RayNodes(folder, secrets.token_hex(32) if token else None)
    try:
        yield nodes
    finally:
        nodes.close()
