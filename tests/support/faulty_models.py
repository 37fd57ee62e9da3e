"""Pipelines with faults, for `run(load=...)`: the real one, that goes wrong at rows whose id says so.

Workers import this module too; see `local_ray` in conftest.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from around_wan import AroundWan

from wanbatch.jobs.worker import unit_task
from wanbatch.pipeline.core.requests import Failed, Request, Result
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import ModelInfo


class Faulty(AroundWan):
    """A `Wan` that goes wrong at rows by the beginning of their ids.

    `raise-`: an exception before anything is made. `late-`: an exception instead of the finished picture.
    `kill-`: the process ends. `killonce-`: the process ends, unless the file that the prompt names is there.
    `slow-`: waits a second. `device-`: the device breaks, once (as `killonce-`).
    """

    def __init__(self, wan: Wan):
        self.wan = wan

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        for request in requests:
            _go_wrong(request)
        for outcome in self.wan.generate(requests):
            if outcome.request.id.startswith("late-"):
                raise RuntimeError(f"made too late: {outcome.request.id}")
            yield outcome


def _go_wrong(request: Request) -> None:
    kind = request.id.split("-")[0]
    if kind == "raise":
        raise ValueError(f"no picture of {request.id}\nand a second line")
    if kind == "kill":
        _die()
    if kind == "killonce" and not Path(request.prompt).exists():
        Path(request.prompt).touch()
        _die()
    if kind == "slow":
        time.sleep(1.0)
    if kind == "device" and not Path(request.prompt).exists():
        Path(request.prompt).touch()
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _die() -> None:
    """In the midst of the work: not so soon that what was finished just before is not on its way yet."""
    time.sleep(0.2)
    os._exit(17)


def load(model: ModelInfo, device: str, dtype: str, slots: int) -> Faulty:
    return Faulty(Wan.load(model, device, dtype, slots))


def load_and_die(model: ModelInfo, device: str, dtype: str, slots: int) -> Faulty:
    """The process ends while it loads the model."""
    os._exit(17)


class Together(Faulty):
    """Makes nothing before `count` workers have something to make; each leaves its mark in a folder."""

    def __init__(self, wan: Wan, folder: Path, count: int):
        super().__init__(wan)
        self.folder, self.count = folder, count

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        (self.folder / str(os.getpid())).touch()
        end = time.monotonic() + 120
        while len(list(self.folder.iterdir())) < self.count:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.count} workers never worked together")
            time.sleep(0.02)
        yield from super().generate(requests)


def load_together(folder: Path, count: int, model: ModelInfo, device: str, dtype: str, slots: int) -> Together:
    return Together(Wan.load(model, device, dtype, slots), folder, count)


def load_with_slow_disk(seconds: float, model: ModelInfo, device: str, dtype: str, slots: int) -> Faulty:
    """Writing an attempt takes this long; and it ends the process if a row's id begins with `unwritable-`."""
    write = unit_task.write_attempt

    def slowly(root, unit, attempt, data, *rest):
        time.sleep(seconds)
        if data is not None and any(name.startswith("unwritable-") for name in data["id"].to_pylist()):
            os._exit(17)
        return write(root, unit, attempt, data, *rest)

    unit_task.write_attempt = slowly
    return load(model, device, dtype, slots)


class Overlapping(Faulty):
    """Leaves a mark in a folder for each unit that gets the model."""

    def __init__(self, wan: Wan, begun: Path):
        super().__init__(wan)
        self.begun = begun

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        (self.begun / str(len(list(self.begun.iterdir())))).touch()
        yield from super().generate(requests)


def load_that_overlaps(begun: Path, last: int, model: ModelInfo, device: str, dtype: str, slots: int) -> Overlapping:
    """Unit N is not written before unit N + 1 has got the model, but for the first and the last."""
    write = unit_task.write_attempt

    def wait_and_write(root, unit, *rest):
        end = time.monotonic() + 60
        while 0 < unit < last and not (begun / str(unit + 1)).exists():
            if time.monotonic() > end:
                raise TimeoutError(f"unit {unit + 1} did not get the model")
            time.sleep(0.02)
        return write(root, unit, *rest)

    unit_task.write_attempt = wait_and_write
    return Overlapping(Wan.load(model, device, dtype, slots), begun)
