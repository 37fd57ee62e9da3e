"""A Ray of one's own: what it is started with, and what neither the environment nor `uv run` change."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from job_making import WANBATCH, environment, rows_by_id, write_jsonl

from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.driver.ray_session import (
    WORKER_NICENESS,
    ensure_threads,
    ensure_unicode,
    local_variables,
)

UV = Path(sys.executable).parent / "uv"
DEAD = "http://127.0.0.1:9"
TWO_SESSIONS = """
import json, os, sys, threading
import psutil, ray
from wanbatch.jobs.driver.ray_session import local_ray, run_in_a_worker
worker, told = ray._private.worker, threading.Event()
printing = worker.print_worker_logs
def noted(*given, **more):
    printing(*given, **more)
    told.set()
worker.print_worker_logs = noted
ours = lambda: {k: v for k, v in os.environ.items() if k.startswith(("RAY_A", "RAY_U")) or k.lower() == "no_proxy"}
before, found = ours(), []
for preload in ("this", None):
    with local_ray(preload=preload):
        (token, there), address = run_in_a_worker(lambda: (os.environ["RAY_AUTH_TOKEN"], "this" in sys.modules))
        assert there == (preload is not None)
        assert token == os.environ["RAY_AUTH_TOKEN"]
        processes = psutil.Process().children(recursive=True)
        heard = {c.laddr.ip for p in processes for c in p.net_connections() if c.status == "LISTEN"}
        found.append({"token": token, "address": address, "heard": sorted(heard)})
        if preload is None:
            try:
                ray.get(ray.remote(max_retries=0)(lambda: os._exit(1)).remote())
            except ray.exceptions.WorkerCrashedError:
                print("died")
            assert told.wait(100)
    assert worker._worker_logs_enabled
    assert ours() == before
print(json.dumps(found))
"""

FEW_THREADS = """
import resource
from wanbatch.errors import MachineryError
from wanbatch.jobs.driver.ray_session import ensure_threads
from wanbatch.machine import room_for_threads
try:
    ensure_threads(room_for_threads())
except MachineryError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_NPROC, (4096, resource.getrlimit(resource.RLIMIT_NPROC)[1]))  # as ulimit -u does
ensure_threads(room_for_threads())
"""

UNCONNECTED = """
import subprocess, sys
from click.testing import CliRunner
from wanbatch.jobs.cli.main import main
from wanbatch.jobs.driver.ray_session import ensure_loopback
done = CliRunner().invoke(main, ["run", "m.jsonl", "--out", "out"])
print(done.exit_code, done.stderr.strip())
try:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    ensure_loopback()
except FileNotFoundError:
    pass  # no such command here
