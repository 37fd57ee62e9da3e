"""Parquet footers are read by another process first, because damage in them can end the process that reads them.

pyarrow ends the process instead of raising (26.0.1: `RowGroupMetaData.column` lets an exception of C++ through). The
other process is this file, run by itself; it is started anew, since a copy of a process with threads may hang.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import BinaryIO

TIMEOUT_SECONDS = 120.0
"""For one footer, of at most 64 MB, and for starting the process."""
LENGTH_BYTES = 8
READ = b"."


class FooterCheck:
    """A process that reads footers, for one thread at a time. Started by the first one; a context manager."""

    def __init__(self, timeout: float = TIMEOUT_SECONDS):
        """Check footers. timeout: seconds that one may take."""
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> FooterCheck:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The id of the process; None if it does not run."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def require_readable(self, footer: bytes) -> None:
        """Check that the metadata of every column can be read.

        Args:
            footer: of a Parquet file, from the metadata to the end of the file.

        Raises:
            OSError: Reading it ends a process, or takes too long.
        """
        process = self._process = self._process or _start()
        assert process.stdin is not None
        assert process.stdout is not None
        expired = threading.Event()

        def give_up() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(self._timeout, give_up)
        timer.start()
        try:
            with suppress(BrokenPipeError):  # it has ended: its answer is missing, too
                process.stdin.write(len(footer).to_bytes(LENGTH_BYTES, "little") + footer)
                process.stdin.flush()
            answer = process.stdout.read(len(READ))
        finally:
            timer.cancel()
        if answer != READ:
            self.close()
            raise OSError(
                f"its metadata was not read within {self._timeout:g} s"
                if expired.is_set()
                else "the metadata of a column is damaged"
            )


_shared, _sharing = FooterCheck(), threading.Lock()
atexit.register(_shared.close)


def require_readable(footer: bytes) -> None:
    """Check a footer as `FooterCheck` does, by one process that all manifests share, since starting it takes a while.

    Args:
        footer: of a Parquet file, from the metadata to the end of the file.

    Raises:
        OSError: Reading it ends a process, or takes too long.
    """
    with _sharing:
        _shared.require_readable(footer)


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", os.path.abspath(__file__)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _answer(requests: BinaryIO, answers: BinaryIO) -> None:
    """Read footers and answer each. What pyarrow raises is no such damage: whoever asks meets it, too."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    while length := requests.read(LENGTH_BYTES):
        footer = requests.read(int.from_bytes(length, "little"))
        with suppress(Exception):
            metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + footer))
            for group in (metadata.row_group(index) for index in range(metadata.num_row_groups)):
                for column in range(group.num_columns):
                    group.column(column)
        answers.write(READ)
        answers.flush()


if __name__ == "__main__":
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _answer(sys.stdin.buffer, sys.stdout.buffer)
