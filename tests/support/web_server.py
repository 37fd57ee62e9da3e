"""Web servers on this machine for the tests of sources, with answers to choose and certificates to trust."""

from __future__ import annotations

import datetime
import http.server
import ssl
from contextlib import contextmanager, suppress

import pytest
from http_serving import served
from manifest_making import encoded
from urllib3 import Retry

from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.http import RETRIES, Fetcher

LOCAL = ("127.0.0.0/8",)
QUICK: Retry = RETRIES.new(backoff_factor=0)
"""The rules for trying again, without waiting."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Host"], dict(self.headers)))
        self.server.answers[self.path.partition("?")[0]](self)

    def log_message(self, *arguments) -> None:
        pass

    def handle(self) -> None:
        with suppress(OSError):  # clients that hang up
            super().handle()

    def give(self, status: int, body: bytes = b"", **headers) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(body))} | {n.replace("_", "-"): v for n, v in headers.items()}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(context: ssl.SSLContext | None = None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.seen, server.answers = [], {"/a.png": lambda h: h.give(200, encoded())}
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.url = f"http{'s' if context else ''}://127.0.0.1:{server.server_port}"
    with served(server):
        yield server


def refused(fetcher: Fetcher, url: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        fetcher.fetch(url)
    return caught.value


def self_signed(name: str) -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    pem = serialization.Encoding.PEM
    return certificate.public_bytes(pem), key.private_bytes(pem, form, plain)
