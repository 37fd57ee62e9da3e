"""Whether Ray is still there.

When its head dies, Ray ends the process that uses it after a minute, with code 1; when its last node dies, it
waits for ever. Neither is how a run should end.
"""

from __future__ import annotations

import socket
import time
from typing import Any

import ray
import ray.util.client

from wanbatch.errors import MachineryError

CHECK_SECONDS = 5.0
PATIENCE_SECONDS = 20.0  # less than Ray's own


def through_client() -> bool:
    """Whether this process is connected to a cluster through Ray's client (`ray://`)."""
    client: Any = ray.util.client.ray
    return bool(client.is_connected())


class RayHealth:
    """Looks every few seconds; quick when all is well."""

    def __init__(self) -> None:
        self._head: tuple[str, int] | None = None  # through Ray's client its head is out of reach
        if not through_client():
            host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
            self._head = host.strip("[]"), int(port)
        self._checked = self._seen = time.monotonic()

    def ensure_alive(self) -> None:
        """Raise MachineryError if Ray has been gone for a while."""
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        if self._reachable() and any(node["Alive"] for node in ray.nodes()):
            self._seen = time.monotonic()
        elif now - self._seen > PATIENCE_SECONDS:
            raise MachineryError("Ray is gone: none of its nodes answers; run the same command again")

    def _reachable(self) -> bool:
        if self._head is None:
            return through_client()
        try:
            socket.create_connection(self._head, timeout=2).close()
        except OSError:
            return False
        return True
