"""The package as it is shipped: the same files from a checkout, whose parts are links, and from site-packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import wanbatch
from wanbatch.jobs.cluster.package import shipped_package


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def small_package(folder: Path) -> Path:
    (folder / "elsewhere/jobs/__pycache__").mkdir(parents=True)
    (folder / "elsewhere/jobs/__init__.py").write_text("")
    (folder / "elsewhere/jobs/__pycache__/x.cpython-311.pyc").write_bytes(b"\0")
    (folder / "elsewhere/jobs/data.bin").write_bytes(b"\1\2")
    (folder / "wanbatch").mkdir()
    (folder / "wanbatch/__init__.py").write_text("__version__ = '1'\n")
    (folder / "wanbatch/jobs").symlink_to("../elsewhere/jobs")
    return folder / "wanbatch"


def test_a_checkout_and_site_packages_give_the_same_folder(tmp_path):
    checkout = small_package(tmp_path)
    installed = Path(shutil.copytree(checkout, tmp_path / "site-packages/wanbatch"))
    shipped = shipped_package(checkout, tmp_path / "cache")
    assert shipped.name == "wanbatch"
    assert files_of(shipped) == {
        "__init__.py": b"__version__ = '1'\n",
        "jobs/__init__.py": b"",
        "jobs/data.bin": b"\1\2",
    }
    assert shipped_package(installed, tmp_path / "cache") == shipped
    (installed / "__init__.py").write_text("__version__ = '2'\n")
    assert shipped_package(installed, tmp_path / "cache") != shipped


def test_the_package_itself_can_be_imported_from_where_it_is_kept(tmp_path):
    shipped = shipped_package(cache=tmp_path / "cache")
    code = "import wanbatch.jobs.cluster.submission; print(wanbatch.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(shipped.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(shipped / "__init__.py")
    assert (shipped / "pipeline/tiny/model_index.json").is_file()
    assert Path(wanbatch.__file__).read_bytes() == (shipped / "__init__.py").read_bytes()
