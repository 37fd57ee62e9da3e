"""A release holds everything that it needs: the source archive and the wheel that is built from it.

`make release-check` runs these tests with the slow one, which installs the wheel in an empty environment.
"""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import wanbatch

ROOT = Path(__file__).parents[2]
FOLDERS = ("manifests", "pipeline", "engines", "jobs")
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "src", *FOLDERS)
UNWANTED = shutil.ignore_patterns("__pycache__", "*.egg-info")


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command with only these Python settings; return what it printed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WANBATCH_"))}
    done = subprocess.run(
        command, cwd=cwd, env={**inherited, **variables}, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def needed() -> set[str]:
    """What the package consists of, by the names that the files have once they are installed."""
    files = [f"wanbatch/{path.name}" for path in (ROOT / "src" / "wanbatch").iterdir() if path.is_file()]
    for folder in FOLDERS:
        files += [f"wanbatch/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.py")]
    files += [f"wanbatch/{path.relative_to(ROOT)}" for path in (ROOT / "pipeline/tiny").rglob("*") if path.is_file()]
    files += ["wanbatch/pipeline/training/toy/artwork.webp", "wanbatch/pipeline/sound/phrases.toml"]
    files.append("wanbatch/jobs/planning/device_speeds.json")
    files += [f"wanbatch/{path.relative_to(ROOT)}" for path in (ROOT / "jobs").glob("**/templates/*")]
    files += [f"wanbatch/{path.relative_to(ROOT)}" for path in (ROOT / "jobs/augment/recipes").glob("*.toml")]
    files += [f"wanbatch/{path.relative_to(ROOT)}" for path in (ROOT / "jobs/cluster/deploy").iterdir()]
    return {name for name in files if "__pycache__" not in name}


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> Path:
    """A folder with the source archive and the wheel, built from a copy without leftovers of other builds."""
    copy, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=UNWANTED)
        else:
            shutil.copy(ROOT / name, copy / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", made, cwd=copy)
    return made


@pytest.fixture(scope="module")
def wheel(archives) -> Path:
    return archives / f"wanbatch-{wanbatch.__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    """The wheel, unpacked into a folder."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_source_archive_holds_the_four_folders_as_real_files(archives):
    with tarfile.open(archives / f"wanbatch-{wanbatch.__version__}.tar.gz") as archive:
        entries = archive.getmembers()
    prefix = f"wanbatch-{wanbatch.__version__}/"
    assert [one.name for one in entries if one.issym() or one.islnk()] == []
    assert {f"src/{name}" for name in needed()} <= {one.name.removeprefix(prefix) for one in entries if one.isfile()}


def test_the_wheel_holds_every_module_the_small_model_and_nothing_else(unpacked):
    held = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert "wanbatch/py.typed" in held
    assert f"wanbatch-{wanbatch.__version__}.dist-info/licenses/NOTICE" in held
    assert "wanbatch/pipeline/tiny/transformer/diffusion_pytorch_model.safetensors" in held
    assert {name for name in held if not name.startswith(f"wanbatch-{wanbatch.__version__}.dist-info/")} == needed()


def test_the_version_is_said_in_one_place(unpacked):
    metadata = email.message_from_string(
        (unpacked / f"wanbatch-{wanbatch.__version__}.dist-info" / "METADATA").read_text(encoding="utf-8")
    )
    assert metadata["Version"] == wanbatch.__version__
    assert wanbatch.__version__ not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_changelog_begins_with_what_is_not_released_or_with_this_version():
    first = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first is not None
    assert re.fullmatch(rf"Unreleased|{re.escape(wanbatch.__version__)} \(\d{{4}}-\d\d-\d\d\)", first[1])


def test_the_unpacked_wheel_runs_without_the_source_tree(unpacked, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    where = "import wanbatch.jobs.cli.main as main; print(main.__file__)"
    printed = run(sys.executable, "-c", where, cwd=tmp_path, PYTHONPATH=str(unpacked))
    assert Path(printed.strip()).is_relative_to(unpacked)
    command = [sys.executable, "-m", "wanbatch.jobs.cli"]
    assert "Usage:" in run(*command, "--help", cwd=tmp_path, PYTHONPATH=str(unpacked))
    # `plan` reads the small model's configuration, which is in the wheel.
    assert "20" in run(*command, "plan", "examples/quickstart.jsonl", cwd=tmp_path, PYTHONPATH=str(unpacked))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_installs_in_an_empty_environment(wheel, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    venv.create(tmp_path / "venv", with_pip=True)
    pip = [tmp_path / "venv/bin/python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    run(*pip, torch, cwd=tmp_path)
    run(*pip, wheel, cwd=tmp_path)
    command = tmp_path / "venv/bin/wanbatch"
    assert "Usage:" in run(command, "--help", cwd=tmp_path)
    run(command, "run", "examples/quickstart.jsonl", "--out", "out", cwd=tmp_path)
    assert list((tmp_path / "out" / "data").glob("*.parquet"))
