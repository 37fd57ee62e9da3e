"""A real Ray cluster of one head on this machine, with a dashboard, for tests of jobs; with a token or without."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from free_ports import free_port

START_SECONDS = 120


@dataclass(frozen=True)
class RayCluster:
    """A running cluster.

    Attributes:
        address: of its dashboard.
        metrics: URL of what it exports for Prometheus.
        folder: of its files.
        home: the nodes' home folder.
        token: that it asks for; None: none.
    """

    address: str
    metrics: str
    folder: Path
    home: Path
    token: str | None


@contextmanager
def running_cluster(token: str | None, folder: Path, cpus: int = 2, **variables: str) -> Iterator[RayCluster]:
    """Start a cluster on the loopback address and stop it at the end.

    Args:
        token: that it asks of everyone; None: none.
        folder: for the nodes' home and current folder, so that nothing of whoever tests is used.
        cpus: that it says it has.
        variables: of its environment.
    """
    port, files = free_port(), Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))  # short: sockets are in it
    home = folder / "home"
    home.mkdir()
    environment = cluster_environment(home, token) | variables
    words = ["start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(free_port())]
    words += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(port), "--num-cpus", str(cpus)]
    words += [
        "--object-store-memory",
        str(100 << 20),
        "--temp-dir",
        str(files),
        "--ray-client-server-port",
        str(free_port()),
    ]
    metrics = free_port()
    words += ["--metrics-export-port", str(metrics)]
    for name in ("dashboard-agent-listen-port", "dashboard-agent-grpc-port"):
        words += [f"--{name}", str(free_port())]  # the usual ones may be another Ray's
    words += ["--disable-usage-stats"]
    log = (folder / "cluster.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words],
        env=environment,
        cwd=home,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/version", process, folder / "cluster.log")
        yield RayCluster(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics}/metrics", files, home, token)
    finally:
        _end(process)
        log.close()
        shutil.rmtree(files, ignore_errors=True)


def cluster_environment(home: Path, token: str | None) -> dict[str, str]:
    """An environment without this machine's settings: what is needed to find Python, and a home of its own."""
    kept = (
        "PATH",
        "LANG",
        "TMPDIR",
        "OPENBLAS_CORETYPE",
        "OPENBLAS_L2_SIZE",
        "LD_LIBRARY_PATH",
    )
    found = {name: os.environ[name] for name in kept if name in os.environ}
    found["PATH"] = f"{Path(sys.executable).parent}:{found.get('PATH', os.defpath)}"
    found |= {"HOME": str(home), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if token is None:
        return found | {"RAY_AUTH_MODE": "disabled"}
    return found | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError:  # it answers, and wants a token
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"the cluster did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _end(process: subprocess.Popen) -> None:
    """End the cluster and all that it started, by their ids."""
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs([psutil.Process(process.pid), *family], timeout=15)
        for one in alive:
            with suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait(timeout=30)
