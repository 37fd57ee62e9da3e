"""Connecting to a Ray cluster that is there already, and what this process must know of it before it plans."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import ray

from wanbatch import __version__
from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.config.hardware import Hardware, detect_hardware
from wanbatch.jobs.config.settings import AUTO, Settings
from wanbatch.jobs.driver.cluster_nodes import Node, Placement, alive_nodes, what_there_is
from wanbatch.jobs.driver.interruption import kept_signal_handlers
from wanbatch.jobs.driver.ray_errors import WorkerGone, ray_failures_raised, result_of
from wanbatch.jobs.driver.ray_processes import nothing_printed
from wanbatch.jobs.driver.ray_session import ADDRESS_VARIABLE, ray_variables, without_uploads

CLIENT = "ray://"
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
CONNECT_SECONDS = 10.0
SAY_SECONDS = 10.0  # before a wait for the first node is told of
REFUSED = ("unauthenticated", "auth token", "authentication", "invalidauthtoken")
NO_TOKEN = "no token"
TOKEN_MODE = "set RAY_AUTH_MODE=token, and "
TOKEN_HELP = (
    "put the cluster's own token into RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token"
)
T = TypeVar("T")
_log = logging.getLogger(__name__)


def cluster_address(given: str | None, environment: Mapping[str, str]) -> str | None:
    """The address of the cluster that a run uses; None: it has a Ray of its own.

    A process that Ray's job supervisor started uses the cluster of its job.

    Args:
        given: `--address`.
        environment: of this process.
    """
    told = environment.get(ADDRESS_VARIABLE, "")
    if given is not None and given != AUTO:
        return given
    if given == AUTO or in_submitted_job(environment):
        return told or AUTO
    return None


def in_submitted_job(environment: Mapping[str, str]) -> bool:
    """Whether Ray's job supervisor started this process, as `ray job submit` and `wanbatch submit` have it do."""
    try:
        metadata = json.loads(environment.get(JOB_VARIABLE, "{}")).get("metadata") or {}
    except (ValueError, AttributeError):
        return False
    return "job_submission_id" in metadata


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect this process to a cluster, and leave it at the end; if it is connected already, use that.

    Args:
        address: `auto`, `HOST:PORT` or `ray://HOST:PORT`.

    Raises:
        UserError: The cluster refuses this process, for its token or its version, or there is none to find.
        MachineryError: It does not answer.
    """
    if ray.is_initialized():
        yield
        return
    if address != AUTO:
        _ensure_answers(address)
    told: Callable[[], str] = str  # nothing
    with ray_variables({}):
        try:
            with kept_signal_handlers(), without_uploads(), _kept_stderr() as told:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # of many kinds
            ray.shutdown()
            raise connection_error(address, error, told()) from error
        try:
            with nothing_printed():
                yield
        finally:
            ray.shutdown()


@contextmanager
def _kept_stderr() -> Iterator[Callable[[], str]]:
    """Keep what is written to the standard error stream meanwhile, also by Ray's own code in C++.

    Ray tells why it is refused there alone, 20 times. Yields what gives the text, also afterwards.
    """
    sys.stderr.flush()
    text = ""
    with tempfile.TemporaryFile() as kept:
        before = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield lambda: text
        finally:
            os.dup2(before, 2)
            os.close(before)
            kept.seek(0)
            text = kept.read().decode(errors="replace")


def _ensure_answers(address: str) -> None:
    """Ray itself waits for minutes."""
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise MachineryError(
            f"no Ray cluster answers at {address} ({getattr(error, 'strerror', None) or error}): check that its head "
            "runs (`ray status` there), the port (6379 for HOST:PORT, 10001 for ray://) and firewalls in between"
        ) from error


def connection_error(address: str, error: Exception, told: str = "") -> UserError | MachineryError:
    """What kept this process from a cluster, as a message with a remedy.

    Args:
        address: that was given.
        error: what Ray raised.
        told: what it printed before.
    """
    text = " ".join(str(error).split())
    if type(error).__name__ == "AuthenticationError" or any(word in f"{text} {told}".lower() for word in REFUSED):
        return UserError(f"the Ray cluster at {address} does not take this process, {token_refused(os.environ)}")
    if "version mismatch" in text.lower():
        return UserError(f"the Ray cluster at {address} has another version than this process: {text[:300]}")
    if "grpc" in text and isinstance(error, ImportError):
        return UserError(f"{address}: Ray's client needs a package that is missing: pip install 'ray[client]'")
    if "failed to connect to ray cluster" in text.lower() or "client connection timeout" in text.lower():
        return MachineryError(
            f"what listens at {address} does not answer as a Ray cluster of this version does: check the port (6379 "
            "for HOST:PORT, 10001 for ray://), Ray's versions, and for ray:// the token (RAY_AUTH_TOKEN)"
        )
    if isinstance(error, ConnectionError) and address == AUTO:
        return UserError(
            "--address auto: no Ray runs on this machine and RAY_ADDRESS is not set: start one (`ray start --head`), "
            "give --address HOST:PORT, or leave --address out for a Ray of the run's own"
        )
    if "node_ip_address" in text or "raylet" in text.lower():
        return UserError(
            f"this machine is no node of the Ray cluster at {address} ({text[:160].rstrip('. ')}): run the command "
            "on one of its nodes, use ray://HOST:10001 or `wanbatch submit`"
        )
    return MachineryError(f"the Ray cluster at {address} cannot be used: {text[:300]}; run the same command again")


def token_sent(environment: Mapping[str, str]) -> str:
    """Which token a process shows to a Ray cluster, in words, and never the token itself.

    Args:
        environment: of the process.
    """
    mode = environment.get("RAY_AUTH_MODE", "")  # Ray sends a token, whatever is there, in this mode alone
    if mode.lower() != "token":
        return f"{NO_TOKEN} (RAY_AUTH_MODE is {mode or 'not set'})"
    if environment.get("RAY_AUTH_TOKEN"):
        return "the token of RAY_AUTH_TOKEN"
    path = environment.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
    return f"the token of the file {path}" if os.path.exists(path) else f"{NO_TOKEN} ({path} is not there)"


def token_refused(environment: Mapping[str, str]) -> str:
    """Which token a process showed to a Ray cluster that refused it, in words, and what to do about it.

    Args:
        environment: of the process.
    """
    sent = token_sent(environment)
    if environment.get("RAY_AUTH_MODE", "").lower() != "token":
        return f"which sends {sent}: {TOKEN_MODE}{TOKEN_HELP}"
    if sent.startswith(NO_TOKEN):
        return f"which sends {sent}: {TOKEN_HELP}"
    return f"which sends {sent}, and that is not the cluster's own: put the cluster's own token there"


def nodes() -> list[Node]:
    """The nodes of the cluster that are alive.

    Raises:
        MachineryError: Ray fails.
    """
    with ray_failures_raised():
        return alive_nodes(ray.nodes())


def run_on_a_node(call: Callable[[], T], placement: Placement, seconds: float) -> T:
    """Run a function where a worker could be.

    Args:
        call: of no arguments; Ray sends it there.
        placement: what a worker needs.
        seconds: until a place must be found.

    Raises:
        MachineryError: No place was found in time, or Ray fails.
        UserError: The nodes have no wanbatch, or another version.
    """
    options = placement.actor_options()
    with ray_failures_raised():
        remote: Any = ray.remote(max_retries=2, **options)(_with_facts)
        answer = remote.remote(call)
    begin = told = time.monotonic()
    while not ray.wait([answer], timeout=1.0)[0]:
        now = time.monotonic()
        if now - begin > seconds:
            ray.cancel(answer, force=True)
            raise MachineryError(nothing_placed(placement, 1, seconds, nodes()))
        if now - told > SAY_SECONDS and told == begin:
            told = now
            _log.warning("waiting for %s: the cluster has %s", placement.described(), what_there_is(nodes()))
    try:
        version, wants_token, found = result_of(answer)
    except WorkerGone as error:
        raise MachineryError(f"a node was lost at the start: {error}; run the same command again") from error
    except Exception as error:
        if (missing := missing_package(error)) is not None:
            raise missing from error
        raise
    if version != __version__:
        raise UserError(
            f"the cluster's nodes have wanbatch {version}, and this process {__version__}: install the same version "
            "on all, or use `wanbatch submit`, which brings its own"
        )
    if needless := needless_token(wants_token, asks_for_tokens() and not ray.util.client.ray.is_connected()):
        raise needless
    return found


def _with_facts(call: Callable[[], T]) -> tuple[str, bool, T]:
    from wanbatch import __version__

    return __version__, asks_for_tokens(), call()


def asks_for_tokens() -> bool:
    """Whether Ray in this process asks others for a token; earlier versions have none."""
    raylet: Any = ray._raylet
    if not hasattr(raylet, "get_authentication_mode"):
        return False
    return raylet.get_authentication_mode() == raylet.AuthenticationMode.TOKEN


def needless_token(of_cluster: bool, here: bool) -> UserError | None:
    """What to say if this process asks a cluster without tokens for one: none of its actors would start.

    Args:
        of_cluster: whether the cluster has tokens.
        here: whether this process asks for one.
    """
    if of_cluster or not here:
        return None
    return UserError(
        f"the cluster has no tokens, and this process, which sends {token_sent(os.environ)}, asks for one, so that "
        "no worker could start: set RAY_AUTH_MODE=disabled"
    )


def missing_package(error: Exception) -> UserError | None:
    """The package that the cluster's nodes lack, as a message; None: the error is another one."""
    text = str(error)
    if "No module named" not in text:
        return None
    name = text.split("No module named")[1].split("'")[1]
    return UserError(
        f"the cluster's nodes lack the package {name}: install wanbatch on all of them, or use `wanbatch submit`, "
        "which brings its own"
    )


