"""Where Ray keeps its files: TMPDIR where it can be used, a short folder elsewhere where it cannot."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.driver import ray_folder
from wanbatch.jobs.driver.ray_folder import FREE_BYTES, LONGEST_FOLDER, FolderFacts, choose, look_at, session_folder

GOOD = FolderFacts("/var/tmp", 17, FREE_BYTES)
LONG = FolderFacts("/a/long/one", LONGEST_FOLDER + 1)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path that is short enough for Ray."""
    folder = Path("/tmp") / f"wbt{os.getpid()}"
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.fixture
def tmpdir(monkeypatch) -> Callable[[Path], None]:
    """Sets TMPDIR, and takes RAY_TMPDIR away."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    return lambda folder: monkeypatch.setenv("TMPDIR", str(folder))


def test_the_longest_path_of_rays_sockets_fits():
    """The name of a session has the time in microseconds and the number of the driver's process."""
    session = "/session_2026-11-26_16-55-16_503762_4194304/sockets/"
    assert LONGEST_FOLDER + len(session) + len("plasma_store.1") <= 107
    assert len("/tmp/ray") <= LONGEST_FOLDER


def test_the_first_that_can_be_used_is_chosen():
    assert choose(GOOD, "TMPDIR", [LONG]) is GOOD
    assert choose(LONG, "TMPDIR", [FolderFacts("/tmp", 12, 0), GOOD]) is GOOD


def test_none_can_be_used():
    full, refused = FolderFacts("/tmp", 12, 5 << 20), FolderFacts("/dev/shm", 12, error="cannot be used (Oh no)")
    with pytest.raises(MachineryError) as caught:
        choose(LONG, "TMPDIR", [full, refused])
    told = str(caught.value)
    assert "TMPDIR=/a/long/one is too long for the paths of Ray's sockets" in told
    assert "/tmp has 5 MB free, of 32 MB that Ray needs; /dev/shm cannot be used (Oh no)" in told
    assert f"set TMPDIR to a folder on a local disk with a path of at most {LONGEST_FOLDER - 4} bytes" in told
    with pytest.raises(UserError, match="no folder for Ray's files"):
        choose(LONG, "TMPDIR", [refused])


def test_a_short_tmpdir_is_left_to_ray(short, tmpdir):
    tmpdir(short)
    with session_folder() as folder:
        assert folder is None
    assert list(short.iterdir()) == []


def test_the_remedy_of_the_message_works(short, tmpdir):
    """A folder with a path as long as the message allows."""
    allowed = short / ("x" * (LONGEST_FOLDER - len("/ray") - len(os.fsencode(short)) - 1))
    allowed.mkdir()
    tmpdir(allowed)
    with session_folder() as folder:
        assert folder is None


def test_a_long_tmpdir_is_replaced_and_what_replaces_it_is_removed(tmp_path, tmpdir, caplog):
    long = tmp_path / "people" / "poebh" / "slurm_jobdir" / "1355700"
    long.mkdir(parents=True)
    tmpdir(long)
    with caplog.at_level(logging.WARNING), session_folder() as folder:
        assert folder is not None
        assert len(folder) <= LONGEST_FOLDER
        (Path(folder) / "session").mkdir()
    assert not Path(folder).exists()
    [record] = caplog.records
    assert f"TMPDIR={long} is too long" in record.message
    assert folder in record.message


def test_a_tmpdir_that_is_not_there(tmpdir, short):
    tmpdir(short / "none")
    with session_folder() as folder:
        assert folder is not None
    assert not (short / "none").exists()


@pytest.mark.parametrize(
    ("options", "told", "lacks_room"),
    [
        ("size=1m", "has 1 MB free, of 32 MB", True),
        ("nr_inodes=1", "cannot be used (No space left on device)", True),
        ("ro", "cannot be used (Read-only file system)", False),
    ],
)
def test_a_disk_that_is_full_or_read_only(short, options, told, lacks_room):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", short], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a file system here: {mounted.stderr.strip()}")
    try:
        found = look_at(str(short), own=False)
        assert found.fault.startswith(told)
        assert found.lacks_room == lacks_room
    finally:
        subprocess.run(["umount", "-l", short], check=True)


def test_shared_memory_that_cannot_be_written_to(tmpdir, short, monkeypatch):
    tmpdir(short)
    assert ray_folder.object_store_folder(None) is None
    monkeypatch.setattr(ray_folder, "SHARED_MEMORY", "/proc/1/nowhere")
    assert ray_folder.object_store_folder(None) == str(short)
    assert ray_folder.object_store_folder("/tmp/session") == "/tmp/session"


def test_a_file_system_without_sockets(short, monkeypatch):
    def refuse(*address: object) -> None:
        raise OSError(95, "Operation not supported")

    class NoSocket(ray_folder.socket.socket):
        bind = refuse

    monkeypatch.setattr(ray_folder.socket, "socket", NoSocket)
    assert look_at(str(short), own=True).fault == "cannot be used (Operation not supported)"