"""


@pytest.fixture(scope="module")
def sessions(tmp_path_factory) -> tuple[Path, list[str]]:
    """The home of a process that had two sessions, and the lines that it printed.

    This one is connected to the Ray of these tests.
    """
    home = tmp_path_factory.mktemp("home")
    changed = environment(HOME=str(home), TMPDIR="/tmp")
    done = subprocess.run([sys.executable, "-c", TWO_SESSIONS], env=changed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return home, done.stdout.splitlines()


def test_sessions_one_after_the_other_listen_on_this_machine_alone(sessions):
    home, printed = sessions
    first, second = json.loads(printed[-1])
    for session in (first, second):
        assert session["address"] == "127.0.0.1"
        assert {address.removeprefix("::ffff:") for address in session["heard"]} == {"127.0.0.1"}
    assert first["token"] != second["token"]
    assert list(home.rglob("*token*")) == []


def test_what_ray_says_of_a_process_that_died_is_no_part_of_the_output(sessions):
    """Ray tells the driver of it, which would print it to standard output, between the lines of JSON."""
    assert sessions[1][:-1] == ["died"]


@pytest.mark.slow
def test_a_run_under_uv_with_a_long_tmpdir_and_all_else_that_misleads_ray(tmp_path):
    """600 MB of pictures lie beside the manifest, the home is read-only, RAY_ADDRESS and proxies lead nowhere."""
    if not UV.exists():
        pytest.skip("uv is not installed")
    project = '[project]\nname = "mine"\nversion = "0"\nrequires-python = ">=3.11"\n'
    (tmp_path / "pyproject.toml").write_text(project)
    with open(tmp_path / "pictures.tar", "wb") as file:
        file.truncate(600 << 20)
    write_jsonl(tmp_path / "m.jsonl", [{"id": "a", "prompt": "a star", "steps": 1, "guidance": 1}])
    long = tmp_path / "people" / "poebh" / "slurm_jobdir" / "1355700" / "with" / "a" / "rather" / "long" / "name"
    long.mkdir(parents=True)
    misleading = {"RAY_ADDRESS": "10.255.255.1:6379", "http_proxy": DEAD, "https_proxy": DEAD, "all_proxy": DEAD}
    misleading |= {
        "RAY_RUNTIME_ENV_HOOK": "nowhere.hook",
        "RAY_AUTH_MODE": "token",
        "RAY_USE_TLS": "1",
        "RAY_AUTH_TOKEN_PATH": "/nowhere",
    }
    misleading |= {"RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env": {"working_dir": "gcs://_ray_pkg_x.zip"}}'}
    done = subprocess.run(
        [UV, "run", "--active", "--no-sync", WANBATCH, "run", "m.jsonl", "--out", "out"],
        cwd=tmp_path,
        env=environment(
            VIRTUAL_ENV=str(UV.parents[1]),
            UV_NO_CACHE="1",
            TMPDIR=str(long),
            HOME="/proc/1/nowhere",  # which nobody can write to, root neither
            **misleading,
        ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert set(rows_by_id(tmp_path / "out", "data")) == {"a"}
    warned = [line for line in done.stderr.splitlines() if "Ray" in line]
    assert len(warned) == 2
    assert f"TMPDIR={long} is too long for the paths of Ray's sockets" in warned[0] + warned[1]
    assert "RAY_ADDRESS=10.255.255.1:6379 is not used" in warned[0] + warned[1]
    used = (warned[0] + warned[1]).partition("Ray's files are in ")[2].partition(" ")[0]
    assert used.startswith("/tmp/")
    assert not Path(used).exists()


def test_what_the_user_gave_is_kept():
    given = {"no_proxy": "example.org,127.0.0.1", "RAY_AUTH_TOKEN": "mine", "RAY_USAGE_STATS_ENABLED": "1"}
    changed = local_variables(given)
    assert changed["no_proxy"] == "example.org,127.0.0.1,localhost,::1"
    assert changed["NO_PROXY"] == "localhost,127.0.0.1,::1"
    assert (changed["RAY_AUTH_TOKEN"], changed["RAY_USAGE_STATS_ENABLED"]) == ("mine", "1")
    assert changed["RAY_worker_niceness"] == WORKER_NICENESS
    assert local_variables({"RAY_worker_niceness": "0"})["RAY_worker_niceness"] == "0"
    assert changed["GOMP_SPINCOUNT"] == "10000"
    given_ways = ({"GOMP_SPINCOUNT": "1"}, {"OMP_WAIT_POLICY": "active"})
    assert all("GOMP_SPINCOUNT" not in local_variables(given) for given in given_ways)


def test_names_that_ray_cannot_take():
    ensure_unicode(["/data/été", "/data/a"])
    with pytest.raises(UserError, match=r"/data/été: .*: export PYTHONUTF8=1$"):
        ensure_unicode(["/data/été".encode().decode("ascii", "surrogateescape")])
    with pytest.raises(UserError, match=r"rename it, or start from another folder$"):
        ensure_unicode([os.fsdecode(b"/data/caf\xe9")])
    ensure_unicode(["/data/café"])


def test_a_folder_outside_ascii_in_an_ascii_locale(tmp_path):
    """Refused before anything is started; the remedy of the message works as far as there."""
    folder = tmp_path / "été"
    folder.mkdir()
    write_jsonl(folder / "m.jsonl", [{"id": "a", "prompt": "a star"}])
    ascii_only = environment(LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    command = [WANBATCH, "run", "m.jsonl", "--out", "out"]
    done = subprocess.run(command, cwd=folder, env=ascii_only, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.decode(errors="replace").rstrip().endswith("export PYTHONUTF8=1")
    assert [entry.name for entry in folder.iterdir()] == ["m.jsonl"]
    asked, mended = [sys.executable, "-c", "import os; print(ascii(os.getcwd()))"], ascii_only | {"PYTHONUTF8": "1"}
    ensure_unicode([ast.literal_eval(subprocess.check_output(asked, cwd=folder, env=mended, text=True))])
    with pytest.raises(UserError):
        ensure_unicode([ast.literal_eval(subprocess.check_output(asked, cwd=folder, env=ascii_only, text=True))])


def test_too_few_threads():
    """Others may end theirs: no fault of what the user gave, so that a scheduled tick is started again."""
    ensure_threads({})
    ensure_threads({"user": 4000, "group": 300})
    with pytest.raises(MachineryError, match=r"^60 more threads can be started by this user, .* ulimit -u 4096$"):
        ensure_threads({"group": 300, "user": 60})
    with pytest.raises(MachineryError, match=r"--pids-limit"):
        ensure_threads({"group": -3})


def test_a_user_with_few_threads_and_the_remedy():
    """As another user, since root has no such limit."""
    rights = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *rights, "bash", "-c"]
    limited = [*user, 'ulimit -S -u 60; exec "$0" -c "$1"', sys.executable, FEW_THREADS]
    done = subprocess.run(limited, capture_output=True, text=True)
    if "setpriv" in done.stderr:
        pytest.skip(f"no other user here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip().endswith("ulimit -u 4096")


def test_without_a_loopback_address(tmp_path):
    """In a network of its own, whose loopback interface is down. Ray would wait for minutes."""
    write_jsonl(tmp_path / "m.jsonl", [{"id": "a", "prompt": "a star"}])
    command = ["unshare", "-n", sys.executable, "-c", UNCONNECTED]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    if "unshare" in done.stderr:
        pytest.skip(f"no network of one's own here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("2 ")
    assert "bring the loopback interface up (`ip link set lo up`)" in done.stdout
    assert not (tmp_path / "out").exists()
