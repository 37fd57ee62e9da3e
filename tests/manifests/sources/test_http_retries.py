"""Web servers that fail for a while: which answers are asked for again, how often, and what is told in the end."""

import logging

import pytest
from manifest_making import encoded
from web_server import LOCAL, QUICK, refused

from wanbatch.manifests.sources import http as fetching
from wanbatch.manifests.sources.http import Fetcher


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between tries, which are not waited for."""
    found: list[float] = []
    monkeypatch.setattr(fetching.time, "sleep", found.append)
    return found


def failing(server, *failures, path="/x"):
    """The server answers with these failures, one after another, and then with an image."""
    left = list(failures)
    server.answers[path] = lambda handler: left.pop(0)(handler) if left else handler.give(200, encoded())
    return f"{server.url}{path}"


def status(code: int, **headers):
    return lambda handler: handler.give(code, b"later", **headers)


def hang_up(handler) -> None:
    handler.close_connection = True


def break_off(handler) -> None:
    handler.give(200, b"x" * 10, Content_Length="500")


def test_one_busy_answer_does_not_lose_a_row(server, caplog):
    url = failing(server, status(503, Retry_After="0"))
    fetcher = Fetcher(1 << 20, LOCAL)
    with caplog.at_level(logging.INFO, fetching.__name__):
        assert fetcher.fetch(f"{url}?key=secret") == encoded()
    assert (fetcher.retried, len(server.seen)) == (1, 2)
    (record,) = caplog.records
    assert "status 503" in record.getMessage()
    assert "secret" not in record.getMessage()


@pytest.mark.parametrize(
    "failure", [*map(status, (429, 500, 502, 503, 504)), hang_up, break_off, lambda h: h.wfile.write(b"\0\xff" * 9)]
)
def test_what_may_pass_is_asked_for_again(server, failure):
    fetcher = Fetcher(1 << 20, LOCAL, retries=QUICK)
    assert fetcher.fetch(failing(server, failure, failure)) == encoded()
    assert fetcher.retried == 2


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 501])
def test_what_stays_is_asked_for_once(server, code):
    fetcher = Fetcher(1 << 20, LOCAL, retries=QUICK)
    refused(fetcher, failing(server, status(code)))
    assert (fetcher.retried, len(server.seen)) == (0, 1)


def test_it_ends_after_a_few_tries_with_growing_pauses(server, pauses):
    fetcher = Fetcher(1 << 20, LOCAL)
    error = refused(fetcher, failing(server, *[status(502)] * 9))
    assert (error.kind, error.message) == ("unreachable", "could not be fetched (status 502), tried 4 times")
    assert (fetcher.retried, len(server.seen)) == (3, 4)
    assert pauses == [0.0, 1.0, 2.0]


def test_the_server_says_how_long_to_wait(server, pauses):
    fetcher = Fetcher(1 << 20, LOCAL)
    fetcher.fetch(failing(server, status(429, Retry_After="7"), status(503, Retry_After="0")))
    assert pauses == [7.0, 0.0]


@pytest.mark.parametrize(
    "header", ["soon", "-1", "9" * 5000, "Mon, 99 Foo 99999 99:99:99 GMT", "Wed, 21 Oct 2015 07:28:00 GMT"]
)
def test_odd_and_past_times_to_wait(server, pauses, header):
    fetcher = Fetcher(1 << 20, LOCAL)
    assert fetcher.fetch(failing(server, status(503, Retry_After=header))) == encoded()
    assert pauses == [0.0]


def test_a_wait_that_is_longer_than_what_is_left_is_not_begun(server, pauses):
    error = refused(Fetcher(1 << 20, LOCAL, total_seconds=30), failing(server, status(503, Retry_After="31")))
    assert (error.kind, error.message) == ("unreachable", "could not be fetched (status 503)")
    assert pauses == []


def test_a_host_is_looked_up_once_for_all_tries(server, names):
    known, lookups = names
    known["shop.test"] = ["127.0.0.1"]
    failing(server, status(500), status(500))
    fetcher = Fetcher(1 << 20, LOCAL, retries=QUICK)
    assert fetcher.fetch(f"http://shop.test:{server.server_port}/x") == encoded()
    assert lookups == ["shop.test"]


def test_each_hop_of_a_redirect_may_be_tried_again(server):
    server.answers["/a"] = lambda h: h.give(302, Location="/x")
    failing(server, status(503), status(503))
    fetcher = Fetcher(1 << 20, LOCAL, retries=QUICK)
    assert fetcher.fetch(f"{server.url}/a") == encoded()
    assert fetcher.retried == 2
