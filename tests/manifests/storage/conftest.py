"""Fixtures for the tests of `wanbatch.manifests.storage`: an S3 server on this machine and an empty folder in it."""

import pytest
from s3_server import ENVIRONMENT, running

from wanbatch.manifests.storage import fsspec_io


@pytest.fixture(scope="module")
def shared_server():
    with running() as server:
        yield server


@pytest.fixture
def server(shared_server, monkeypatch):
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": shared_server.url}.items():
        monkeypatch.setenv(name, value)
    fsspec_io.forget_file_systems()
    yield shared_server
    shared_server.mend()
    fsspec_io.forget_file_systems()


@pytest.fixture
def bucket(server, request):
    """The URL of an empty folder in a bucket."""
    system = fsspec_io.file_system("s3://bucket")
    if not system.exists("bucket"):
        system.mkdir("bucket")
    return f"s3://bucket/{abs(hash(request.node.nodeid)):x}"
