"""Fixtures for the tests of `wanbatch.manifests.sources`."""

import socket

import pytest
from web_server import serving


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def names(monkeypatch):
    """Host name -> addresses, in place of the DNS; look-ups are counted."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo
    lookups: list[str] = []

    def look_up(host, port, *arguments, **options):
        lookups.append(host)
        addresses = known.get(host, [host])
        return [found for address in addresses for found in real(address, port, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    known_and_lookups = known, lookups
    return known_and_lookups
