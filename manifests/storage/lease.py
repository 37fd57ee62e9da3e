"""One writer a folder in an object store: a lease, kept by heartbeats.

Leases are numbered objects, created on the condition that they do not exist; the highest one counts. The holder
writes its lease again every `HEARTBEAT_SECONDS`. One that was not written for `EXPIRY_SECONDS`, by the store's
clock, may be taken over by creating the next number. Its holder starts no write without a heartbeat of the last
`VALID_SECONDS`, and a write ends within READ_SECONDS * TRIES**2 (`fsspec_io.py`), so both never write at a time,
unless the holder's whole process is frozen between the two. A holder known to be gone (same machine, same
container, no such process) is taken over at once.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol

from wanbatch.errors import UserError
from wanbatch.manifests.storage.holder import describe_this_process, folder_held_error

LEASES = "_wanbatch/lease"
HEARTBEAT_SECONDS = 20.0
VALID_SECONDS = 50.0
EXPIRY_SECONDS = 150.0


class LeaseStore(Protocol):
    """What a lease needs of the folder that it protects; operations raise OSError and nothing else."""

    root: str

    def read(self, name: str) -> bytes:
        """The content of a file."""
        ...

    def sizes(self, folder: str) -> dict[str, int]:
        """The files directly in a folder, name -> bytes."""
        ...

    def modified(self, name: str) -> float:
        """When a file was written, by the store's clock, in seconds."""
        ...

    def write_exclusive(self, name: str, data: bytes) -> None:
        """Create a file with its content at once. Raises FileExistsError, also in a race."""
        ...

    def write_atomic(self, name: str, data: bytes) -> None:
        """Write or replace a file."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        ...


class Lease:
    """This process's claim on a folder."""

    def __init__(self, store: LeaseStore):
        self._store = store
        self._number = 0
        self._record: dict[str, Any] = {}
        self._last_heartbeat = 0.0  # monotonic
        self._lost = False
        self._stop = threading.Event()
        self._writing_heartbeat = threading.Lock()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Become the holder and keep the lease by heartbeats from a thread, until `release`.

        Raises:
            FolderHeldError: if another process holds the folder.
            UserError: if the store has no conditional writes.
            OSError: if the store fails.
        """
        self._ensure_conditional_writes()
        highest = self._highest()
        if highest and not self._is_free(highest):
            raise folder_held_error(self._store.root, self._read(highest))
        self._number = highest + 1
        process = {"process": _process_space(), "token": secrets.token_hex(8)}
        self._record = {**describe_this_process(), **process, "released": False}
        try:
            self._store.write_exclusive(_name(self._number), self._content())
        except FileExistsError:
            raise folder_held_error(self._store.root, self._read(self._number)) from None
        self._last_heartbeat, self._lost = time.monotonic(), False
        try:
            self._ensure_highest()
            for number in range(max(1, highest - 3), highest + 1):
                self._store.remove(_name(number))
        except BaseException:
            self._give_back()
            raise
        self._stop.clear()
        self._thread = threading.Thread(target=self._send_heartbeats, name="wanbatch-lease", daemon=True)
        self._thread.start()

    def _ensure_highest(self) -> None:
        """Raises FolderHeldError if a higher lease than the new one exists.

        Others may have come and gone since the highest one was looked for, and have removed the lease whose number
        was then free again.
        """
        if (now := self._highest()) != self._number:
            self._lost = now > self._number
            raise folder_held_error(self._store.root, self._read(now))

    def release(self) -> None:
        """Give the lease back, if it is held. A store that does not answer lets the lease run out."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        self._give_back()

    def _give_back(self) -> None:
        """Note that nobody holds the lease. One that is not the highest goes, as it counts for nothing."""
        with suppress(OSError):
            if self._lost:
                self._store.remove(_name(self._number))
            else:
                self._record = {**self._record, "released": True}
                self._store.write_atomic(_name(self._number), self._content())

    def ensure_held(self) -> None:
        """Raises OSError if another process may hold the lease by now."""
        if not self._lost and time.monotonic() - self._last_heartbeat > VALID_SECONDS / 2:
            self._heartbeat()
        if self._lost or self._thread is None or time.monotonic() - self._last_heartbeat > VALID_SECONDS:
            raise OSError("the lease of the folder was lost: another run may have taken it over")

    def holder(self) -> Mapping[str, Any] | None:
        """The record of the highest lease, with `beat`, the time of its last heartbeat; None if it was given back."""
        highest = self._highest()
        record = self._read(highest) if highest else None
        return None if record is None or record["released"] or _is_gone(record) else record

    def _send_heartbeats(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS) and not self._lost:
            with suppress(OSError):
                self._heartbeat()

    def _heartbeat(self) -> None:
        with self._writing_heartbeat:
            if self._highest() != self._number:
                self._lost = True
                return
            begin = time.monotonic()
            self._store.write_atomic(_name(self._number), self._content())
            self._last_heartbeat = begin

    def _content(self) -> bytes:
        return json.dumps({**self._record, "beat": datetime.now(UTC).isoformat(timespec="seconds")}).encode()

    def _highest(self) -> int:
        names = (name.rpartition("/")[2] for name in self._store.sizes(LEASES))
        return max((int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()), default=0)

    def _read(self, number: int) -> dict[str, Any] | None:
        try:
            found = json.loads(self._store.read(_name(number)))
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) and found.keys() >= {"host", "pid", "since", "released"} else None

    def _is_free(self, number: int) -> bool:
        record = self._read(number)
        if record is not None and (record["released"] or _is_gone(record)):
            return True
        return self._store_time() - self._store.modified(_name(number)) > EXPIRY_SECONDS

    def _store_time(self) -> float:
        """What the store's clock says, so that no two machines' clocks are compared."""
        probe = f"{LEASES}/clock-{secrets.token_hex(8)}"
        self._store.write_atomic(probe, b"")
        try:
            return self._store.modified(probe)
        finally:
            self._store.remove(probe)

    def _ensure_conditional_writes(self) -> None:
        probe = f"{LEASES}/probe-{secrets.token_hex(8)}"
        self._store.write_exclusive(probe, b"1")
        try:
            self._store.write_exclusive(probe, b"2")
        except FileExistsError:
            return
        finally:
            self._store.remove(probe)
        raise UserError(
            f"{self._store.root}: this store ignores conditional writes (If-None-Match), so two runs could overwrite "
            "each other: choose a store that has them, or a local folder"
        )


def _name(number: int) -> str:
    return f"{LEASES}/{number:08d}.json"


def _process_space() -> str | None:
    """Names the space that this process's pid is unique in; None if that cannot be known."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _is_gone(record: Mapping[str, Any]) -> bool:
    """True if the process of a lease's record was one of this machine and has ended."""
    if record.get("process") is None or record["process"] != _process_space():
        return False
    try:
        os.kill(int(record["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return False
