"""Fetching an image over http(s), without being made to talk to anything but public web servers.

A host is resolved once; every address it has must be a public one, and the connection goes to an address that
was checked, with the host's own name in `Host` and in TLS. Each redirect goes through the same. Nothing of the
environment is used: no proxies, no credentials, no cookies. Only the standard library (`http.client`).
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from wanbatch.manifests.sources.addresses import Network, networks, refusal

MAX_URL = 2048
MAX_REDIRECTS = 3
CONNECT_SECONDS = 10.0
READ_SECONDS = 10.0
TOTAL_SECONDS = 60.0
CHUNK = 64 << 10
HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "wanbatch", "Connection": "close"}

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_NUMERIC = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)(\.(0[xX][0-9a-fA-F]*|[0-9]+))*\.?")
_DOTTED = re.compile(r"(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}")
_REDIRECTS = (301, 302, 303, 307, 308)


class FetchError(Exception):
    """An address that was not fetched. kind: the class the row is counted by."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind, self.message = kind, message


@dataclass(frozen=True, slots=True)
class Target:
    """A checked URL. path: with its query, ready to send."""

    url: str
    secure: bool
    host: str
    port: int
    path: str


def target_of(url: str) -> Target:
    """Take an URL apart. Raises FetchError (`forbidden_source`) for one that is not plainly http(s)."""
    if len(url) > MAX_URL or any(ord(c) < 33 or ord(c) == 127 for c in url) or "\\" in url:
        raise FetchError("forbidden_source", f"is longer than {MAX_URL} characters, or holds blanks or backslashes")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        host = host if host.isascii() else host.encode("idna").decode()
    except (ValueError, UnicodeError) as error:
        raise FetchError("forbidden_source", f"is not a usable address ({error})") from error
    if parts.scheme not in ("http", "https"):
        raise FetchError("forbidden_source", f"is a {parts.scheme or 'relative'} address, not http or https")
    if "@" in parts.netloc:
        raise FetchError("forbidden_source", "holds credentials: addresses may not")
    if not _HOST.fullmatch(host) or port == 0:
        raise FetchError("forbidden_source", "has no usable host")
    if _NUMERIC.fullmatch(host) and not _DOTTED.fullmatch(host):
        raise FetchError("forbidden_source", "spells an IP address in an unusual way")
    secure = parts.scheme == "https"
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (
        "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]") if parts.query else ""
    )
    return Target(url, secure, host, port or (443 if secure else 80), path)


