"""Which cluster a run uses, and what is said where it cannot be used."""

from __future__ import annotations

import json
import os
import socket
from contextlib import nullcontext

import pytest
import ray

from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.config.settings import Settings, read_settings
from wanbatch.jobs.driver import ray_session
from wanbatch.jobs.driver.cluster_session import (
    cluster_address,
    connected,
    connection_error,
    missing_package,
    needless_token,
    token_refused,
    token_sent,
)

JOB = {"RAY_ADDRESS": "10.0.0.1:6379"} | {
    "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {}, "metadata": {"job_submission_id": "x"}})
}


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (None, {}, None),
        (None, {"RAY_ADDRESS": "10.0.0.1:6379"}, None),  # a Ray of the run's own, with a warning
        (None, {"RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env": {"working_dir": "x"}}'}, None),
        (None, {"RAY_JOB_CONFIG_JSON_ENV_VAR": "not JSON"}, None),
        (None, JOB, "10.0.0.1:6379"),
        ("auto", {}, "auto"),
        ("auto", {"RAY_ADDRESS": "10.0.0.1:6379"}, "10.0.0.1:6379"),
        ("head:6379", JOB, "head:6379"),
        ("ray://head:10001", {}, "ray://head:10001"),
    ],
)
def test_the_address_of_the_cluster(given, environment, expected):
    """As the warning about RAY_ADDRESS says: --address auto takes that one."""
    assert cluster_address(given, environment) == expected


@pytest.mark.parametrize("address", ["auto", "head:6379", "ray://head.example:10001", "[::1]:6379"])
def test_addresses_that_are_taken(address, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert read_settings(address=address).address == address


@pytest.mark.parametrize("address", ["head", "http://head:8265", "ray://head", "a b:1", ""])
def test_addresses_that_are_not(address, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"setting address: --address is .*: must be auto, HOST:PORT or ray://HOST:PORT"
    ):
        read_settings(address=address)


def test_labels_of_nodes(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert read_settings(label_selector=("a=b", "zone=in(x,y)")).label_selector == {"a": "b", "zone": "in(x,y)"}
    monkeypatch.setenv("WANBATCH_LABEL_SELECTOR", "a=!b,zone=in(x,y)")
    assert read_settings().label_selector == {"a": "!b", "zone": "in(x,y)"}
    with pytest.raises(UserError, match=r"'spot' must be KEY=VALUE, like market-type=spot"):
        read_settings(label_selector=("spot",))
    with pytest.raises(UserError, match=r"label 'a' is asked to be both 'b' and 'c'"):
        read_settings(label_selector=("a=b", "a=c"))


def test_workers_may_be_auto_and_old_folders_say_none():
    assert Settings(workers="auto").workers == "auto"
    assert Settings(workers=None).workers is None


def test_a_cluster_that_does_not_answer_is_told_of_at_once(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests of this process may have a Ray
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(MachineryError, match=rf"no Ray cluster answers at 127.0.0.1:{port} \(Connection refused\)"):
        connected(f"127.0.0.1:{port}").__enter__()


@pytest.mark.parametrize("fails", [False, True])
def test_what_ray_makes_of_its_mode_is_undone(monkeypatch, fails):
    """Ray sets it where there is a token in the home folder, and children would ask for one from then on."""

    def init(**given: object) -> None:
        os.environ["RAY_AUTH_MODE"] = "token"
        if fails:
            raise TimeoutError

    reread: list[str | None] = []
    for name, function in (("is_initialized", lambda: False), ("init", init), ("shutdown", lambda: None)):
        monkeypatch.setattr(ray, name, function)
    monkeypatch.setattr(ray_session, "_reread_token", lambda: reread.append(os.environ.get("RAY_AUTH_MODE")))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(MachineryError) if fails else nullcontext(), connected("auto"):
        assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_MODE" not in os.environ
    assert reread == [None, None]


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (RuntimeError("Version mismatch: The cluster was started with: Ray: 2.40"), UserError, "another version"),
        (RuntimeError("Unauthenticated: Invalid or missing auth token"), UserError, "set RAY_AUTH_MODE=token"),
        (ConnectionError("Could not find any running Ray instance"), UserError, "ray start --head"),
        (ImportError("No module named 'grpc'"), UserError, r"pip install 'ray\[client\]'"),
        (TimeoutError("timed out"), MachineryError, "run the same command again"),
    ],
)
def test_why_a_cluster_cannot_be_used(error, kind, told, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    made = connection_error("auto", error)
    assert type(made) is kind
    with pytest.raises(kind, match=told):
        raise made


def test_which_token_is_sent_is_told_and_not_the_token(tmp_path):
    secret = tmp_path / "token"
    secret.write_text("s3cret")
    for environment, told in (
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "s3cret"}, "no token (RAY_AUTH_MODE is disabled)"),
        ({"RAY_AUTH_TOKEN": "s3cret"}, "no token (RAY_AUTH_MODE is not set)"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "s3cret"}, "the token of RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(secret)}, f"the token of the file {secret}"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{secret}-2"}, f"no token ({secret}-2 is not there)"),
    ):
        assert token_sent(environment) == told
        begin, sent, remedy = token_refused(environment).partition(told)
        assert (begin, sent) == ("which sends ", told)
        is_wrong, is_set = told.startswith("the token"), environment.get("RAY_AUTH_MODE") == "token"
        assert ("that is not the cluster's own: put the cluster's own token there" in remedy) == is_wrong
        assert ("set RAY_AUTH_MODE=token" in remedy) is not is_set
        assert ("into RAY_AUTH_TOKEN, the file" in remedy) is not is_wrong
        assert "s3cret" not in remedy


@pytest.mark.parametrize(("of_cluster", "here", "refused"), [(False, True, True), (True, True, False), (False,) * 3])
def test_a_token_that_the_cluster_does_not_have(of_cluster, here, refused):
    """Remedy and all: tests/faults/test_nodes.py."""
    assert (needless_token(of_cluster, here) is not None) is refused


def test_a_cluster_without_wanbatch():
    error = missing_package(RuntimeError("ray::x() ... ModuleNotFoundError: No module named 'wanbatch'"))
    assert str(error).startswith(
        "the cluster's nodes lack the package wanbatch: install wanbatch on all of them, or use"
    )
    assert missing_package(RuntimeError("another thing")) is None
