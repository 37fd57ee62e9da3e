"""`--gpus N` of `wanbatch train lora` and `few-step`: a process for each GPU, which train one adapter together."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing

from wanbatch.errors import MachineryError, UserError, WanbatchError
from wanbatch.jobs.training import few_step, lora
from wanbatch.jobs.training.asked import check_batch
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
        raise UserError(f"--gpus {gpus}: PyTorch finds {there} GPUs here: give as many at most, or drop it")
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
        UserError: If one of them did.
        MachineryError: If one of them ended otherwise.
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
    except torch.multiprocessing.ProcessExitedException as error:
        if answers.empty():
            raise MachineryError(f"the training lost a process ({error}): run the same command again") from error
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
    except WanbatchError as error:
        answers.put(error)
        os._exit(1)  # whatever the others wait for
    if number == 0:
        answers.put(found)
