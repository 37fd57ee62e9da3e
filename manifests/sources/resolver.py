"""Looking up the addresses of a host, once and with a time limit, and refusing those that are not public."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from wanbatch.manifests.sources.addresses import Network, why_not_public
from wanbatch.manifests.sources.errors import SourceError


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """Where a socket connects to. family: AF_INET or AF_INET6. address: as `socket.connect` takes it."""

    family: int
    address: tuple[Any, ...]


def resolve(host: str, port: int, seconds: float, allowed: Iterable[Network] = ()) -> list[SocketAddress]:
    """The addresses of a host, all of which are public, by one look-up.

    Args:
        host: a name or a numeric address.
        seconds: how long the look-up may take.
        allowed: networks whose addresses are accepted although they are not public.
    Raises:
        SourceError: of kind `unreachable` if the host is not found in time, `forbidden_source` if one of its
            addresses is not public.
    """
    found = _look_up(host, port, seconds)
    for one in found:
        if reason := why_not_public(one.address[0], allowed):
            raise SourceError("forbidden_source", f"leads to {one.address[0]}, {reason}")
    return found


def _look_up(host: str, port: int, seconds: float) -> list[SocketAddress]:
    """In a thread, since the system's resolver knows no time limit."""
    answers: list[list[SocketAddress] | OSError | UnicodeError] = []

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.append([SocketAddress(family, address) for family, _, _, _, address in found])
        except (OSError, UnicodeError) as error:
            answers.append(error)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answers:
        raise SourceError("unreachable", "has a host whose name could not be looked up in time")
    (answer,) = answers
    if isinstance(answer, Exception):
        reason = getattr(answer, "strerror", None) or answer
        raise SourceError("unreachable", f"has a host that cannot be found ({reason})")
    return answer
