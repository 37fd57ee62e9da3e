"""The probes of `wanbatch doctor` on real limits, disks and folders, and their remedies, which are followed here."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from job_making import environment, write_jsonl
from pydantic import TypeAdapter

from wanbatch.jobs.doctor.check import Finding, Question
from wanbatch.jobs.doctor.registry import CHECKS
from wanbatch.jobs.doctor.runner import run
from wanbatch.manifests.dataset.folder import OutputFolder
from wanbatch.manifests.storage.local import LocalBackend

NAMED = {check.name: check for check in CHECKS}
TWO_PLANS = """
from click.testing import CliRunner
from wanbatch.jobs.cli.main import main
for model in ("owner/wan", "owner/other"):
    done = CliRunner().invoke(main, ["plan", "m.jsonl", "--model", model])
    print(done.exit_code, done.stderr.strip().replace(chr(10), " "))
"""


def probe_command(name: str, *question: object) -> list[str]:
    """What runs a probe in a process of its own, as the doctor does, and prints what it saw."""
    probe, asked = NAMED[name].probe, json.dumps(asdict(Question(*map(str, question))))
    where = f"{probe.__module__}:{probe.__qualname__}"
    return [sys.executable, "-m", "wanbatch.jobs.doctor.probe_process", where, asked]


def judged(name: str, printed: str) -> Finding:
    check = NAMED[name]
    return check.judge(TypeAdapter(check.facts).validate_python(json.loads(printed)))


def found(name: str, *question: object, before: str = "", **changes: str) -> Finding:
    """What a check finds with another environment. before: shell commands that come first, in its process."""
    done = subprocess.run(
        ["bash", "-c", f'{before}\nexec "$@"', "bash", *probe_command(name, *question)],
        env=environment(**changes),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return judged(name, done.stdout)


def here(name: str, **question: object) -> Finding:
    """What a check finds in this process."""
    check = NAMED[name]
    return check.judge(check.probe(Question(**{key: str(value) for key, value in question.items()})))


def output(out: object) -> Finding:
    return here("output", out=out)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system with some options."""
    place = tmp_path / "disk"

    def mount(options: str) -> Path:
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"cannot mount a file system here: {done.stderr.strip()}")
        return place

    yield mount
    subprocess.run(["umount", "-l", place], capture_output=True)


def test_this_machine():
    assert run(NAMED["machine"], Question()).facts["cores"] == len(os.sched_getaffinity(0))
    assert run(NAMED["packages"], Question()).finding.level == "ok"


# ---- limits, locale, settings


def test_limits_and_their_remedies():
    few = found("limits", before="ulimit -n 128")
    assert (few.level, few.remedy) == ("warning", "ulimit -n 4096")
    small = found("limits", before="ulimit -S -f 1000")
    assert (small.level, small.remedy) == ("fault", "ulimit -f unlimited")
    mended = ["ulimit -S -f 1000", small.remedy]
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 4096:
        mended += ["ulimit -S -n 128", few.remedy]
    assert found("limits", before="\n".join(mended)).level == "ok"


def test_a_locale_and_its_remedy():
    posix = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ascii_only = found("locale", **posix)
    assert ascii_only.level == "warning"
    assert ascii_only.remedy == "export PYTHONUTF8=1 (or LC_ALL=C.UTF-8)"
    for way in ("export PYTHONUTF8=1", "export LC_ALL=C.UTF-8"):
        assert found("locale", before=way, **posix).level == "ok"


def test_a_machine_without_time_zones(tmp_path):
    assert found("zones").level == "ok"
    if importlib.util.find_spec("tzdata") is None:
        none = found("zones", PYTHONTZPATH=str(tmp_path))
        assert (none.level, none.remedy) == ("warning", "pip install tzdata")


def test_settings_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANBATCH_REPORT", "off")
    (tmp_path / "wanbatch.toml").write_text("stepps = 4\n")
    wrong = here("settings")
    assert wrong.level == "fault"
    assert wrong.message.startswith("wanbatch.toml: unknown field 'stepps': did you mean steps? ")
    assert wrong.remedy == "mend it there, or remove it"
    (tmp_path / "wanbatch.toml").unlink()
    assert here("settings").level == "ok"
    (tmp_path / "wanbatch.toml").write_text("steps = 4\n")
    good = here("settings")
    assert (good.level, good.message) == ("ok", "wanbatch.toml and variables set report, steps")


# ---- folders of Ray and of caches


def test_a_long_tmpdir_and_its_remedy(tmp_path):
    long = tmp_path / ("long" * 20)
    long.mkdir()
    warned = found("temp", TMPDIR=str(long))
    assert warned.level == "warning"
    assert "is too long for the paths of Ray's sockets" in warned.message
    assert warned.remedy.endswith(", or nothing")
    assert found("temp", before=warned.remedy.partition(",")[0], TMPDIR=str(long)).level == "ok"


def test_little_shared_memory():
    """In a mount namespace of its own."""

    def with_size(size: str) -> Finding:
        code = f'mount -t tmpfs -o size={size} none /dev/shm && exec "$@"'
        command = ["unshare", "-m", "bash", "-c", code, "bash", *probe_command("shm")]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        if done.returncode != 0 and ("unshare" in done.stderr or "mount" in done.stderr):
            pytest.skip(f"no mounts of one's own here: {done.stderr.strip()}")
        return judged("shm", done.stdout)

    finding = with_size("16m")
    assert finding.level == "warning"
    assert "16 MB free in /dev/shm" in finding.message
    size = re.search(r"docker run --shm-size=(\w+), or remove what fills it", finding.remedy)[1]
    assert with_size(size).level == "ok"


