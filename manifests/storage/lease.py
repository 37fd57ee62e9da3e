"""One writer a folder in an object store: a lease, kept by heartbeats.

Leases are numbered objects, created on the condition that they do not exist; the highest one counts. The holder
writes its lease again every `BEAT_SECONDS`. One that was not written for `STALE_SECONDS`, by the store's clock,
may be taken over by creating the next number. Its holder starts no write without a heartbeat of the last
`SAFE_SECONDS`, and a write ends within READ_SECONDS * TRIES**2 (`storage.py`), so both never write at a time,
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
from typing import TYPE_CHECKING, Any

from wanbatch.errors import UserError
from wanbatch.manifests.storage.local_lock import held, own_note

if TYPE_CHECKING:
    from wanbatch.manifests.storage.object_store import ObjectStoreBackend

LEASES = "_wanbatch/lease"
BEAT_SECONDS = 20.0
SAFE_SECONDS = 50.0
STALE_SECONDS = 150.0


class Lease:
    """This process's claim on a folder."""

    def __init__(self, place: ObjectStoreBackend):
        self._place = place
        self._number = 0
        self._note: dict[str, Any] = {}
        self._beaten = 0.0  # monotonic
        self._lost = False
        self._stop = threading.Event()
        self._beating = threading.Lock()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Raises FolderHeldError, or UserError if the store has no conditional writes; else OSError."""
        self._require_conditions()
        highest = self._highest()
        if highest and not self._is_free(highest):
            raise held(self._place.root, self._read(highest))
        self._number = highest + 1
        self._note = {**own_note(), "process": _process_space(), "token": secrets.token_hex(8), "released": False}
        try:
            self._place.write_exclusive(_name(self._number), self._content())
        except FileExistsError:
            raise held(self._place.root, self._read(self._number)) from None
        self._beaten, self._lost = time.monotonic(), False
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat_on, name="wanbatch-lease", daemon=True)
        self._thread.start()
        for number in range(max(1, highest - 3), highest + 1):
            self._place.remove(_name(number))

    def release(self) -> None:
        """Nothing happens if it is not held. A store that does not answer lets the lease run out."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        if not self._lost:
            self._note["released"] = True
            with suppress(OSError):
                self._place.write_atomic(_name(self._number), self._content())

    def require_held(self) -> None:
        """Raises OSError if the lease may be another one's by now."""
        if not self._lost and time.monotonic() - self._beaten > SAFE_SECONDS / 2:
            self._beat()
        if self._lost or self._thread is None or time.monotonic() - self._beaten > SAFE_SECONDS:
            raise OSError("the lease of the folder was lost: another run may have taken it over")

    def holder(self) -> Mapping[str, Any] | None:
        """The note of the highest lease, with `beat`, the time of its last heartbeat; None if it was given back."""
        highest = self._highest()
        note = self._read(highest) if highest else None
        return None if note is None or note["released"] or _is_gone(note) else note

    def _beat_on(self) -> None:
        while not self._stop.wait(BEAT_SECONDS) and not self._lost:
            with suppress(OSError):
                self._beat()

    def _beat(self) -> None:
        with self._beating:
            if self._highest() != self._number:
                self._lost = True
                return
            begin = time.monotonic()
            self._place.write_atomic(_name(self._number), self._content())
            self._beaten = begin

    def _content(self) -> bytes:
        return json.dumps({**self._note, "beat": datetime.now(UTC).isoformat(timespec="seconds")}).encode()

    def _highest(self) -> int:
        names = (name.rpartition("/")[2] for name in self._place.sizes(LEASES))
        return max((int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()), default=0)

    def _read(self, number: int) -> dict[str, Any] | None:
        try:
            found = json.loads(self._place.read(_name(number)))
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) and found.keys() >= {"host", "pid", "since", "released"} else None

    def _is_free(self, number: int) -> bool:
        note = self._read(number)
        if note is not None and (note["released"] or _is_gone(note)):
            return True
        return self._store_time() - self._place.modified(_name(number)) > STALE_SECONDS

    def _store_time(self) -> float:
        """What the store's clock says, so that no two machines' clocks are compared."""
        probe = f"{LEASES}/clock-{secrets.token_hex(8)}"
        self._place.write_atomic(probe, b"")
        try:
            return self._place.modified(probe)
        finally:
            self._place.remove(probe)

    def _require_conditions(self) -> None:
        probe = f"{LEASES}/probe-{secrets.token_hex(8)}"
        self._place.write_exclusive(probe, b"1")
        try:
            self._place.write_exclusive(probe, b"2")
        except FileExistsError:
            return
        finally:
            self._place.remove(probe)
        raise UserError(
            f"{self._place.root}: this store ignores conditional writes (If-None-Match), so two runs could overwrite "
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


def _is_gone(note: Mapping[str, Any]) -> bool:
    """True if the process of a note was one of this machine and has ended."""
    if note.get("process") is None or note["process"] != _process_space():
        return False
    try:
        os.kill(int(note["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return False
