"""Parquet footers are read by a process of their own, which may crash, stop or hang without harm."""

from __future__ import annotations

import os
import signal
import threading

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wanbatch.errors import UserError
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.storage import footer_check
from wanbatch.manifests.storage.footer_check import FooterCheck
from wanbatch.manifests.storage.parquet_limits import FOOTER_FROM, read_footer


@pytest.fixture
def footer(tmp_path) -> bytes:
    pq.write_table(pa.table({"prompt": ["x", "y"]}), tmp_path / "m.parquet")
    return read_footer(str(tmp_path / "m.parquet"))[FOOTER_FROM:]


def test_good_footers_are_read_by_one_process(footer):
    with FooterCheck() as check:
        check.require_readable(footer)
        first = check.pid
        check.require_readable(footer)
        assert check.pid == first
        assert psutil.pid_exists(first)
    assert not psutil.pid_exists(first)


def test_a_process_that_ends_means_damage_and_the_next_footer_gets_another(footer):
    with FooterCheck() as check:
        check.require_readable(footer)
        os.kill(check.pid, signal.SIGKILL)
        with pytest.raises(OSError, match="metadata of a column is damaged"):
            check.require_readable(footer)
        check.require_readable(footer)


def test_a_process_that_stops_is_given_up(footer):
    """A copy of a process with threads may wait for ever for a lock that one of them held."""
    with FooterCheck(timeout=30) as check:
        check.require_readable(footer)
    with FooterCheck(timeout=1) as check:
        check._process = footer_check._start()
        os.kill(check.pid, signal.SIGSTOP)
        with pytest.raises(OSError, match="not read within 1 s"):
            check.require_readable(footer * 10_000)  # more than a pipe takes
        assert check.pid is None


def test_a_manifest_that_takes_too_long_is_refused_by_name(tmp_path, monkeypatch):
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "slow.parquet")
    monkeypatch.setattr(footer_check, "_shared", FooterCheck(timeout=0.001))
    with pytest.raises(UserError, match=r"slow\.parquet: .*not read within 0\.001 s"):
        read_manifest(tmp_path / "slow.parquet")


def test_manifests_are_read_beside_threads_that_hold_locks(tmp_path):
    """As in a server or a notebook, where other threads allocate and log all the time."""
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "m.parquet")
    done = threading.Event()

    def busy() -> None:
        while not done.is_set():
            pa.array([str(number) for number in range(1000)]).dictionary_encode()

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            assert len(read_manifest(tmp_path / "m.parquet")) == 1
    finally:
        done.set()
        for thread in threads:
            thread.join()
