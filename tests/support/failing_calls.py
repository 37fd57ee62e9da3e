"""System calls that fail: compiles failing_calls.c, and speaks to it inside a process that was started with it."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KINDS = {
    "open": 1,
    "stat": 2,
    "read": 4,
    "list": 8,
    "rename": 16,
    "link": 32,
    "unlink": 64,
    "fsync": 128,
    "write": 256,
}
"""Groups of calls; `stat` has `lstat` and `fstat`, `list` has `opendir` and `readdir`."""

ANY = "any"


def compiled(folder: Path) -> Path:
    """The library for LD_PRELOAD, built in a folder."""
    library = folder / "failing_calls.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return library


class FailingCalls:
    """The library that this process was started with."""

    def __init__(self) -> None:
        """Raises AttributeError if this process was started without it."""
        self._library = ctypes.CDLL(None)
        self._library.fault_seen.restype = ctypes.c_long
        self._library.fault_victim.restype = ctypes.c_char_p

    def arm(self, below: Path, kind: str, nth: int, code: int) -> None:
        """From now on, count the calls of a kind on files below a folder, and let the Nth one fail (0: none).

        kind: one of `KINDS`, or `ANY`. code: the `errno` that it fails with.
        """
        kinds = sum(KINDS.values()) if kind == ANY else KINDS[kind]
        self._library.fault_arm(bytes(below), ctypes.c_int(kinds), ctypes.c_long(nth), ctypes.c_int(code))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Calls go through, uncounted."""
        self._library.fault_pause(1)
        try:
            yield
        finally:
            self._library.fault_pause(0)

    @property
    def seen(self) -> int:
        """How many calls were counted."""
        return self._library.fault_seen()

    @property
    def victim(self) -> str:
        """The path of the call that failed; empty if none has."""
        return self._library.fault_victim().decode()
