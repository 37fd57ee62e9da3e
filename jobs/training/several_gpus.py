"""`--gpus N` of `wanbatch train lora` and `few-step`: a process for each GPU, which train one adapter together."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from wanbatch.counting import number_of
from wanbatch.errors import MachineryError, UserError, WanbatchError
from wanbatch.jobs.training import few_step, lora
from wanbatch.jobs.training.asked import check_batch, first_line, without_memory
from wanbatch.jobs.training.few_step import FewStepRequest
from wanbatch.jobs.training.lora import LoraRequest
from wanbatch.pipeline.training.processes import COUNT_VARIABLE

Request = LoraRequest | FewStepRequest


def train_on_gpus(request: Request, gpus: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Train with a process on each of several GPUs of this machine.

    Args:
        request: What is asked for; its batch is that of all processes together.
        gpus: How many.
        say: Takes lines of text.

    Returns:
        See `lora.train` and `few_step.train`.

    Raises:
        UserError: If something is wrong with what was given.
    """
    there = torch.cuda.device_count()
    if gpus > there:
        raise UserError(
            f"--gpus {gpus}: PyTorch finds {number_of(there, 'GPUs')} here: give as many at most, or drop it"
        )
    if isinstance(request, FewStepRequest):
        few_step.checked(request, gpus, say)
    else:
        check_batch(request.settings.batch, gpus)
        lora.checked(request, say)
    return started(request, gpus)


def started(request: Request, count: int) -> dict[str, Any]:
    """Train with several processes, whatever they work on.

    Args:
        request: What is asked for.
        count: Of processes.

    Raises:
        UserError: If one of them did, or the memory of its device was too small.
        MachineryError: If one of them failed otherwise, or was ended.
    """
    context = torch.multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        torch.multiprocessing.start_processes(
            _one_of_them, (request, count, port, answers), nprocs=count, start_method="spawn"
        )
    except (ProcessExitedException, ProcessRaisedException) as error:
        if answers.empty():
            last = str(error).strip().splitlines()[-1]
            raise MachineryError(f"the training lost a process ({last}): run the same command again") from error
    answer = answers.get()
    if isinstance(answer, WanbatchError):
        raise answer
    return answer


def _one_of_them(number: int, request: Request, count: int, port: int, answers: Any) -> None:
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number), COUNT_VARIABLE: str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    if request.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    try:
        if isinstance(request, FewStepRequest):
            found = few_step.train(request, print)
        else:
            found = lora.train(request, print)
    except Exception as error:  # noqa: BLE001  what nobody else would tell the user
        if answers.empty():  # else it failed because another one did, which has said so
            answers.put(_failure(number, error))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # whatever the others wait for
    if number == 0:
        answers.put(found)


def _failure(number: int, error: Exception) -> WanbatchError:
    """What the user is told of an exception of one process; one that nobody expects is printed where it came from."""
    if isinstance(error, WanbatchError):
        return error
    if (told := without_memory(error, f"process {number} of the training")) is not None:
        return told
    if not isinstance(error, OSError):
        traceback.print_exception(error)
    return MachineryError(
        f"process {number} of the training failed ({first_line(error)}): run the same command again once that is "
        "mended; it goes on from what was kept"
    )
