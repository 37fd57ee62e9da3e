"""Ports for servers of tests that are started a while after their port was chosen."""

from __future__ import annotations

import secrets
import socket

PORTS = range(20_000, 32_000)
"""Above those of Ray's workers, and below those that Linux gives to connections: one of these may be taken before its
server starts, and Ray's agents go on without theirs then."""


def free_port() -> int:
    """A port of the loopback address that nothing listens on."""
    for _ in range(1000):
        port = secrets.choice(PORTS)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port of {PORTS} is free")
