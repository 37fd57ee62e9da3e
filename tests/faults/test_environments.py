"""Runs of the real command where others stumble; see docs/environments.md. A Ray each, so most of them are slow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from job_making import Ended, environment, rows_by_id, write_jsonl

LOOPBACK_UP = """
import fcntl, socket, struct
request = struct.pack("16sh", b"lo", 0)
with socket.socket() as one:
    flags = struct.unpack("16sh", fcntl.ioctl(one, 0x8913, request))[1]
    fcntl.ioctl(one, 0x8914, struct.pack("16sh", b"lo", flags | 1))
"""
WANBATCH = f"{sys.executable} -m wanbatch.jobs.cli"
RUN = f"{WANBATCH} run m.jsonl --out out"

pytestmark = pytest.mark.slow


@pytest.fixture
def run_in(tmp_path) -> Callable[..., Ended]:
    """Runs shell commands beside a manifest of one row; `run` in them is the command."""
    write_jsonl(tmp_path / "m.jsonl", [{"id": "a", "prompt": "a star", "steps": 1, "guidance": 1}])

    def call(shell: str, *before: str, **changes: str) -> Ended:
        function = f'run() {{ {RUN} "$@"; }}\n'
        done = subprocess.run(
            [*before, "bash", "-c", function + shell],
            cwd=tmp_path,
            env=environment(**{"TMPDIR": "/tmp", **changes}),
            capture_output=True,
            text=True,
        )
        if "unshare:" in done.stderr or "mount:" in done.stderr or "setpriv:" in done.stderr:
            pytest.skip(f"not allowed here: {done.stderr.strip()}")
        return Ended(done.returncode, done.stdout, done.stderr)

    return call


def made(ended: Ended, folder: Path) -> None:
    assert ended.code == 0, ended.err
    assert set(rows_by_id(folder / "out", "data")) == {"a"}


MOUNTS = ("unshare", "-m")
RIGHTS = ("--inh-caps", "+dac_override", "--ambient-caps", "+dac_override")  # to read what root alone may
NOBODY = ("setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", *RIGHTS)


@pytest.mark.parametrize(
    ("shell", "before"),
    [
        pytest.param("mount -t tmpfs -o size=16m none /dev/shm && run", MOUNTS, id="little shared memory"),
        pytest.param("mkdir t && mount -t tmpfs -o size=1m none t && TMPDIR=$PWD/t run", MOUNTS, id="a full TMPDIR"),
        pytest.param("mount -t tmpfs -o ro none /dev/shm && run", MOUNTS, id="read-only shared memory"),
        pytest.param("mkdir t && mount -t tmpfs -o ro none t && TMPDIR=$PWD/t run", MOUNTS, id="a read-only TMPDIR"),
        pytest.param("mkdir h && mount -t tmpfs -o ro none h && HOME=$PWD/h run", MOUNTS, id="a read-only home"),
        pytest.param(
            f"mkdir d && mount -t tmpfs -o ro none d && cd d && {WANBATCH} run ../m.jsonl --out ../out",
            MOUNTS,
            id="a read-only folder",
        ),
        pytest.param("TMPDIR=/nowhere run", (), id="a TMPDIR that is not there"),
        pytest.param("unset HOME; run", (), id="no home"),
        pytest.param("ulimit -n 64; run", (), id="few open files"),
        pytest.param("run", ("taskset", "-c", "0"), id="one core"),
        pytest.param("ulimit -v 8000000; run", (), id="little address space"),
        pytest.param("run 2>&-", (), id="no standard error"),
        pytest.param("unset HOME USER LOGNAME; run", NOBODY, id="a user without a name"),
        pytest.param(f"{sys.executable} -W error -m wanbatch.jobs.cli run m.jsonl --out out", (), id="warnings"),
        pytest.param("LC_ALL=POSIX PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 run", (), id="an ASCII locale"),
        pytest.param(f'{sys.executable} -c "$UP" && run', ("unshare", "-n"), id="no network"),
        pytest.param("http_proxy=$DEAD https_proxy=$DEAD ALL_PROXY=$DEAD run", (), id="dead proxies"),
    ],
)
def test_it_works(run_in, tmp_path, shell, before):
    made(run_in(shell, *before, UP=LOOPBACK_UP, DEAD="http://127.0.0.1:9"), tmp_path)
