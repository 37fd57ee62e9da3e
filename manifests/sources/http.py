"""Fetching an image over http(s), without being made to talk to anything but public web servers.

A host is resolved once; every address it has must be a public one, and the connection goes to an address that
was checked, with the host's own name in `Host` and in TLS. Each redirect goes through the same. Nothing of the
environment is used: no proxies, no credentials, no cookies. Connections, responses and the rules for trying again
are urllib3's.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from http.client import HTTPException

from urllib3 import HTTPResponse, Retry
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, MaxRetryError

from wanbatch.manifests.sources.addresses import Network, parse_networks
from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.range_request import Beginning, RangeRequest, file_size, one_line, validator_of
from wanbatch.manifests.sources.resolver import SocketAddress, resolve
from wanbatch.manifests.sources.web_address import WebAddress, parse_web_address

MAX_REDIRECTS = 3
CONNECT_SECONDS = 10.0
READ_SECONDS = 10.0
TOTAL_SECONDS = 60.0
CHUNK = 64 << 10
RETRIES = Retry(total=3, redirect=False, status_forcelist=(429, 500, 502, 503, 504), backoff_factor=0.5)
"""For each address: tried again at once, then after 1 s and 2 s, or after what the server's `Retry-After` says."""

_REDIRECTS = (301, 302, 303, 307, 308)
_NOT_MODIFIED, _RANGE_NOT_SATISFIABLE = 304, 416
_log = logging.getLogger(__name__)


class Fetcher:
    """Fetches files of limited size, or their beginnings."""

    def __init__(
        self,
        max_bytes: int,
        allowed_networks: Iterable[str | Network] = (),
        total_seconds: float = TOTAL_SECONDS,
        context: ssl.SSLContext | None = None,
        retries: Retry = RETRIES,
    ):
        """
        Args:
            max_bytes: the most that is read of one file.
            allowed_networks: like `127.0.0.0/8`: networks that may be reached although they are not public. For
                tests, whose servers run on the same machine; no setting and no row reaches it.
            total_seconds: the most that one file may take, with redirects, tries and the pauses between them.
            context: of TLS; default: certificates are checked against the system's.
            retries: how often failed requests are made again, after which answers, and how long to wait.
        """
        self.max_bytes, self.total_seconds = max_bytes, total_seconds
        self._allowed, self._given_context, self._retries = parse_networks(allowed_networks), context, retries
        self._retried = 0

    @property
    def retried(self) -> int:
        """How many requests were made again so far."""
        return self._retried

    def fetch(self, url: str) -> bytes:
        """The content of an address.

        Raises:
            SourceError: of kind `forbidden_source` (also for a redirect to one), `missing_image` (404, 410),
                `too_large`, `bad_image` (an encoded body) or `unreachable` (anything that may pass).
        """
        data = self._follow(url, RangeRequest()).data
        assert data is not None  # "not modified" is no answer to a request without a validator
        return data

    def fetch_beginning(self, url: str, first: int, validator: str | None = None) -> Beginning:
        """The first bytes of a file, by a range request; of a server without ranges no more is read either.

        Args:
            url: the address.
            first: how many bytes, 1 or more.
            validator: of an earlier answer: if the file is still that one, nothing of it is sent.
        Raises:
            SourceError: as `fetch` does.
        """
        return self._follow(url, RangeRequest(first, validator))

    def fetch_end(self, url: str, last: int) -> Beginning:
        """The last bytes of a file, by a range request; of a server without ranges the whole file.

        Args:
            url: the address.
            last: how many bytes, 1 or more.
        Raises:
            SourceError: as `fetch` does.
        """
        return self._follow(url, RangeRequest(last=last))

    def _follow(self, url: str, wanted: RangeRequest) -> Beginning:
        """What is at an address, or where its redirects lead."""
        deadline = time.monotonic() + self.total_seconds
        target = parse_web_address(url)
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._get(target, wanted, deadline)
            if isinstance(answer, Beginning):
                return answer
            target = target.follow(answer)
        raise SourceError("unreachable", f"redirects more than {MAX_REDIRECTS} times")

    def _get(self, target: WebAddress, wanted: RangeRequest, deadline: float) -> Beginning | str:
        """The answer, or where a redirect leads; asked for again if that may help and there is time."""
        seconds = min(CONNECT_SECONDS, max(0.1, deadline - time.monotonic()))
        addresses = resolve(target.host, target.port, seconds, self._allowed)
        retries = self._retries
        while True:
            try:
                return self._try(target, wanted, addresses, deadline)
            except _TransientError as error:
                retries, pause = _next_try(error, retries, target, deadline)
                _log.info("asking %s again after %.1f s: it %s", target.host, pause, error.message)
            self._retried += 1
            time.sleep(pause)

    def _try(
        self, target: WebAddress, wanted: RangeRequest, addresses: Sequence[SocketAddress], deadline: float
    ) -> Beginning | str:
        connection = self._connect(target, addresses, deadline)
        try:
            with _cut_off(connection, deadline) as late:
                try:
                    answer = self._ask(connection, target, wanted)
                except (OSError, HTTPException, HTTPError, ValueError) as error:
                    if not late.is_set():
                        raise _TransientError(f"could not be fetched ({_reason(error)})") from error
            if late.is_set():  # being cut off may look like the end of the answer
                message = f"could not be fetched (no answer within {self.total_seconds:g} s)"
                raise SourceError("unreachable", message)
            return answer
        finally:
            connection.close()

    def _connect(self, target: WebAddress, addresses: Sequence[SocketAddress], deadline: float) -> _CheckedConnection:
        """A connection to the first address that answers."""
        context = self._context if target.secure else None
        problem: Exception = OSError("has no address" if not addresses else "no time is left")
        for address in addresses:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            kind = _CheckedTLSConnection if target.secure else _CheckedConnection
            connection = kind(target, address, context, min(CONNECT_SECONDS, left))
            try:
                connection.connect()
            except (OSError, ValueError) as error:
                problem = error
            else:
                return connection
        message = f"could not be reached ({_reason(problem)})"
        if isinstance(problem, ssl.SSLCertVerificationError):
            raise SourceError("unreachable", message) from problem
        raise _TransientError(message) from problem

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return self._given_context or ssl.create_default_context()

    def _ask(self, connection: _CheckedConnection, target: WebAddress, wanted: RangeRequest) -> Beginning | str:
        headers = wanted.headers()
        connection.request("GET", target.path, headers=headers, preload_content=False, decode_content=False)
        with closing(connection.getresponse()) as response:
            return self._answer(response, wanted)

    def _answer(self, response: HTTPResponse, wanted: RangeRequest) -> Beginning | str:
        if response.status in _REDIRECTS and (location := response.headers.get("Location")):
            return location
        if response.status == _NOT_MODIFIED and wanted.validator is not None:
            return Beginning(None, False, wanted.validator)
        if response.status == _RANGE_NOT_SATISFIABLE and wanted.partial:  # an empty file has no first byte
            return Beginning(b"", True, validator_of(response))
        if response.status in (404, 410):
            raise SourceError("missing_image", f"does not exist (status {response.status})")
        if response.status != 200 and (response.status != 206 or not wanted.partial):
            message = f"could not be fetched (status {response.status})"
            if self._retries.is_retry("GET", response.status):
                raise _TransientError(message, response)
            raise SourceError("unreachable", message)
        encoding = response.headers.get("Content-Encoding", "identity").strip()
        if encoding.lower() != "identity":
            raise SourceError("bad_image", f"cannot be used: the server sent Content-Encoding: {one_line(encoding)}")
        return self._body(response, wanted)

    def _body(self, response: HTTPResponse, wanted: RangeRequest) -> Beginning:
        size, first = file_size(response, wanted), wanted.first
        if size is not None and size > self.max_bytes:
            raise SourceError("too_large", f"has {size} bytes; at most {self.max_bytes} are read")
        body = bytearray()
        read_size = CHUNK if first is None else min(CHUNK, first)
        with closing(response.stream(read_size, decode_content=False)) as chunks:  # also where it is left early
            for chunk in chunks:
                body += chunk
                if len(body) > self.max_bytes:
                    raise SourceError("too_large", f"has more than {self.max_bytes} bytes")
                if first is not None and len(body) >= first:
                    return Beginning(bytes(body[:first]), len(body) == size, validator_of(response))
        return Beginning(bytes(body), response.status == 200 or len(body) == size, validator_of(response))


