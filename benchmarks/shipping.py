"""How a cluster gets this package: as a folder, which `wanbatch submit` sends, or as a wheel without dependencies.

    python benchmarks/shipping.py [--rounds N] [--out FILE.json]

Both are `py_modules` of a job's runtime environment, on a Ray of one node that this script starts. In each round the
folder and the wheel have another digest than before, so that nothing of them is on the cluster yet. Timed is a job,
in seconds from when it is asked for: until the module is sent, until the job's own process begins, and until a task
of it has imported the package, and what a worker imports (PyTorch, too). made_in: seconds in which the folder, or the
wheel, is made here. bytes: that go to the cluster, of a folder those of the zip file that Ray makes of it. The wheel
is what `pip wheel --no-deps .` makes of a copy of this checkout, without the lines `Requires-Dist`, since Ray runs
`pip install WHEEL --target=FOLDER` without `--no-deps`.

Then both are asked for once on a Ray whose nodes have no `pip`, as environments that uv makes have none.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from circumstances import circumstances, print_result
from ray._private.runtime_env import packaging
from ray.job_submission import JobSubmissionClient

from wanbatch.jobs.cluster.package import shipped_package

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "src", "manifests", "pipeline", "engines", "jobs")
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.egg-info")
START_SECONDS, JOB_SECONDS = 90, 240

SCRIPT = """
import json, time
begun = time.time()
import ray

@ray.remote(num_cpus=1)
def imported():
    import time
    import wanbatch
    package = time.time()
    import wanbatch.jobs.worker.actor
    return [package, time.time(), wanbatch.__file__]

ray.init(address="auto", log_to_driver=False)
print(json.dumps([begun, *ray.get(imported.remote())]))
"""
"""What a job runs; its times are seconds since 1970, of the same clock as this process's."""


def copied_checkout(folder: Path, number: int) -> Path:
    """A copy of what this package is built from, in which a comment differs from every other one."""
    folder.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=NOT_COPIED)
        else:
            shutil.copy(ROOT / name, folder / name)
    with (folder / "src/wanbatch/__init__.py").open("a") as file:
        file.write(f"# {os.getpid()} {number}\n")
    return folder


def built_wheel(checkout: Path, folder: Path) -> Path:
    """The wheel of a checkout, without what it depends on, whose name has its digest as build number.

    A cluster knows a wheel by its name alone: of two that have the same one it goes on with the first.
    """
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, "."]
    subprocess.run([*map(str, command)], cwd=checkout, check=True)
    [wheel] = folder.glob("*.whl")
    _forget_dependencies(wheel)
    name, version, rest = wheel.name.split("-", 2)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()[:24]
    return wheel.rename(folder / f"{name}-{version}-0_{digest}-{rest}")


def _forget_dependencies(wheel: Path) -> None:
    """Write a wheel again without `Requires-Dist` and with the digests that its RECORD then has."""
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    [metadata] = [name for name in files if name.endswith(".dist-info/METADATA")]
    lines = files[metadata].splitlines(keepends=True)
    files[metadata] = b"".join(line for line in lines if not line.startswith(b"Requires-Dist:"))
    record = f"{os.path.dirname(metadata)}/RECORD"
    text = io.StringIO()
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        is_record = name == record
        csv.writer(text).writerow([name, "" if is_record else f"sha256={digest}", "" if is_record else len(content)])
    files[record] = text.getvalue().encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def free_port() -> int:
    """A port of this machine that nobody listens on, below those that connections get."""
    while True:
        port = secrets.choice(range(20_000, 32_000))
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port


