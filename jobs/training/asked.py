"""What every training checks of what the user asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from wanbatch.errors import UserError
from wanbatch.jobs.worker.recovery import PipelineFailure
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.weights import weight_bytes
from wanbatch.pipeline.training.processes import Processes, count_of_processes

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SMALL_MODEL = 1 << 30  # bytes of weights; below, a GPU holds them in fp32
LESS_MEMORY = "--checkpointing, --base-precision fp8 or a smaller --batch, and another --out"


def check_name(name: str) -> None:
    """Check the name of an adapter, which is that of its file.

    Raises:
        UserError: If it cannot be.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name!r}: an adapter's name has letters, digits, . _ - and no spaces")


def ensure_alone(what: str) -> None:
    """Check that a command was not started in several processes, which would all write the same files.

    Args:
        what: The command.

    Raises:
        UserError: If it was.
    """
    if (count := count_of_processes()) > 1:
        raise UserError(f"{what} was started in {count} processes and is for one: start it without accelerate launch")


def check_batch(batch: int, count: int) -> None:
    """Check that each of several processes gets as many pictures of a step.

    Args:
        batch: Of all of them.
        count: How many there are.

    Raises:
        UserError: If they do not.
    """
    if batch % count:
        raise UserError(
            f"--batch {batch}: is that of all {count} processes together, and each has to get as many pictures: give "
            f"a multiple, --batch {-(-batch // count) * count}"
        )


def said_by_first(processes: Processes, say: Callable[[str], None]) -> Callable[[str], None]:
    """What takes lines of text in one of several processes: those that all would say are said by the first alone."""
    return say if processes.first else lambda text: None


def training_device(given: str | None) -> torch.device:
    """Where a training is done.

    Args:
        given: `cpu` or `cuda`; None: a GPU if there is one.

    Raises:
        UserError: If there is no GPU.
    """
    if given == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU here; `wanbatch doctor` says why")
    return torch.device(given or ("cuda" if torch.cuda.is_available() else "cpu"))


def training_type(info: ModelInfo, device: torch.device) -> torch.dtype:
    """The type of a model's frozen weights: fp32 for small ones and on a CPU, else bf16."""
    small = device.type == "cpu" or weight_bytes(info) < SMALL_MODEL
    return torch.float32 if small else torch.bfloat16


def without_memory(error: Exception, who: str = "the training", remedy: str = LESS_MEMORY) -> UserError | None:
    """What the user is told of a training whose device or host has too little memory; None: it failed otherwise.

    Args:
        error: Which it ended with.
        who: Had none left.
        remedy: What to give.
    """
    if not PipelineFailure.of(error).out_of_memory:
        return None
    return UserError(f"{who} has no memory left ({first_line(error)}): give {remedy}")


@contextmanager
def memory_explained(remedy: str = LESS_MEMORY) -> Iterator[None]:
    """Around a training in one process.

    Args:
        remedy: What to give if memory runs out.

    Raises:
        UserError: If it did.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if (told := without_memory(error, remedy=remedy)) is not None:
            raise told from error
        raise


def first_line(error: Exception) -> str:
    """An exception's class and the first line of its text."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
