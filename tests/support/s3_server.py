"""An S3 server on this machine for the tests: moto's, with conditional writes made atomic, and with faults.

moto checks `If-None-Match: *` and then writes, in several threads; a lock around each request makes the two one
step, as in S3. A request is read whole before: a client that is stopped in the middle of one stops nobody else.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from wanbatch.manifests.storage.fsspec_io import file_system

Fault = Callable[[str, str], "tuple[str, str] | None"]
"""(method, path) -> status line and S3 error code, or None to let the request through."""


class _Quiet(WSGIRequestHandler):
    def log(self, *arguments: Any) -> None:
        pass


class Server:
    """A running server.

    fault: may answer requests in its place; lost: as well, after the request was done.
    ignores_conditions: as a store does that knows no `If-None-Match`. log: `METHOD path` of each request.
    """

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self.mend()
        self.log: list[str] = []
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def mend(self) -> None:
        """No faults (any more)."""
        self.fault: Fault = lambda method, path: None
        self.lost: Fault = lambda method, path: None
        self.ignores_conditions = False

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.log.append(f"{method} {path}")
        length = -1 if environ.get("wsgi.input_terminated") else int(environ.get("CONTENT_LENGTH") or 0)
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(length))
        if self.ignores_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if (refused := self.fault(method, path)) is not None:
            return self._refuse(refused, start_response)
        begun: list[tuple] = []
        with self._lock:
            answer = list(self._app(environ, lambda *arguments: begun.append(arguments)))
        if (refused := self.lost(method, path)) is not None:
            return self._refuse(refused, start_response)
        start_response(*begun[-1])
        return answer

    def _refuse(self, refused: tuple[str, str], start_response: Callable) -> Iterable[bytes]:
        body = f"<?xml version='1.0'?><Error><Code>{refused[1]}</Code><Message>{refused[1]}</Message></Error>"
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        start_response(refused[0], headers)
        return [body.encode()]


@contextmanager
def running() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.close()


ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def empty_bucket(name: str) -> None:
    """Make a bucket, or empty it: all servers of a process have the same ones."""
    system = file_system(f"s3://{name}")
    if not system.exists(name):
        system.mkdir(name)
    for path in system.find(name):
        system.rm_file(path)
