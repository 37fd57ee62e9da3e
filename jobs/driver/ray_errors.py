"""Ray's errors, told apart: a worker that is gone, a Ray that fails, our errors, bugs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import exceptions

from wanbatch.errors import MachineryError, WanbatchError

_GONE = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
    exceptions.ObjectLostError,
)

_NODE_DIED = ("its node has died", "node is dead", "node died")


class WorkerGone(Exception):
    """The process of a worker is gone, or its node.

    Attributes:
        with_node: Ray says that its node died, or was taken away on purpose.
        unclear: the connection to it broke, and why is not known yet.
    """

    def __init__(self, message: str, with_node: bool = False, unclear: bool = False):
        super().__init__(message)
        self.with_node, self.unclear = with_node, unclear


def result_of(ref: ray.ObjectRef) -> Any:
    """What a worker's call returned.

    Raises:
        WorkerGone: The worker's process or node is gone.
        WanbatchError: The worker raised it.
        MachineryError: Ray itself failed.
        ray.exceptions.RayTaskError: There is a bug in the worker; as Ray reports it.
    """
    try:
        return ray.get(ref)
    except _GONE as error:
        unclear = isinstance(error, exceptions.ActorUnavailableError)
        with_node = getattr(error, "preempted", False) or any(words in str(error) for words in _NODE_DIED)
        raise WorkerGone(_why_gone(error), bool(with_node), unclear) from error
    except exceptions.RayTaskError as error:
        if isinstance(error.cause, WanbatchError):
            raise error.cause from None
        raise
    except (exceptions.RayError, ConnectionError) as error:  # the other one: of Ray's client
        raise _ray_failed(error) from error


@contextmanager
def ray_failures_raised() -> Iterator[None]:
    """Raise MachineryError where Ray itself fails: its object store or its disk is full, or it is gone."""
    try:
        yield
    except exceptions.RayTaskError:  # a bug in a worker
        raise
    except (exceptions.RayError, ConnectionError) as error:  # the other one: of Ray's client
        raise _ray_failed(error) from error


def _ray_failed(error: Exception) -> MachineryError:
    return MachineryError(f"Ray failed: {_first_line(error)}; run the same command again")


def _why_gone(error: Exception) -> str:
    """What Ray says of a worker that is gone, without the fields that only Ray's own people need."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    told = [line.strip() for line in lines[1:] if not line.startswith((" ", "\t"))]
    return " ".join(told)[:400] or _first_line(error)


def _first_line(error: Exception) -> str:
    lines: list[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
