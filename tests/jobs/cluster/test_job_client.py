"""Reaching a cluster: which address is meant, and one message for each way in which it does not answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.cluster import job_client
from wanbatch.jobs.cluster.job_client import ClusterJobs, ClusterUnreachableError, dashboard_address

Answer = tuple[int, str]
CUT_OFF = 206
"""By which the server promises more than it sends, as where a connection is lost in the midst of an answer."""


@pytest.fixture(autouse=True)
def _no_ray_variables(monkeypatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "RAY_JOB_HEADERS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str, dict], Answer]], str]]:
    """Start an HTTP server that answers requests by a function of path and headers; returns its address."""
    servers: list[HTTPServer] = []

    def start(answer: Callable[[str, dict], Answer]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                code, body = answer(self.path, dict(self.headers))
                self.send_response(code)
                if code == CUT_OFF:
                    self.send_header("Content-Length", str(2 * len(body) + 1))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *arguments) -> None: ...

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def version(number: str) -> Callable[[str, dict], Answer]:
    return lambda path, headers: (200, json.dumps({"version": "4", "ray_version": number, "ray_commit": "x"}))


@pytest.mark.parametrize(
    ("given", "environment", "address"),
    [
        (None, {}, "http://127.0.0.1:8265"),
        ("head:8265", {}, "http://head:8265"),
        ("https://head/", {}, "https://head"),
        (None, {"RAY_API_SERVER_ADDRESS": "http://a:1", "RAY_ADDRESS": "http://b:2"}, "http://a:1"),
        (None, {"RAY_ADDRESS": "http://b:2"}, "http://b:2"),
        ("http://c:3", {"RAY_API_SERVER_ADDRESS": "http://a:1", "RAY_ADDRESS": "10.0.0.1:6379"}, "http://c:3"),
    ],
)
def test_the_flag_wins_over_variables(given, environment, address):
    assert dashboard_address(given, environment) == address


@pytest.mark.parametrize(
    ("given", "environment"), [("ray://head:10001", {}), (None, {"RAY_ADDRESS": "10.0.0.1:6379"}), ("http://", {})]
)
def test_another_address_than_the_dashboards_is_refused(given, environment):
    with pytest.raises(UserError, match="http://HOST:8265"):
        dashboard_address(given, environment)


@pytest.mark.parametrize(("given", "environment"), [("auto", {}), (None, {"RAY_API_SERVER_ADDRESS": "auto"})])
def test_auto_is_no_dashboard(given, environment):
    """It is an address of `wanbatch run`, for which Ray looks at this machine."""
    with pytest.raises(UserError, match=r"auto: jobs are asked of the dashboard .* which is http://127.0.0.1:8265$"):
        dashboard_address(given, environment)


def test_the_address_that_is_given_is_used_whatever_variables_say(serve, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    address = serve(version("2.60.0"))
    assert ClusterJobs(address).address == address


def test_an_unreachable_cluster_is_one_message():
    with pytest.raises(ClusterUnreachableError, match=r"http://127\.0\.0\.1:9: no Ray cluster answers") as caught:
        ClusterJobs("127.0.0.1:9")
    assert caught.value.exit_code == 75


@pytest.mark.parametrize("number", ["1.8.0", "1.13.0", "2.9.3"])
def test_too_old_a_cluster_is_one_message(serve, number):
    with pytest.raises(UserError, match=f"{number}.*needs.*2.40 or newer: upgrade"):
        ClusterJobs(serve(version(number)))


@pytest.mark.parametrize("code", [401, 403])
def test_a_cluster_with_a_token_is_one_message(serve, monkeypatch, code):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    says = r"does not take this process, which sends no token \(RAY_AUTH_MODE is not set\): set RAY_AUTH_MODE=token"
    with pytest.raises(UserError, match=says):
        ClusterJobs(serve(lambda path, headers: (code, "no")))


def test_a_token_that_is_not_the_clusters_is_said_to_be_so(serve, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "2" * 64)
    with pytest.raises(UserError, match="the token of RAY_AUTH_TOKEN, and that is not the cluster's own") as told:
        ClusterJobs(serve(lambda path, headers: (403, "no")))
    assert "RAY_AUTH_MODE" not in str(told.value)


def test_another_server_is_told_from_a_cluster(serve):
    with pytest.raises(UserError, match="is not the dashboard of a Ray cluster"):
        ClusterJobs(serve(lambda path, headers: (200, "<html>")))


def test_errors_of_the_cluster_may_pass(serve):
    broken: list[Answer] = []
    jobs = ClusterJobs(serve(lambda path, headers: broken[-1] if broken else version("2.60.0")(path, headers)))
    broken.append((503, "starting"))
    with pytest.raises(ClusterUnreachableError, match="503"):
        jobs.state("wanbatch-x-1")
    broken.append((404, "no such job"))
    assert jobs.state("wanbatch-x-1") is None
    broken.append((400, "odd"))
    with pytest.raises(MachineryError, match="refused"):
        jobs.logs("wanbatch-x-1")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((CUT_OFF, '{"status": "RUN'), "no Ray cluster answers there"),
        ((200, "<html>sign in</html>"), "what answers there is the dashboard of a Ray cluster no more"),
    ],
)
def test_what_comes_in_place_of_an_answer_of_a_known_cluster_may_pass(serve, answer, said):
    """So that following a job survives it."""
    broken: list[Answer] = []
    jobs = ClusterJobs(serve(lambda path, headers: broken[-1] if broken else version("2.60.0")(path, headers)))
    broken.append(answer)
    with pytest.raises(ClusterUnreachableError, match=said):
        jobs.state("wanbatch-x-1")


def test_headers_are_sent_along(serve, monkeypatch):
    seen: list[dict] = []

    def answer(path: str, headers: dict) -> Answer:
        seen.append(headers)
        return version("2.60.0")(path, headers)

    monkeypatch.setenv("RAY_JOB_HEADERS", '{"X-Gate": "open"}')
    ClusterJobs(serve(answer))
    assert seen
    assert all(headers["X-Gate"] == "open" for headers in seen)
    monkeypatch.setenv("RAY_JOB_HEADERS", "open")
    with pytest.raises(UserError, match="RAY_JOB_HEADERS"):
        ClusterJobs("http://127.0.0.1:9")


def test_a_cluster_that_has_just_started_is_asked_again(serve, monkeypatch):
    """Its dashboard answers before a node takes jobs."""
    jobs, asked = ClusterJobs(serve(version("2.60.0"))), []

    def submit_job(**given) -> None:
        asked.append(given["submission_id"])
        if len(asked) < 3:
            raise RuntimeError("Request failed with status code 500: No available agent to submit job")

    monkeypatch.setattr(jobs._client, "submit_job", submit_job)
    monkeypatch.setattr(job_client, "AGENT_PAUSE_SECONDS", 0.01)
    jobs.submit("wanbatch-1", "true", {}, {})
    assert asked == ["wanbatch-1"] * 3
    asked.clear()
    monkeypatch.setattr(job_client, "AGENT_SECONDS", 0.0)
    with pytest.raises(ClusterUnreachableError, match=r"takes no jobs, .*dashboard_agent\.log.*start the head again"):
        jobs.submit("wanbatch-1", "true", {}, {})
