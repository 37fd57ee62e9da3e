"""A Ray of one's own: what it is started with, and what neither the environment nor `uv run` change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from job_making import WANBATCH, environment, rows_by_id, write_jsonl

from wanbatch.errors import UserError
from wanbatch.jobs.driver.ray_session import (
    WORKER_NICENESS,
    ensure_threads,
    ensure_unicode,
    local_variables,
)

UV = Path(sys.executable).parent / "uv"
DEAD = "http://127.0.0.1:9"
TWO_SESSIONS = """
import json, os, sys
import psutil, ray
from wanbatch.jobs.driver.ray_session import local_ray, run_in_a_worker
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
    assert ours() == before
print(json.dumps(found))
"""

DYING = """
import os, threading
import ray
from wanbatch.jobs.driver.ray_session import local_ray
worker, told = ray._private.worker, threading.Event()
printing = worker.print_worker_logs
def noted(*given, **more):
    printing(*given, **more)
    told.set()
worker.print_worker_logs = noted
with local_ray():
    try:
        ray.get(ray.remote(max_retries=0)(lambda: os._exit(1)).remote())
    except ray.exceptions.WorkerCrashedError:
        print("died")
    assert told.wait(60)
assert worker._worker_logs_enabled
"""


def test_sessions_one_after_the_other_listen_on_this_machine_alone(tmp_path):
    """In a process of its own: this one is connected to the Ray of these tests."""
    home = tmp_path / "home"
    home.mkdir()
    changed = environment(HOME=str(home), TMPDIR="/tmp")
    done = subprocess.run([sys.executable, "-c", TWO_SESSIONS], env=changed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout.splitlines()[-1])
    for session in (first, second):
        assert session["address"] == "127.0.0.1"
        assert {address.removeprefix("::ffff:") for address in session["heard"]} == {"127.0.0.1"}
    assert first["token"] != second["token"]
    assert list(home.rglob("*token*")) == []


def test_what_ray_says_of_a_process_that_died_is_no_part_of_the_output(tmp_path):
    """Ray tells the driver of it, which would print it to standard output, between the lines of JSON."""
    changed = environment(HOME=str(tmp_path), TMPDIR="/tmp")
    done = subprocess.run([sys.executable, "-c", DYING], env=changed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "died\n"


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
    code = (
        "import os, sys; from wanbatch.jobs.driver.ray_session import ensure_unicode; ensure_unicode([os.getcwd()])"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=ascii_only | {"PYTHONUTF8": "1"}, check=True)


def test_too_few_threads():
    ensure_threads({})
    ensure_threads({"user": 4000, "group": 300})
    with pytest.raises(UserError, match=r"^60 more threads can be started by this user, .* ulimit -u 4096$"):
        ensure_threads({"group": 300, "user": 60})
    with pytest.raises(UserError, match=r"--pids-limit"):
        ensure_threads({"group": -3})


def test_a_user_with_few_threads_and_the_remedy():
    """As another user, since root has no such limit."""
    code = (
        "from wanbatch.machine import room_for_threads; from wanbatch.jobs.driver.ray_session import ensure_threads\n"
        "ensure_threads(room_for_threads())"
    )
    rights = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *rights, "bash", "-c"]
    few, more = (
        subprocess.run(
            [*user, f'ulimit -S -u {n}; exec "$0" -c "$1"', sys.executable, code], capture_output=True, text=True
        )
        for n in (60, 4096)
    )
    if "setpriv" in few.stderr:
        pytest.skip(f"no other user here: {few.stderr.strip()}")
    assert "UserError" in few.stderr
    assert few.stderr.rstrip().endswith("ulimit -u 4096")
    assert (more.returncode, more.stderr) == (0, "")


def test_without_a_loopback_address(tmp_path):
    """In a network of its own, whose loopback interface is down. Ray would wait for minutes."""
    write_jsonl(tmp_path / "m.jsonl", [{"id": "a", "prompt": "a star"}])
    command = ["unshare", "-n", WANBATCH, "run", "m.jsonl", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    if "unshare" in done.stderr:
        pytest.skip(f"no network of one's own here: {done.stderr.strip()}")
    assert done.returncode == 2
    assert "bring the loopback interface up (`ip link set lo up`)" in done.stderr
    assert not (tmp_path / "out").exists()
    check = "from wanbatch.jobs.driver.ray_session import ensure_loopback; ensure_loopback()"
    code = f"ip link set lo up && exec {sys.executable} -c '{check}'"
    done = subprocess.run(["unshare", "-n", "bash", "-c", code], env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") or "ip: command not found" in done.stderr
