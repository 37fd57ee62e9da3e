"""Sources over http(s): what is fetched, how much of it, and for how long."""

import socket
import ssl
import time

import pytest
from manifest_making import encoded
from web_server import LOCAL, QUICK, refused, self_signed, serving

from wanbatch.manifests.records import Source
from wanbatch.manifests.sources import http as fetching
from wanbatch.manifests.sources.http import Fetcher
from wanbatch.manifests.sources.loader import SourceLoader


class TestFetching:
    def test_an_image(self, server, tmp_path):
        with SourceLoader(tmp_path, allow_http=True, fetcher=Fetcher(1 << 20, LOCAL)) as loader:
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
        fetcher = Fetcher(1000, LOCAL, total_seconds=5, retries=QUICK)
        if kind is None:
            assert fetcher.fetch(f"{server.url}/x") == b"x"
        else:
            assert refused(fetcher, f"{server.url}/x").kind == kind

    def test_an_encoding_is_named(self, server):
        server.answers["/x"] = lambda h: h.give(200, b"x", Content_Encoding="br,\tgzip")
        error = refused(Fetcher(1000, LOCAL), f"{server.url}/x")
        assert error.message == "cannot be used: the server sent Content-Encoding: br, gzip"

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
        error = refused(Fetcher(1 << 20, LOCAL, total_seconds=0.7), f"{server.url}/x")
        assert (error.kind, "no answer within 0.7 s" in error.message) == ("unreachable", True)

    def test_nobody_listens_or_knows_the_host(self, names, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        assert refused(Fetcher(100, LOCAL, retries=QUICK), f"http://127.0.0.1:{port}/").kind == "unreachable"
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

    def test_a_handshake_that_never_ends(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
            error = refused(Fetcher(100, LOCAL, total_seconds=0.5), url)
        assert (error.kind, "timed out" in error.message) == ("unreachable", True)

    def test_no_way_down_to_http(self, secure, server, names):
        above, trusting = secure
        names[0]["shop.test"] = ["127.0.0.1"]
        above.answers["/x"] = lambda h: h.give(302, Location=f"{server.url}/a.png")
        error = refused(Fetcher(1 << 20, LOCAL, context=trusting), f"https://shop.test:{above.server_port}/x")
        assert (error.kind, server.seen) == ("forbidden_source", [])
