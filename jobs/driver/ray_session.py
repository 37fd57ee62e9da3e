"""A Ray to run on: one of the run's own on this machine, or the one that this process is connected to already.

A Ray of one's own is for this machine alone: it listens on the loopback address, its token is in no file, and
neither `uv run` nor RAY_ADDRESS nor proxies change what it does.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, TypeVar

import ray

import wanbatch
from wanbatch.counting import number_of
from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.driver.interruption import kept_signal_handlers
from wanbatch.jobs.driver.ray_errors import ray_failures_raised
from wanbatch.jobs.driver.ray_folder import OBJECT_STORE_BYTES, find_folder, object_store_folder, session_folder
from wanbatch.jobs.driver.ray_processes import AgentFailedError, needed_processes_alone, nothing_printed
from wanbatch.machine import room_for_threads, waiting_variables

LOOPBACK_IP = "127.0.0.1"
LOOPBACK = ("localhost", LOOPBACK_IP, "::1")
CONNECT_SECONDS = 10.0
ADDRESS_VARIABLE = "RAY_ADDRESS"
WORKER_NICENESS = "5"  # of the workers of a Ray of one's own: what the user does in the meantime comes first

LEAST_THREADS, GOOD_THREADS = 150, 250  # of Ray's processes, a worker and the driver: 209 on 2 cores
WHOSE_LIMIT = {
    "user": ("by this user", "ulimit -u 4096"),
    "group": ("in this container or job", "raise its limit (docker run --pids-limit 4096)"),
}
T = TypeVar("T")
_log = logging.getLogger(__name__)


def workers_on_a_host(workers: int, device: str) -> int:
    """How many of a run's workers share a host at most, on the Ray that this process is connected to.

    Args:
        workers: of the run.
        device: `cuda`, with a GPU for each worker, or `cpu`.
    """
    if device == "cpu":
        return workers
    gpus = max((int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    return max(1, min(workers, gpus))


def ensure_ray_can_start() -> None:
    """Check what a Ray of one's own needs of this machine, before anything is written or started.

    Raises:
        UserError: There is no folder for its files, the loopback address cannot be reached, or names that Ray notes
            are no Unicode.
        MachineryError: There is no room for its files, or its threads cannot be started.
    """
    if not ray.is_initialized():
        find_folder()
        ensure_loopback()
        ensure_unicode([os.getcwd(), *sys.path, *sys.argv])
        ensure_threads(room_for_threads())


def ensure_threads(rooms: Mapping[str, int]) -> None:
    """Check that Ray and a worker can start their threads.

    Args:
        rooms: how many more can be started, by what limits them (`machine.room_for_threads`).

    Raises:
        MachineryError: They cannot; it may be others who have so many now.
    """
    for limit, room in rooms.items():
        if room < LEAST_THREADS:
            raise MachineryError(
                f"{number_of(max(0, room), 'more threads')} can be started {WHOSE_LIMIT[limit][0]}, and Ray with "
                f"one worker takes about {GOOD_THREADS}: {WHOSE_LIMIT[limit][1]}"
            )


def ensure_unicode(names: Sequence[str]) -> None:
    """Check that Ray can note names of files, which it does in UTF-8.

    Args:
        names: as Python has them, where bytes that are no text in this locale are surrogates.

    Raises:
        UserError: One is no Unicode.
    """
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            shown, encoding = os.fsencode(name).decode(errors="replace"), sys.getfilesystemencoding()
            remedy = "export PYTHONUTF8=1" if "\ufffd" not in shown else "rename it, or start from another folder"
            raise UserError(f"{shown}: Ray cannot take this name, which is no {encoding} text: {remedy}") from error


def ensure_loopback() -> None:
    """Check that a process of this machine can connect to another one. Without that Ray waits for minutes.

    Raises:
        UserError: It cannot.
    """
    try:
        with socket.create_server((LOOPBACK_IP, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"processes of this machine cannot reach each other at {LOOPBACK_IP} ({error.strerror or error}), which "
            "Ray needs: bring the loopback interface up (`ip link set lo up`) and let no firewall block it"
        ) from error


@contextmanager
def local_ray(workers: int = 1, preload: str | None = None) -> Iterator[None]:
    """Start Ray on this machine and stop it at the end; if this process is connected to one, use that.

    Args:
        workers: how many processes for them Ray starts before it is asked; it would start one for each core.
        preload: the module that these import while they wait for work; None: none.

    Raises:
        UserError: There is no folder for Ray's files.
        MachineryError: There is no room for them, or Ray does not start.
    """
    if ray.is_initialized():
        yield
        return
    if address := os.environ.get(ADDRESS_VARIABLE):
        _log.warning(
            "%s=%s is not used: the run has a Ray of its own on this machine; --address auto takes that one",
            ADDRESS_VARIABLE,
            address,
        )
    with (
        session_folder() as folder,
        ray_variables(local_variables(os.environ, preload)),
        ExitStack() as held,
    ):
        try:
            try:
                _init(workers, folder, held)
            except AgentFailedError:
                _init(workers, folder, held, quick=False)
        except Exception as error:  # of many kinds: no memory, no port, no process, no time
            ray.shutdown()
            raise MachineryError(
                f"Ray did not start: {str(error).rstrip('.')}: run the same command again, and if that does not "
                "help, `wanbatch doctor`, which looks at this machine"
            ) from error
        try:
            with nothing_printed():
                yield
        finally:
            ray.shutdown()


def _init(workers: int, folder: str | None, held: ExitStack, quick: bool = True) -> None:
    # Ray puts its own handlers in place
    with kept_signal_handlers(), _for_this_machine(), needed_processes_alone(held, quick):
        ray.init(
            address="local",
            num_cpus=max(1, workers),  # workers ask for none
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=folder,
            _plasma_directory=object_store_folder(folder),
            _skip_env_hook=True,  # RAY_RUNTIME_ENV_HOOK, which prepares the hosts of a cluster
        )


def run_in_a_worker(call: Callable[[], T]) -> tuple[T, str]:
    """Run a function in a worker of the Ray that this process is connected to.

    Returns:
        What it returned, and the address that Ray listens on.

    Raises:
        MachineryError: Ray fails.
    """
    with ray_failures_raised():
        answer: Any = ray.remote(num_cpus=0)(call).remote()
        return ray.get(answer), ray.get_runtime_context().gcs_address.rpartition(":")[0]


def ray_version() -> str:
    """Return the version of Ray."""
    return ray.__version__


def local_variables(given: Mapping[str, str], preload: str | None = None) -> dict[str, str | None]:
    """The environment variables that a Ray of one's own is started with, besides those that are given.

    Args:
        given: the environment's.
        preload: the module that processes of workers import while they wait for work; None: none.

    Returns:
        The variables that change; None: it is not set.
    """
    changed: dict[str, str | None] = {
        "RAY_USE_TLS": None,  # of a cluster, whose certificates a Ray of one machine has no use for
        "RAY_JOB_CONFIG_JSON_ENV_VAR": None,  # of a job on a cluster, whose packages are not here
        "RAY_preload_python_modules": preload,
        "_WANBATCH_FROM": wanbatch.__file__,  # processes that look elsewhere for it must not preload that
        # Ray's own niceness, 15, leaves a worker a thirtieth of a core that another program wants.
        "RAY_worker_niceness": given.get("RAY_worker_niceness", WORKER_NICENESS),
        "RAY_USAGE_STATS_ENABLED": given.get("RAY_USAGE_STATS_ENABLED", "0"),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": given.get("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
        # Otherwise Ray writes a token to the home folder, which may not be writable, for all to read.
        "RAY_AUTH_TOKEN": given.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
    }
    changed |= waiting_variables(given)
    for name in ("no_proxy", "NO_PROXY"):
        there = [host for host in given.get(name, "").split(",") if host]
        changed[name] = ",".join([*there, *(host for host in LOOPBACK if host not in there)])
    return changed


@contextmanager
def ray_variables(changed: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables meanwhile, and undo what Ray makes of RAY_AUTH_MODE, which its children would go by.

    Ray remembers its token and its mode: it is made to look again.

    Args:
        changed: variables; None: it is not set.
    """
    before = {name: os.environ.get(name) for name in (*changed, "RAY_AUTH_MODE")}
    _set(changed)
    _reread_token()
    try:
        yield
    finally:
        _set(before)
        _reread_token()


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _reread_token() -> None:
    with suppress(AttributeError):  # earlier versions have no tokens
        raylet: Any = ray._raylet
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def _for_this_machine() -> AbstractContextManager[None]:
    """Have Ray listen on the loopback address alone, and use this process's interpreter and modules for its workers.

    Without the first, its ports are open to the network, and a laptop that changes networks loses its Ray.
    """
    return _constants(ENABLE_RAY_CLUSTER=False, RAY_ENABLE_UV_RUN_RUNTIME_ENV=False)


def without_uploads() -> AbstractContextManager[None]:
    """Keep Ray from sending the current folder to its workers, pictures and all, as it does under `uv run`."""
    return _constants(RAY_ENABLE_UV_RUN_RUNTIME_ENV=False)


@contextmanager
def _constants(**changed: Any) -> Iterator[None]:
    """Change constants of Ray meanwhile, which it reads from variables when it is imported, perhaps long ago."""
    constants: Any = ray._private.ray_constants
    before = {name: getattr(constants, name) for name in changed if hasattr(constants, name)}
    for name in before:
        setattr(constants, name, changed[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(constants, name, value)
