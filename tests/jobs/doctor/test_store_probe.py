"""The check of an output folder in an object store, against a server on this machine."""

from __future__ import annotations

import pytest
from s3_server import ENVIRONMENT, running

from wanbatch.jobs.doctor.check import Finding, Question
from wanbatch.jobs.doctor.registry import CHECKS
from wanbatch.jobs.doctor.runner import run
from wanbatch.manifests.storage import fsspec_io


@pytest.fixture
def server(monkeypatch):
    with running() as server:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url}.items():
            monkeypatch.setenv(name, value)
        fsspec_io.forget_file_systems()
        system = fsspec_io.file_system("s3://bucket")
        if not system.exists("bucket"):  # moto keeps buckets as long as its process
            system.mkdir("bucket")
        yield server
    fsspec_io.forget_file_systems()


[CHECK] = [check for check in CHECKS if check.name == "output"]


def output(out: str) -> Finding:
    return CHECK.judge(CHECK.probe(Question(out=out)))


def test_a_store_is_tried_and_left_as_it_was(server):
    """In a process of its own, as the doctor does."""
    found = run(CHECK, Question(out="s3://bucket/left-as-it-was/images")).finding
    assert (found.level, found.message) == (
        "ok",
        "s3://bucket/left-as-it-was/images: writing, reading, listing, deleting and the lease work",
    )
    assert {line.split()[0] for line in server.log} >= {"PUT", "GET", "DELETE"}
    assert fsspec_io.file_system("s3://bucket").find("bucket/left-as-it-was") == []


def test_a_bucket_that_is_not_there(server):
    found = output("s3://nowhere/images")
    assert found.level == "fault"
    assert "s3://nowhere/images: " in found.message
    assert found.remedy.startswith("check the address, its credentials and their rights")


def test_a_store_without_conditional_writes(server):
    server.ignores_conditions = True
    found = output("s3://bucket/images")
    assert found.level == "fault"
    assert "ignores conditional writes" in found.message
    server.ignores_conditions = False
    assert output("s3://bucket/images").level == "ok"


def test_rights_to_read_alone(server):
    server.fault = lambda method, path: ("403 Forbidden", "AccessDenied") if method == "PUT" else None
    found = output("s3://bucket/images")
    assert found.level == "fault"
    assert "denied" in found.message.lower() or "forbidden" in found.message.lower()
    server.mend()
    assert output("s3://bucket/images").level == "ok"
