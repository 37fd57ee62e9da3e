"""What schedulers are given does what it should: the entrypoint of a RayJob, a batch script; the Dockerfile."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from job_making import write_jsonl
from kubernetes_objects import check_object

from wanbatch.jobs.cli.main import main
from wanbatch.jobs.cluster.rayjob import rayjob
from wanbatch.jobs.cluster.slurm import slurm_script
from wanbatch.jobs.cluster.submission import Submission

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "jobs/cluster/deploy"
HARD = 'it\'s a "cup"; $(reboot) `x` && {a}\nnext'
SUBMISSION = Submission(
    "s3://b/m.jsonl", "s3://b/out", ("--prompt", HARD, "--steps", "4"), variables={"AWS_REGION": "eu west"}
)


@pytest.fixture
def stubs(tmp_path) -> Path:
    """A folder of commands that stand for those of a Slurm node, for PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    write_command(folder / "scontrol", '[ "$1 $2 $3" = "show hostnames n[1-2]" ] && printf "n1\\nn2\\n"')
    write_command(folder / "srun", 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"')
    write_command(
        folder / "ray", 'echo "$1 $2 $3 $4 $5 $RAY_AUTH_MODE ${#RAY_AUTH_TOKEN} $AWS_REGION"\nshift 6\n"$@"'
    )
    write_command(folder / "wanbatch", 'printf "%s\\0" "$@" > "$SEEN"\nexit 6')
    write_command(folder / "sleep", 'echo "$1" >> "$SEEN.sleeps"')
    write_command(folder / "python", f'exec {shlex.quote(sys.executable)} "$@"')
    return folder


def write_command(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (3, 0), (6, 6), (75, 75)])
def test_quarantined_rows_are_no_failure_that_kuberay_would_repeat(stubs, tmp_path, code, ends):
    write_command(stubs / "wanbatch", f'printf "%s\\0" "$@" > "$SEEN"\nexit {code}')
    entrypoint = rayjob(SUBMISSION, "i", "2.60.0", 1, 0)["spec"]["entrypoint"]
    done = subprocess.run(entrypoint, shell=True, env=node_environment(stubs, tmp_path))
    assert done.returncode == ends
    assert seen_command(tmp_path) == [*SUBMISSION.command, *SUBMISSION.on_this_cluster]
    assert not (tmp_path / "seen.sleeps").exists()


@pytest.mark.parametrize(("tries", "ends", "sleeps"), [(2, 0, ["60", "60"]), (9, 4, ["60", "60", "60", "0"])])
def test_a_folder_that_a_lost_driver_still_holds_uses_up_no_retry_of_kuberay(stubs, tmp_path, tries, ends, sleeps):
    count = f'echo >> "$SEEN.tries"; [ $(wc -l < "$SEEN.tries") -gt {tries} ] || exit 4'
    write_command(stubs / "wanbatch", count)
    entrypoint = rayjob(SUBMISSION, "i", "2.60.0", 1, 0)["spec"]["entrypoint"]
    done = subprocess.run(entrypoint, shell=True, env=node_environment(stubs, tmp_path))
    assert done.returncode == ends
    assert (tmp_path / "seen.sleeps").read_text().split() == sleeps