def nothing_placed(placement: Placement, wanted: int, seconds: float, there: list[Node]) -> str:
    """What to say when no worker found a place in time."""
    return (
        f"no worker found a place within {seconds:.0f} s: {wanted} wanted, each with {placement.described()}; the "
        f"cluster has {what_there_is(there)}: add nodes, free some, or change --workers, --label-selector, "
        "--accelerator-type or --start-deadline"
    )


def placement_of(settings: Settings, device: str, accelerator: str | None, on_cluster: bool) -> Placement:
    """Where the workers of a run may be.

    Args:
        settings: of the run.
        device: `cuda` or `cpu`, as resolved.
        accelerator: the kind of GPU, as Ray calls it; None: any.
        on_cluster: whether it uses a cluster that was there before.
    """
    return Placement(
        on_cluster=on_cluster,
        device=device,
        cpus=settings.threads,
        labels=settings.label_selector if on_cluster else {},
        accelerator=accelerator if on_cluster and device == "cuda" else None,
        grows=on_cluster and settings.workers in (None, AUTO),
        start_deadline=settings.start_deadline,
    )


def hardware_there(settings: Settings, placement: Placement) -> Hardware:
    """What the run's workers will have, as one of the nodes says.

    Raises whatever `run_on_a_node` raises.
    """
    return run_on_a_node(detect_hardware, placement, settings.start_deadline)