class _TransientError(Exception):
    """A try that failed in a way that may pass. response: what the server said, if it did."""

    def __init__(self, message: str, response: HTTPResponse | None = None):
        super().__init__(message)
        self.message, self.response = message, response


class _CheckedConnection(HTTPConnection):
    """A connection to an address that was checked, not to whatever a further look-up of the host would give."""

    def __init__(
        self, target: WebAddress, address: SocketAddress, context: ssl.SSLContext | None, connect_seconds: float
    ):
        """context: for TLS; None: without."""
        super().__init__(target.host, target.port, timeout=READ_SECONDS)
        self._address, self._context, self._connect_seconds = address, context, connect_seconds

    def connect(self) -> None:
        """Connect, with the host's own name in TLS. Raises OSError or ValueError."""
        sock = socket.socket(self._address.family, socket.SOCK_STREAM)
        try:
            sock.settimeout(self._connect_seconds)
            sock.connect(self._address.address)
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_hostname=self.host)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class _CheckedTLSConnection(_CheckedConnection):
    """The same for https, whose port is left out of `Host`."""

    default_port = 443  # type: ignore[misc]  # urllib3 makes a class variable of http.client's


def _next_try(error: _TransientError, retries: Retry, target: WebAddress, deadline: float) -> tuple[Retry, float]:
    """The retries that are left after a failed try, and the seconds to wait before the next one.

    Raises:
        SourceError: if no retries are left, or no time for one.
    """
    cause = None if error.response is not None else Exception(error.message)
    try:
        left = retries.increment("GET", target.url, response=error.response, error=cause)
    except MaxRetryError:
        tries = len(retries.history) + 1
        raise SourceError("unreachable", f"{error.message}, tried {tries} times") from error
    pause = _pause(left, error.response)
    if time.monotonic() + pause >= deadline:
        raise SourceError("unreachable", error.message) from error
    return left, pause


def _pause(retries: Retry, response: HTTPResponse | None) -> float:
    """Seconds to wait before the next try: what `Retry-After` says, else a pause that doubles."""
    if response is not None:
        with suppress(HTTPError, ValueError, ArithmeticError, LookupError, TypeError):  # a header that says nothing
            if (wanted := retries.get_retry_after(response)) is not None:
                return wanted
    return retries.get_backoff_time()


@contextmanager
def _cut_off(connection: HTTPConnection, deadline: float) -> Iterator[threading.Event]:
    """Ends a connection at the deadline, however slowly data trickles in. Yields what tells that it did."""
    late = threading.Event()
    sock = connection.sock

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
    return one_line(str(getattr(error, "strerror", None) or error)) or type(error).__name__
