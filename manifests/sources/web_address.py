"""Web addresses as manifests hold them: what is accepted by its text alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from wanbatch.manifests.sources.errors import SourceError

MAX_LENGTH = 2048

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_NUMERIC = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)(\.(0[xX][0-9a-fA-F]*|[0-9]+))*\.?")
_DOTTED = re.compile(r"(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}")


@dataclass(frozen=True, slots=True)
class WebAddress:
    """A checked http or https address.

    Attributes:
        url: the whole address, as it was given.
        secure: whether it is https.
        host, port: where it is; the host is ASCII and in no unusual spelling.
        path: with its query, quoted and ready to send.
    """

    url: str
    secure: bool
    host: str
    port: int
    path: str

    def follow(self, location: str) -> WebAddress:
        """The address that a redirect leads to.

        Args:
            location: the `Location` header, absolute or relative to this address.
        Raises:
            SourceError: of kind `forbidden_source`, if it is not plainly http(s), or leads from https to http.
        """
        try:
            url = urljoin(self.url, location)
        except ValueError as error:
            raise SourceError("forbidden_source", f"redirects to no usable address ({error})") from error
        target = parse_web_address(url)
        if self.secure and not target.secure:
            raise SourceError("forbidden_source", "redirects from https to http")
        return target


def is_web_address(path: str) -> bool:
    """True for a path that is an http or https address."""
    return path[:8].lower().startswith(("http://", "https://"))


def parse_web_address(url: str) -> WebAddress:
    """Take an address apart. Raises SourceError (`forbidden_source`) for one that is not plainly http(s)."""
    if len(url) > MAX_LENGTH or any(ord(c) < 33 or ord(c) == 127 for c in url) or "\\" in url:
        raise SourceError(
            "forbidden_source", f"is longer than {MAX_LENGTH} characters, or holds blanks or backslashes"
        )
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        host = host if host.isascii() else host.encode("idna").decode()
    except (ValueError, UnicodeError) as error:
        raise SourceError("forbidden_source", f"is not a usable address ({error})") from error
    if parts.scheme not in ("http", "https"):
        raise SourceError("forbidden_source", f"is a {parts.scheme or 'relative'} address, not http or https")
    if "@" in parts.netloc:
        raise SourceError("forbidden_source", "holds credentials: addresses may not")
    if not _HOST.fullmatch(host) or port == 0:
        raise SourceError("forbidden_source", "has no usable host")
    if _NUMERIC.fullmatch(host) and not _DOTTED.fullmatch(host):
        raise SourceError("forbidden_source", "spells an IP address in an unusual way")
    secure = parts.scheme == "https"
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (
        "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]") if parts.query else ""
    )
    return WebAddress(url, secure, host, port or (443 if secure else 80), path)
