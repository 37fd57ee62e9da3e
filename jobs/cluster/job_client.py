"""The jobs of a Ray cluster, by Ray's Jobs API: how it is reached, and what each way of failing means."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests
from packaging.version import InvalidVersion, Version
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.cluster.job_state import JobState, exit_code_of, missing_interpreter
from wanbatch.jobs.cluster.submission import ID_PREFIX, STOP_VARIABLE
from wanbatch.jobs.config.settings import AUTO
from wanbatch.jobs.driver.cluster_session import token_refused

OLDEST_RAY = "2.40"
NO_AGENT = "No available agent"
AGENT_SECONDS, AGENT_PAUSE_SECONDS = 60.0, 1.0  # for the first node of a cluster to take jobs
CONNECT_SECONDS, READ_SECONDS, UPLOAD_SECONDS = 10.0, 60.0, 600.0
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
DEFAULT_ADDRESS = "http://127.0.0.1:8265"


class ClusterUnreachableError(MachineryError):
    """The cluster does not answer, which may pass."""


class JobExistsError(Exception):
    """There is a job of this id already."""


class _Client(JobSubmissionClient):
    """Ray's client, with bounds on how long it waits: a host that drops packets would hold it for minutes."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        seconds = UPLOAD_SECONDS if method == "PUT" else READ_SECONDS
        return super()._do_request(method, endpoint, timeout=(CONNECT_SECONDS, seconds), **options)


