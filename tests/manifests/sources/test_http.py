"""Sources over http(s): what is fetched, and what is never even connected to."""

import datetime
import http.server
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from manifest_making import encoded

from wanbatch.errors import RowError
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources import http as fetching
from wanbatch.manifests.sources.addresses import networks, refusal
from wanbatch.manifests.sources.http import Fetcher, FetchError, target_of
from wanbatch.manifests.sources.loader import PathPolicy, SourceLoader

LOCAL = ("127.0.0.0/8",)


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
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.url = f"http{'s' if context else ''}://127.0.0.1:{server.server_port}"
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


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


def refused(fetcher: Fetcher, url: str) -> FetchError:
    with pytest.raises(FetchError) as caught:
        fetcher.fetch(url)
    return caught.value


class TestFetching:
    def test_an_image(self, server, tmp_path):
        with SourceLoader(tmp_path, allow_http=True, allowed_networks=LOCAL) as loader:
            assert loader.load(Source(f"{server.url}/a.png?size=9&x=a b".replace(" ", "%20"))).pixels.shape == (
                32,
                32,
                3,
            )
        ((path, host, headers),) = server.seen
        assert path == "/a.png?size=9&x=a%20b"
        assert host == server.url.removeprefix("http://")
        assert headers["Accept-Encoding"] == "identity"
        assert not {"Cookie", "Authorization", "Referer"} & headers.keys()

    def test_a_host_is_looked_up_once_and_named_in_the_request(self, server, names):
        known, lookups = names
        known["shop.test"] = ["127.0.0.1"]
        assert Fetcher(1 << 20, LOCAL).fetch(f"http://shop.test:{server.server_port}/a.png") == encoded()
        assert lookups == ["shop.test"]
        assert server.seen[0][1] == f"shop.test:{server.server_port}"

    def test_redirects(self, server):
        server.answers["/1"] = lambda h: h.give(302, Location="/2?x=1")
        server.answers["/2"] = lambda h: h.give(307, Location=f"{server.url}/3")
        server.answers["/3"] = lambda h: h.give(301, Location="a.png")
        server.answers["/0"] = lambda h: h.give(308, Location="/1")
        fetcher = Fetcher(1 << 20, LOCAL)
        assert fetcher.fetch(f"{server.url}/1") == encoded()
        assert "redirects more than 3 times" in refused(fetcher, f"{server.url}/0").message

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            (lambda h: h.give(404), "missing_image"),
            (lambda h: h.give(410), "missing_image"),
            (lambda h: h.give(500), "unreachable"),
            (lambda h: h.give(206, b"x"), "unreachable"),
            (lambda h: h.give(302), "unreachable"),
            (lambda h: h.give(200, b"x", Content_Encoding="gzip"), "bad_image"),
            (lambda h: h.give(200, b"x" * 5000), "too_large"),
            (lambda h: h.give(200, b"", Content_Length="99999999999"), "too_large"),
            (lambda h: h.give(200, b"x" * 5000, Content_Length=None), "too_large"),
            (lambda h: h.give(200, b"x" * 10, Content_Length="500"), "unreachable"),
            (lambda h: h.give(200, b"x", Content_Length="-1"), None),
            (lambda h: h.wfile.write(b"HTTP/1.1 banana\r\n\r\n"), "unreachable"),
            (lambda h: h.wfile.write(b"\x00\xff" * 200), "unreachable"),
            (lambda h: h.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n"), "unreachable"),
            (lambda h: h.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "unreachable"),
            (lambda h: h.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000), "unreachable"),
        ],
    )
    def test_other_answers(self, server, answer, kind):
        server.answers["/x"] = answer
        fetcher = Fetcher(1000, LOCAL, total_seconds=5)
        if kind is None:
            assert fetcher.fetch(f"{server.url}/x") == b"x"
        else:
            assert refused(fetcher, f"{server.url}/x").kind == kind

    def test_a_chunked_flood_is_cut(self, server):
        def flood(handler) -> None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(10_000):
                handler.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")

        server.answers["/x"] = flood
        assert refused(Fetcher(1 << 20, LOCAL), f"{server.url}/x").kind == "too_large"

    @pytest.mark.parametrize("where", ["header", "body", "nothing"])
    def test_a_server_that_trickles_is_cut_off(self, server, where):
        def trickle(handler) -> None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if where == "body" else b"X: "))
            for _ in range(100):
                time.sleep(0.1)
                if where != "nothing":
                    handler.wfile.write(b"x")

        server.answers["/x"] = trickle
        start = time.monotonic()
        error = refused(Fetcher(1 << 20, LOCAL, total_seconds=0.7), f"{server.url}/x")
        assert (error.kind, "no answer within 0.7 s" in error.message) == ("unreachable", True)
        assert time.monotonic() - start < 3

    def test_nobody_listens_or_knows_the_host(self, names, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        assert refused(Fetcher(100, LOCAL), f"http://127.0.0.1:{port}/").kind == "unreachable"
        monkeypatch.setattr(fetching, "CONNECT_SECONDS", 0.3)

        def slow(*arguments, **options):
            time.sleep(2)
            raise socket.gaierror("late")

        monkeypatch.setattr(socket, "getaddrinfo", slow)
        assert "could not be looked up in time" in refused(Fetcher(100, LOCAL), "http://shop.test/").message

    def test_proxies_of_the_environment_are_not_used(self, server, monkeypatch):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        assert Fetcher(1 << 20, LOCAL).fetch(f"{server.url}/a.png") == encoded()


class TestTLS:
    @pytest.fixture
    def secure(self, tmp_path):
        """A server with a certificate for shop.test, and the context that trusts it."""
        certificate, key = self_signed("shop.test")
        (tmp_path / "both.pem").write_bytes(certificate + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "both.pem")
        asked: list[str | None] = []
        context.sni_callback = lambda sock, name, ctx: asked.append(name)
        with serving(context) as server:
            server.asked = asked
            yield server, ssl.create_default_context(cadata=certificate.decode())

    def test_the_name_is_asked_for_and_checked(self, secure, names):
        server, trusting = secure
        names[0].update({"shop.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]})
        fetcher = Fetcher(1 << 20, LOCAL, context=trusting)
        assert fetcher.fetch(f"https://shop.test:{server.server_port}/a.png") == encoded()
        assert server.asked == ["shop.test"]
        assert server.seen[0][1] == f"shop.test:{server.server_port}"
        error = refused(fetcher, f"https://other.test:{server.server_port}/a.png")
        assert "certificate verify failed" in error.message
        assert (
            "certificate verify failed"
            in refused(Fetcher(99, LOCAL), f"https://shop.test:{server.server_port}/").message
        )
        assert len(server.seen) == 1

    def test_no_way_down_to_http(self, secure, server, names):
        above, trusting = secure
        names[0]["shop.test"] = ["127.0.0.1"]
        above.answers["/x"] = lambda h: h.give(302, Location=f"{server.url}/a.png")
        error = refused(Fetcher(1 << 20, LOCAL, context=trusting), f"https://shop.test:{above.server_port}/x")
        assert (error.kind, server.seen) == ("forbidden_source", [])


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


SPELLINGS = [
    "127.0.0.1",
    "localhost",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "0",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "169.254.169.254",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "10.0.0.1",
    "192.168.1.1",
    "172.31.255.255",
    "100.100.100.200",
    "224.0.0.1",
    "[ff02::1]",
    "255.255.255.255",
    "240.0.0.1",
    "192.0.0.192",
    "198.18.0.1",
    "168.63.129.16",
    "①②⑦.0.0.1",
    "127。0。0。1",
]


class TestRefusals:
    """With no network allowed: nothing is connected to."""

    @pytest.fixture(autouse=True)
    def connections(self, monkeypatch):
        made = []
        real = socket.socket.connect

        def connect(sock, address):
            if sock.type == socket.SOCK_STREAM and sock.family != socket.AF_UNIX:
                made.append(address)
            return real(sock, address)

        monkeypatch.setattr(socket.socket, "connect", connect)
        yield made
        assert made == []

    @pytest.mark.parametrize("host", SPELLINGS)
    def test_addresses_that_are_not_public(self, server, host, tmp_path):
        with SourceLoader(tmp_path, allow_http=True) as loader, pytest.raises(RowError) as caught:
            loader.load(Source(f"http://{host}:{server.server_port}/a.png"))
        assert caught.value.kind == "forbidden_source"
        assert server.seen == []

    @pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:10.0.0.1", "169.254.169.254", "fe80::1%lo"])
    def test_names_that_lead_there(self, names, address):
        names[0]["shop.test"] = [address]
        assert refused(Fetcher(100), "http://shop.test/a.png").kind == "forbidden_source"

    def test_one_bad_address_among_good_ones(self, names):
        names[0]["shop.test"] = ["93.184.215.14", "10.0.0.1"]
        error = refused(Fetcher(100), "http://shop.test/a.png")
        assert "leads to 10.0.0.1, which is not public (private)" in error.message

    @pytest.mark.parametrize(
        "url",
        [
            "http://user:secret@example.com/a.png",
            "http://user@example.com/",
            "http://example.com\\@127.0.0.1/",
            "http://exa mple.com/",
            "http://example.com/a\r\nHost: x",
            "http:///a.png",
            "http://:80/",
            "http://example.com:0/",
            "http://example.com:99999/",
            "http://[::1/",
            "http://[::1%25lo]/",
            "http://" + "a" * 3000 + ".com/",
            "ftp://example.com/",
            "//example.com/",
            "http://exam\u0000ple.com/",
            "http://xn--/" + "é" * 2100,
        ],
    )
    def test_addresses_that_are_not_plain(self, url):
        with pytest.raises(FetchError) as caught:
            target_of(url)
        assert caught.value.kind == "forbidden_source"

    def test_off_unless_asked_for(self, server, tmp_path, jsonl, problems):
        with SourceLoader(tmp_path) as loader, pytest.raises(RowError) as caught:
            loader.load(Source(f"{server.url}/a.png"))
        assert caught.value.kind == "forbidden_source"
        row = {"image": "https://example.com/a.png"}
        assert "needs --allow-http" in problems(jsonl(row))[0]
        assert read_manifest(jsonl(row), allow_http=True).row(0).sources[0].path == row["image"]
        (found,) = problems(jsonl({"image": "http://u:p@example.com/a.png"}), allow_http=True)
        assert "holds credentials" in found
        assert PathPolicy(tmp_path, True).problem("file:///etc/passwd") is not None


class TestRedirectsAndRebinding:
    def test_a_redirect_to_an_address_that_is_not_public(self, names):
        """The first server is reached through an allowed network, the second is not in it."""
        with serving() as server:
            for location in (
                "http://169.254.169.254/latest/",
                "http://10.0.0.1/",
                "//[::1]/",
                "ftp://x/",
                "file:///x",
            ):
                server.answers["/x"] = lambda h, where=location: h.give(302, Location=where)
                assert refused(Fetcher(100, ["127.0.0.1/32"]), f"{server.url}/x").kind == "forbidden_source"

    def test_a_name_that_changes_its_address(self, server, names, monkeypatch):
        """The address that was checked is the one that is connected to: a second look-up never happens."""
        answers = iter([["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1"]])
        real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **o: real(next(answers)[0], *a, **o))
        fetcher = Fetcher(1 << 20, ["127.0.0.0/8"])
        url = f"http://shop.test:{server.server_port}/a.png"
        assert fetcher.fetch(url) == encoded()
        assert refused(fetcher, url).kind == "forbidden_source"
        assert len(server.seen) == 1


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address):
    assert refusal(address) is None


def test_every_special_block_is_refused():
    blocks = "0/8 10/8 100.64/10 127/8 169.254/16 172.16/12 192.0.0/24 192.0.2/24 192.168/16 198.18/15 198.51.100/24 "
    blocks += "203.0.113/24 224/4 240/4"
    for block in blocks.split():
        start, _, length = block.partition("/")
        network = ipaddress.ip_network(f"{start}{'.0' * (3 - start.count('.'))}/{length}")
        for address in (network[0], network[-1], network[network.num_addresses // 2]):
            assert refusal(str(address)) is not None
            assert refusal(f"::ffff:{address}") is not None
    assert refusal("10.0.0.1", networks(["10.0.0.0/24"])) is None
    assert refusal("::ffff:10.0.0.1", networks(["10.0.0.0/24"])) is None
    assert refusal("10.0.1.1", networks(["10.0.0.0/24"])) is not None
    assert refusal("not an address") is not None