class Fetcher:
    """Fetches files of limited size.

    allowed_networks: like `10.1.0.0/16`: addresses that are reached although they are not public, for a store in
        one's own network. Rows cannot change it.
    context: of TLS; default: certificates are checked against the system's.
    """

    def __init__(
        self,
        max_bytes: int,
        allowed_networks: Iterable[str | Network] = (),
        total_seconds: float = TOTAL_SECONDS,
        context: ssl.SSLContext | None = None,
    ):
        self.max_bytes, self.total_seconds = max_bytes, total_seconds
        self._allowed = networks(allowed_networks)
        self._context = context

    def fetch(self, url: str) -> bytes:
        """The content of an address.

        Raises:
            FetchError: of kind `forbidden_source` (also for a redirect to one), `missing_image` (404, 410),
                `too_large`, `bad_image` (an encoded body) or `unreachable` (anything that may pass).
        """
        deadline = time.monotonic() + self.total_seconds
        target = target_of(url)
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._get(target, deadline)
            if isinstance(answer, bytes):
                return answer
            following = target_of(urljoin(target.url, answer))
            if target.secure and not following.secure:
                raise FetchError("forbidden_source", "redirects from https to http")
            target = following
        raise FetchError("unreachable", f"redirects more than {MAX_REDIRECTS} times")

    def _get(self, target: Target, deadline: float) -> bytes | str:
        """The body, or where a redirect leads."""
        connection = self._connect(target, deadline)
        try:
            with _cut_off(connection, deadline) as late:
                try:
                    answer = self._ask(connection, target)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    reason = self._late() if late.is_set() else _reason(error)
                    raise FetchError("unreachable", f"could not be fetched ({reason})") from error
            if late.is_set():  # being cut off may look like the end of the answer
                raise FetchError("unreachable", f"could not be fetched ({self._late()})")
            return answer
        finally:
            connection.close()

    def _late(self) -> str:
        return f"no answer within {self.total_seconds:g} s"

    def _ask(self, connection: http.client.HTTPConnection, target: Target) -> bytes | str:
        headers = {
            "Accept": "image/*",
            "Accept-Encoding": "identity",
            "User-Agent": "wanbatch",
            "Connection": "close",
        }
        connection.request("GET", target.path, headers=headers)
        response = connection.getresponse()
        if response.status in _REDIRECTS and (location := response.getheader("Location")):
            return location
        if response.status in (404, 410):
            raise FetchError("missing_image", f"does not exist (status {response.status})")
        if response.status != 200:
            raise FetchError("unreachable", f"could not be fetched (status {response.status})")
        if response.getheader("Content-Encoding", "identity").strip().lower() != "identity":
            raise FetchError("bad_image", "comes packed, though it was asked for as it is")
        return self._body(response)

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        promised = response.length
        if promised is not None and promised > self.max_bytes:
            raise FetchError("too_large", f"has {promised} bytes; at most {self.max_bytes} are read")
        body = bytearray()
        while chunk := response.read(CHUNK):
            body += chunk
            if len(body) > self.max_bytes:
                raise FetchError("too_large", f"has more than {self.max_bytes} bytes")
        if promised is not None and len(body) < promised:
            raise FetchError("unreachable", f"broke off after {len(body)} of {promised} bytes")
        return bytes(body)

    def _connect(self, target: Target, deadline: float) -> http.client.HTTPConnection:
        """A connection to one of the host's addresses, all of which were checked."""
        problem = "has no address"
        for family, address in self._addresses(target, deadline):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            raw = socket.socket(family, socket.SOCK_STREAM)
            try:
                raw.settimeout(min(CONNECT_SECONDS, left))
                raw.connect(address)
                raw.settimeout(READ_SECONDS)
                return self._over(raw, target, deadline)
            except (OSError, ValueError) as error:
                raw.close()
                problem = _reason(error)
        raise FetchError("unreachable", f"could not be reached ({problem})")

    def _over(self, raw: socket.socket, target: Target, deadline: float) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(target.host, target.port)
        if target.secure:
            connection.default_port = 443  # leaves the port out of Host
            context = self._context or ssl.create_default_context()
            with _cut_off(raw, deadline):
                raw = context.wrap_socket(raw, server_hostname=target.host)
        connection.sock = raw  # it is connected; http.client would look the name up again
        connection.auto_open = 0
        return connection

    def _addresses(self, target: Target, deadline: float) -> list[tuple[int, tuple]]:
        """Where the host is, by one look-up. Raises FetchError if any of it is not public."""
        found = _looked_up(target, min(CONNECT_SECONDS, max(0.1, deadline - time.monotonic())))
        for _, address in found:
            if why := refusal(address[0], self._allowed):
                raise FetchError("forbidden_source", f"leads to {address[0]}, {why}")
        return found


def _looked_up(target: Target, seconds: float) -> list[tuple[int, tuple]]:
    """(family, address) of a host. In a thread, since the system's resolver knows no deadline."""
    answer: list[list[tuple[int, tuple]] | OSError | UnicodeError] = []

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
            answer.append([(family, address) for family, _, _, _, address in found])
        except (OSError, UnicodeError) as error:
            answer.append(error)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer:
        raise FetchError("unreachable", "has a host whose name could not be looked up in time")
    if isinstance(answer[0], Exception):
        raise FetchError("unreachable", f"has a host that cannot be found ({_reason(answer[0])})")
    return answer[0]


@contextmanager
def _cut_off(connection: http.client.HTTPConnection | socket.socket, deadline: float) -> Iterator[threading.Event]:
    """Ends a connection at the deadline, however slowly data trickles in. Yields what tells that it did."""
    late = threading.Event()
    sock = connection if isinstance(connection, socket.socket) else connection.sock

    def cut() -> None:
        late.set()
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200] or type(error).__name__