class ClusterJobs:
    """The jobs of one cluster.

    Attributes:
        address: of its dashboard, a URL.
        ray_version: of the cluster.
    """

    def __init__(self, address: str | None = None, flag: str = "--address"):
        """Connect to a cluster.

        Args:
            address: `http://HOST:PORT` of its dashboard; default: `RAY_API_SERVER_ADDRESS`, `RAY_ADDRESS`, or that of
                a cluster on this machine.
            flag: that gives the address, for messages.

        Raises:
            UserError: It is no such address, the cluster wants a token, or its Ray is too old.
            ClusterUnreachableError: It does not answer.
        """
        _quiet()
        self._flag = flag
        self._is_known = False
        self.address: str = dashboard_address(address, os.environ, flag)
        headers = _headers(os.environ)
        with self._failures(), _without(ADDRESS_VARIABLES):
            self._client = _connected(self.address, headers)
            self.ray_version = self._client._do_request("GET", "/api/version").json()["ray_version"]
        ensure_recent(self.ray_version, self.address)
        self._is_known = True

    def submit(
        self, submission_id: str, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> None:
        """Start a job with few resources of its own. A cluster that has just started is given time to take one.

        Raises:
            JobExistsError: There is one of this id.
        """
        ends = time.monotonic() + AGENT_SECONDS
        with self._failures():
            while True:
                try:
                    self._client.submit_job(
                        entrypoint=entrypoint, submission_id=submission_id, runtime_env=runtime_env, metadata=metadata
                    )
                    return
                except (ValueError, RuntimeError) as error:
                    if "already exists" in str(error):
                        raise JobExistsError(submission_id) from error
                    if NO_AGENT not in str(error):
                        raise
                    if time.monotonic() > ends:
                        raise ClusterUnreachableError(_without_agent(self.address)) from error
                time.sleep(AGENT_PAUSE_SECONDS)

    def state(self, submission_id: str) -> JobState | None:
        """How a job is; None if the cluster knows of none."""
        with self._failures():
            try:
                return _state(self._client.get_job_info(submission_id))
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return None
                raise

    def states(self) -> list[JobState]:
        """The jobs of wanbatch, those that were submitted last first."""
        with self._failures():
            found = [one for one in self._client.list_jobs() if (one.submission_id or "").startswith(f"{ID_PREFIX}-")]
        return sorted(map(_state, found), key=lambda one: one.started or 0, reverse=True)

    def logs(self, submission_id: str) -> str:
        """What a job has printed so far, from its beginning."""
        with self._failures():
            return self._client.get_job_logs(submission_id)

    def stop(self, submission_id: str) -> None:
        """Ask a job to stop; it goes on until its run has drained. Asked again, it goes on as before.

        Ray sends the run one SIGTERM, however often it is asked.
        """
        with self._failures():
            self._client.stop_job(submission_id)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn whatever the client raises into one of our errors."""
        try:
            yield
        except AuthenticationError as error:
            raise UserError(
                f"{self.address}: the cluster does not take this process, {token_refused(os.environ)}"
            ) from error
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout, ConnectionError) as error:
            raise ClusterUnreachableError(_unreachable(self.address)) from error
        except requests.exceptions.ChunkedEncodingError as error:  # an answer that was cut off
            raise ClusterUnreachableError(_unreachable(self.address)) from error
        except (requests.exceptions.RequestException, ValueError, KeyError) as error:
            if self._is_known and isinstance(error, requests.exceptions.RequestException):
                raise ClusterUnreachableError(_no_dashboard_now(self.address, error)) from error
            raise UserError(
                f"{self.address}: what answers there is not the dashboard of a Ray cluster ({_line(error)}): give "
                f"{self._flag} http://HOST:8265"
            ) from error
        except RuntimeError as error:
            text = _line(error)
            if "ray[default]" in text:
                raise UserError(
                    "submitting needs packages that are missing: pip install 'wanbatch[cluster]'"
                ) from error
            if "status code 5" in text:
                raise ClusterUnreachableError(f"{self.address}: the cluster answers with an error: {text}") from error
            raise MachineryError(f"{self.address}: the cluster refused: {text}") from error


def dashboard_address(given: str | None, environment: Mapping[str, str], flag: str = "--address") -> str:
    """The URL of a cluster's dashboard.

    Args:
        given: by the user; None: the environment says.
        environment: variables.
        flag: that gives the address, for messages.

    Raises:
        UserError: It is the address of something else.
    """
    sources = [(flag, given), *((name, environment.get(name)) for name in ADDRESS_VARIABLES)]
    source, address = next(((name, value) for name, value in sources if value), ("", DEFAULT_ADDRESS))
    scheme, separator, rest = address.partition("://")
    if source == "RAY_ADDRESS" and not (separator and scheme in ("http", "https")):
        raise UserError(
            f"RAY_ADDRESS={address}: is not the address of the dashboard, which takes jobs: give {flag} "
            "http://HOST:8265"
        )
    if address == AUTO:
        raise UserError(
            f"{source} {address}: jobs are asked of the dashboard of a cluster, which has to be named: give {flag} "
            f"http://HOST:8265, or no address for a cluster on this machine, which is {DEFAULT_ADDRESS}"
        )
    if not separator:
        scheme, rest = "http", address
    if scheme not in ("http", "https") or not rest.strip("/"):
        raise UserError(f"{source} {address}: must be the address of the dashboard, like http://HOST:8265")
    host = rest.rstrip("/")
    return f"{scheme}://{host}"


def ensure_recent(version: str, address: str) -> None:
    """Check the version of a cluster's Ray.

    Raises:
        UserError: It is older than `OLDEST_RAY`.
    """
    try:
        old = Version(version) < Version(OLDEST_RAY)
    except InvalidVersion:  # a build of someone's own
        return
    if old:
        raise UserError(
            f"{address}: the cluster runs Ray {version} and wanbatch needs {OLDEST_RAY} or newer: upgrade it"
        )


def _quiet() -> None:
    """Ray tells of each package that it uploads, in lines of its own form."""
    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)


def _connected(address: str, headers: dict[str, str]) -> _Client:
    try:
        return _Client(address, headers=headers)
    except RuntimeError as error:
        if "or higher" in str(error):
            raise UserError(
                f"{address}: {_line(error)}; wanbatch needs Ray {OLDEST_RAY} or newer: upgrade it"
            ) from error
        raise


def _state(found: Any) -> JobState:
    ended_by = (str(getattr(found.status, "value", found.status)), found.driver_exit_code, found.message)
    return JobState(
        id=found.submission_id,
        status=ended_by[0],
        message=found.message or "",
        exit_code=exit_code_of(*ended_by),
        metadata=dict(found.metadata or {}),
        started=None if found.start_time is None else found.start_time / 1000,
        ended=None if found.end_time is None else found.end_time / 1000,
        stop_seconds=_stop_seconds(found.runtime_env or {}),
        interpreter=missing_interpreter(*ended_by, found.entrypoint),
    )


def _stop_seconds(runtime_env: Mapping[str, Any]) -> int | None:
    seconds = str((runtime_env.get("env_vars") or {}).get(STOP_VARIABLE, ""))
    return int(seconds) if seconds.isdecimal() else None


def _headers(environment: Mapping[str, str]) -> dict[str, str]:
    text = environment.get("RAY_JOB_HEADERS") or "{}"
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError('RAY_JOB_HEADERS: must be a JSON object of headers, like {"Authorization": "Bearer ..."}')
    return {str(name): str(value) for name, value in found.items()}


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Take variables out of the environment meanwhile: Ray prefers them to the address that it is given."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def _unreachable(address: str) -> str:
    return (
        f"{address}: no Ray cluster answers there: is it up, can this machine reach the port of its dashboard "
        "(8265; on Kubernetes `kubectl port-forward svc/NAME-head-svc 8265`), and is ray[default] installed on its "
        "head, without which there is none?"
    )


def _no_dashboard_now(address: str, error: Exception) -> str:
    return (
        f"{address}: what answers there is the dashboard of a Ray cluster no more ({_line(error)}): look at what is "
        "on the way to it, such as a gateway that wants a new sign-in."
    )


def _without_agent(address: str) -> str:
    return (
        f"{address}: the cluster takes no jobs, since the agent of its head has not answered for {AGENT_SECONDS:.0f} "
        "s, as when its port (52365) is taken: dashboard_agent.log in the logs of the head's Ray says why; start the "
        "head again"
    )


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