@contextmanager
def running_ray(folder: Path, path: str) -> Iterator[str]:
    """A Ray of one node on the loopback address; yields the address of its dashboard. path: the node's `PATH`."""
    folder.mkdir()
    files = tempfile.mkdtemp(prefix="ship-", dir="/tmp")  # sockets are in it, whose paths must be short
    web = free_port()
    words = ["start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={free_port()}", "--num-cpus=2"]
    words += ["--dashboard-host=127.0.0.1", f"--dashboard-port={web}", f"--temp-dir={files}"]
    words += ["--object-store-memory=100000000", "--disable-usage-stats", f"--ray-client-server-port={free_port()}"]
    for name in ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port"):
        words += [f"--{name}={free_port()}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}
    environment |= {"PATH": path, "HOME": str(folder), "RAY_AUTH_MODE": "disabled"}
    with (folder / "ray.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", *words],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _await(folder / "ray.log", process)
        time.sleep(5)  # its agent takes jobs a moment later
        client = JobSubmissionClient(f"http://127.0.0.1:{web}")
        ended(
            client, client.submit_job(entrypoint="exec python -c 'import ray; ray.init()'")
        )  # the first one is slow
        yield f"http://127.0.0.1:{web}"
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(files, ignore_errors=True)


def _await(log: Path, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + START_SECONDS
    while "Ray runtime started" not in log.read_text():
        if process.poll() is not None or time.monotonic() > ends:
            raise SystemExit(f"Ray did not start: {log.read_text()[-2000:]}")
        time.sleep(0.2)


def sent_bytes(module: Path, folder: Path) -> int:
    """How large the file is that goes to the cluster."""
    if module.is_file():
        return module.stat().st_size
    made = folder / "sent.zip"
    packaging.create_package(str(module), made, include_gitignore=True, include_parent_dir=True)
    size = made.stat().st_size
    made.unlink()
    return size


def ended(client: JobSubmissionClient, job: str) -> str:
    """Wait for the end of a job: its status."""
    begin = time.monotonic()
    while not (status := client.get_job_status(job)).is_terminal():
        if time.monotonic() - begin > JOB_SECONDS:
            raise SystemExit(f"{job} has not ended after {JOB_SECONDS} s")
        time.sleep(0.2)
    return status.value


def timed_job(address: str, module: Path) -> dict[str, Any]:
    """Have a job import the package from a module that is sent along: seconds since it was asked for, or why not."""
    client = JobSubmissionClient(address)
    begin = time.time()
    job = client.submit_job(entrypoint=f"exec python -c '{SCRIPT}'", runtime_env={"py_modules": [str(module)]})
    asked = time.time()
    status = ended(client, job)
    if status != "SUCCEEDED":
        message = (client.get_job_info(job).message or "").strip().splitlines()
        failed = [line.strip() for line in message if "Error" in line]
        return {"ended": status, "seconds": round(time.time() - begin, 2), "errors": failed}
    driver, package, worker, path = json.loads(client.get_job_logs(job).strip().splitlines()[-1])
    if "py_modules_files" not in path:
        raise SystemExit(f"{path}: is not what was sent")
    seconds = {
        "sent": asked,
        "driver_begins": driver,
        "task_imported_package": package,
        "task_imported_worker": worker,
    }
    return {name: round(value - begin, 2) for name, value in seconds.items()}


def one_round(address: str, folder: Path, number: int) -> dict[str, Any]:
    """Both, with another digest than before; which is first alternates."""
    checkout = copied_checkout(folder / "checkout", number)
    begin = time.monotonic()
    module = shipped_package(checkout / "src/wanbatch", folder / "kept")
    middle = time.monotonic()
    wheel = built_wheel(checkout, folder / "wheels")
    built = time.monotonic() - middle
    kinds = {"folder": (module, middle - begin), "wheel": (wheel, built)}
    found = {}
    for kind in sorted(kinds, reverse=number % 2 == 1):
        path, seconds = kinds[kind]
        found[kind] = {"made_in": round(seconds, 2), "bytes": sent_bytes(path, folder), **timed_job(address, path)}
    return found


def path_without_pip(folder: Path) -> str:
    """A `PATH` with this interpreter and the system's own commands, and no pip."""
    folder.mkdir()
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "python").chmod(0o755)
    for one in ("/usr/bin", "/bin"):
        for command in Path(one).iterdir():
            if not command.name.startswith("pip") and not (folder / command.name).exists():
                (folder / command.name).symlink_to(command)
    return str(folder)


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    logging.getLogger("ray").setLevel(logging.ERROR)
    result = circumstances(["ray", "pip", "torch"])
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        with running_ray(work / "ray", f"{Path(sys.executable).parent}:{os.environ['PATH']}") as address:
            rounds = []
            for number in range(given.rounds):
                (work / str(number)).mkdir()
                rounds.append(one_round(address, work / str(number), number))
        with running_ray(work / "ray-without-pip", path_without_pip(work / "bin")) as address:
            (work / "without").mkdir()
            without = one_round(address, work / "without", given.rounds)
    print_result({**result, "rounds": rounds, "without_pip": without}, given.out)


if __name__ == "__main__":
    main()