def test_a_batch_script_is_one_that_shells_and_their_checker_take(tmp_path):
    script = tmp_path / "job.sh"
    script.write_text(slurm_script(SUBMISSION, nodes=4, gpus_per_node=8))
    subprocess.run(["bash", "-n", script], check=True)
    checker = Path(sys.executable).parent / "shellcheck"
    found = subprocess.run([checker, script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    head = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --nodes=4", "#SBATCH --gpus-per-node=8", "#SBATCH --ntasks-per-node=1"} <= set(head)
    assert "gpus-per-node" not in slurm_script(SUBMISSION, nodes=1, gpus_per_node=0)


def test_a_batch_script_runs_the_command_on_ray_and_ends_with_its_code(stubs, tmp_path):
    script = slurm_script(SUBMISSION, nodes=2, gpus_per_node=8)
    environment = node_environment(stubs, tmp_path)
    environment |= {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "10001", "SLURM_JOB_NUM_NODES": "2"}
    done = subprocess.run(["bash"], input=script, text=True, env=environment, capture_output=True)
    assert done.returncode == 6, done.stderr
    assert done.stdout == "symmetric-run --address n1:20001 --min-nodes 1 token 64 eu west\n"
    assert seen_command(tmp_path) == [*SUBMISSION.command, *SUBMISSION.on_this_cluster]


@pytest.mark.parametrize("folder", ["of its own", ""])
def test_a_batch_script_runs_the_interpreter_that_it_is_told_and_the_ray_beside_it(stubs, tmp_path, folder):
    own = tmp_path / folder if folder else stubs
    own.mkdir(exist_ok=True)
    (stubs / "python").unlink()
    (stubs / "wanbatch").unlink()
    (stubs / "ray").rename(own / "ray")
    run = 'printf "%s\\0" "$@" > "$SEEN"; exit 6'
    write_command(own / "python3", f'[ "$1" = -c ] && exec {shlex.quote(sys.executable)} "$@"\n{run}')
    python = str(own / "python3") if folder else "python3"
    script = slurm_script(SUBMISSION, nodes=2, gpus_per_node=8, python=python)
    environment = node_environment(stubs, tmp_path)
    environment |= {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "10001", "SLURM_JOB_NUM_NODES": "2"}
    done = subprocess.run(["bash"], input=script, text=True, env=environment, capture_output=True)
    assert done.returncode == 6, done.stderr
    assert "token 64" in done.stdout
    assert seen_command(tmp_path) == ["-m", "wanbatch.jobs.cli", *SUBMISSION.command, *SUBMISSION.on_this_cluster]
    checker = Path(sys.executable).parent / "shellcheck"
    found = subprocess.run([checker, "-"], input=script, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_a_batch_script_whose_ray_does_not_start_is_no_success(stubs, tmp_path):
    """`ray symmetric-run` ends with 0 then."""
    write_command(stubs / "ray", "echo 'Failed to start Ray'")
    environment = node_environment(stubs, tmp_path) | {"TMPDIR": str(tmp_path)}
    environment |= {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "10001", "SLURM_JOB_NUM_NODES": "2"}
    script = slurm_script(SUBMISSION, nodes=2, gpus_per_node=8)
    done = subprocess.run(["bash"], input=script, text=True, env=environment, capture_output=True)
    assert done.returncode == 75
    assert "Ray did not start" in done.stderr
    assert not (tmp_path / "seen").exists()
    assert not list(tmp_path.glob("tmp.*"))


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a network and processes of its own need root")
@pytest.mark.timeout(300)
def test_a_batch_script_on_a_real_ray(stubs, tmp_path):
    """In namespaces of its own, since `ray symmetric-run` stops every Ray of the machine in the end."""
    for name in ("ray", "wanbatch", "sleep"):
        (stubs / name).unlink()
    write_command(stubs / "scontrol", "echo 127.0.0.1")
    rows = [{"id": "a", "prompt": "a cup"}, {"id": "b", "image": "no.png", "creativity": 0}]
    manifest, flags = write_jsonl(tmp_path / "m.jsonl", rows), ("--steps", "1", "--width", "32", "--height", "32")
    script = slurm_script(Submission(str(manifest), str(tmp_path / "out"), flags), nodes=1, gpus_per_node=0)
    environment = node_environment(stubs, tmp_path)
    environment["PATH"] = f"{stubs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment |= {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "HOME": str(tmp_path)}
    environment |= {"SLURM_JOB_NODELIST": "n1", "SLURM_JOB_ID": "10001", "SLURM_JOB_NUM_NODES": "1"}
    alone = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--net", "--kill-child", "sh", "-c"]
    own = 'ip link set lo up && mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && exec bash "$0"'
    (tmp_path / "job.sh").write_text(script)
    done = subprocess.run([*alone, own, tmp_path / "job.sh"], text=True, env=environment, capture_output=True)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "1 of 2 pictures made" in done.stdout + done.stderr
    assert (tmp_path / "out/report.html").exists()


def test_the_dockerfile_has_nothing_that_its_linter_warns_of():
    found = subprocess.run(
        [Path(sys.executable).parent / "hadolint", DEPLOY / "Dockerfile"], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_dockerfile_copies_what_there_is_and_all_that_the_package_is_made_of():
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = {
        name for line in lines if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]
    }
    assert all((ROOT / name).exists() for name in copied)
    linked = {path.name for path in (ROOT / "src/wanbatch").iterdir() if path.is_symlink()}
    assert {*linked, "src", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "NOTICE"} == copied
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in kept if line.startswith("!")} == copied


def test_the_command_prints_what_schedulers_take_and_reaches_for_no_cluster(tmp_path):
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"prompt": "a cup"}])
    words = ["submit", str(manifest), "--out", "s3://b/out", "--steps", "4", "--nodes", "3"]
    done = CliRunner().invoke(main, [*words, "--emit", "rayjob", "--image", "i:1"])
    assert (done.exit_code, "every node must see it" in done.stderr) == (0, True)
    check_object(yaml.safe_load(done.stdout))
    done = CliRunner().invoke(main, [*words, "--emit", "slurm"])
    assert done.exit_code == 0
    assert "#SBATCH --nodes=3" in done.stdout
    done = CliRunner().invoke(main, [*words, "--emit", "slurm", "--python", "/shared/venv/bin/python"])
    assert "\nPATH=/shared/venv/bin:$PATH\n" in done.stdout
    assert "/shared/venv/bin/python -m wanbatch.jobs.cli run " in done.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--nodes", "4"],
            "--nodes plays no part without --emit: drop --nodes, give --emit rayjob or give --emit slurm",
        ),
        (
            ["--gpus-per-node", "8"],
            "--gpus-per-node plays no part without --emit: drop --gpus-per-node, give --emit",
        ),
        (["--image", "i:1"], "--image plays no part without --emit: drop --image or give --emit rayjob"),
        (
            ["--emit", "slurm", "--image", "i:1"],
            "--image plays no part with --emit slurm: drop --image or give --emit rayjob",
        ),
        (
            ["--emit", "rayjob", "--python", "/x/python"],
            "--python plays no part with --emit rayjob: drop --python, drop --emit or give --emit slurm",
        ),
        *(
            (["--emit", kind, flag, *more], f"{flag} plays no part with --emit {kind}: drop {flag} or drop --emit")
            for kind in ("rayjob", "slurm")
            for flag, *more in (["--detach"], ["--json"], ["--address", "http://h:8265"])
        ),
    ],
)
def test_flags_of_what_is_printed_are_refused_where_they_would_be_ignored(tmp_path, flags, said):
    manifest = write_jsonl(tmp_path / "m.jsonl", [{"prompt": "a cup"}])
    done = CliRunner().invoke(main, ["submit", str(manifest), "--out", "s3://b/out", *flags])
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr
    assert not done.stdout


def node_environment(stubs: Path, tmp_path: Path) -> dict[str, str]:
    return {"PATH": f"{stubs}:{os.defpath}", "SEEN": str(tmp_path / "seen")}


def seen_command(tmp_path: Path) -> list[str]:
    """The arguments that the stub of `wanbatch` was called with."""
    return (tmp_path / "seen").read_text().split("\0")[:-1]