def test_a_home_that_cannot_be_written_to(tmp_path):
    unset = "unset HF_HOME HF_HUB_CACHE XDG_CACHE_HOME"
    wrong = found("caches", before=unset, HOME="/proc/1/nowhere")
    assert wrong.level == "warning"
    remedy = wrong.remedy.replace("/a/folder/that/can/be/written", str(tmp_path))
    assert remedy == f"export HF_HOME={tmp_path} XDG_CACHE_HOME={tmp_path}"
    assert found("caches", before=f"{unset}\n{remedy}", HOME="/proc/1/nowhere").level == "ok"


# ---- output folders


@pytest.mark.parametrize("name", ["out", "not/yet/there"])
def test_an_output_folder_is_tried_and_left_as_it_was(tmp_path, name):
    (tmp_path / "mine.txt").write_text("mine")
    assert output(tmp_path / name).level == "ok"
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_and_one_with_files_of_others(tmp_path):
    assert output(tmp_path).level == "ok"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine.txt").write_text("mine")
    foreign = output(tmp_path)
    assert foreign.level == "fault"
    assert "holds files that are not of a dataset" in foreign.message
    assert foreign.remedy == "give a new or an empty folder as --out"
    (tmp_path / "empty").mkdir()
    assert output(tmp_path / "empty").level == output(tmp_path / "new").level == "ok"
    (tmp_path / "empty").rmdir()
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_with_a_run_is_left_as_it_was(tmp_path):
    OutputFolder.open(tmp_path / "out", {}).close()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert output(tmp_path / "out").level == "ok"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    OutputFolder.open(tmp_path / "out", {}).close()


def test_what_an_interrupted_check_leaves_is_no_hindrance(tmp_path):
    left = tmp_path / "out" / "_wanbatch" / "doctor-0123abcd" / "data"
    left.mkdir(parents=True)
    (left / "a").write_bytes(b"x")
    assert output(tmp_path / "out").level == "ok"
    OutputFolder.open(tmp_path / "out", {}).close()


def test_a_folder_that_another_run_fills(tmp_path):
    backend = LocalBackend(tmp_path / "out")
    backend.make_folders(["_wanbatch"])
    backend.acquire()
    held = output(tmp_path / "out")
    assert held.level == "warning"
    assert f"a run (pid {os.getpid()} on " in held.message
    assert held.remedy == "wait for it, stop it, or give another --out"
    assert output(tmp_path / "other").level == "ok"
    backend.release()
    assert output(tmp_path / "out").level == "ok"


def test_disks_that_cannot_be_written_to(small_disk, tmp_path):
    disk = small_disk("ro")
    wrong = output(disk / "out")
    assert wrong.level == "fault"
    assert "making folders fails: Read-only file system" in wrong.message
    assert wrong.remedy == "mend its permissions, mount or disk, or give another --out"
    assert output(tmp_path / "other").level == "ok"
    subprocess.run(["mount", "-o", "remount,rw,size=8m", disk], check=True)
    full = output(disk / "out")
    assert (full.level, full.message) == ("fault", f"{disk}: 8 MB free")
    assert full.remedy == "remove files there, or give another --out"
    subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
    assert output(disk / "out").level == "warning"
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("out", ["mine.txt", "mine.txt/out", "ftp://host/out"])
def test_what_can_be_no_output_folder(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    wrong = output(out)
    assert wrong.level == "fault"
    assert out.partition("/")[0] in wrong.message
    assert wrong.remedy.endswith("give another --out")
    assert output(tmp_path / "other").level == "ok"


# ---- models


def test_a_model_folder_without_weights(model_folder, tmp_path):
    assert here("model", model=model_folder).level == "ok"
    shutil.copytree(model_folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    wrong = here("model", model=tmp_path / "model")
    assert wrong.level == "fault"
    assert "no .safetensors file" in wrong.message
    assert wrong.remedy == "give another --model, or mend what it names"
    for file in model_folder.rglob("*.safetensors"):
        shutil.copy(file, tmp_path / "model" / file.relative_to(model_folder))
    assert here("model", model=tmp_path / "model").level == "ok"


@pytest.fixture
def hub(model_folder, tmp_path) -> Path:
    """A cache of the hub, with the configuration of `owner/wan` and its weights."""
    repository = tmp_path / "hub" / "models--owner--wan"
    shutil.copytree(model_folder, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    return tmp_path


def test_a_hub_model_offline(hub):
    offline = {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1"}
    cached = found("model", "", "owner/wan", **offline)
    assert cached.level == "ok"
    assert "revision aaaaaaaaaaaa, all weights are here" in cached.message
    for file in (hub / "hub").rglob("*.safetensors"):
        file.unlink()
    wrong = found("model", "", "owner/wan", **offline)
    assert wrong.level == "fault"
    assert "HF_HUB_OFFLINE forbids to fetch them" in wrong.message
    unknown = found("model", "", "owner/other", **offline)
    assert unknown.level == "fault"
    assert "HF_HUB_OFFLINE" in unknown.message


def test_a_plan_with_a_hub_model_offline(hub):
    """What the doctor says is what the command does."""
    write_jsonl(hub / "m.jsonl", [{"prompt": "a star"}])
    command, given = [sys.executable, "-c", TWO_PLANS], environment(HF_HOME=str(hub))
    done = subprocess.run(command, cwd=hub, env=given, capture_output=True, text=True)
    planned, refused = done.stdout.splitlines()
    assert planned.startswith("0"), planned
    assert refused.startswith("2 ")
    assert f"owner/other (revision main) is not in the cache {hub}/hub, and HF_HUB_OFFLINE forbids" in refused
