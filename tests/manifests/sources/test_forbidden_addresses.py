"""Web addresses that are never even connected to."""

import ipaddress
import socket

import pytest
from manifest_making import encoded
from web_server import refused, serving

from wanbatch.errors import RowError
from wanbatch.manifests.reading.manifest import read_manifest
from wanbatch.manifests.records import Source
from wanbatch.manifests.sources.addresses import parse_networks, why_not_public
from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.http import Fetcher
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.sources.path_policy import PathPolicy
from wanbatch.manifests.sources.web_address import parse_web_address

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
        with pytest.raises(SourceError) as caught:
            parse_web_address(url)
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
                "http://[::1",
                "http://exa mple.com/",
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
    assert why_not_public(address) is None


def test_every_special_block_is_refused():
    blocks = "0/8 10/8 100.64/10 127/8 169.254/16 172.16/12 192.0.0/24 192.0.2/24 192.168/16 198.18/15 198.51.100/24 "
    blocks += "203.0.113/24 224/4 240/4"
    for block in blocks.split():
        start, _, length = block.partition("/")
        network = ipaddress.ip_network(f"{start}{'.0' * (3 - start.count('.'))}/{length}")
        for address in (network[0], network[-1], network[network.num_addresses // 2]):
            assert why_not_public(str(address)) is not None
            assert why_not_public(f"::ffff:{address}") is not None
    assert why_not_public("10.0.0.1", parse_networks(["10.0.0.0/24"])) is None
    assert why_not_public("::ffff:10.0.0.1", parse_networks(["10.0.0.0/24"])) is None
    assert why_not_public("10.0.1.1", parse_networks(["10.0.0.0/24"])) is not None
    assert why_not_public("not an address") is not None
