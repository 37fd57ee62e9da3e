"""Pipelines without a model, for `run(load=...)`: pixels follow from the row's seed. No torch, so they start fast.

They go wrong at rows whose id says so. Runs of tests/faults and tests/soak hand them to their workers by value.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from wanbatch.jobs.worker import actor, unit_task
from wanbatch.jobs.worker.unit_task import UnitTask
from wanbatch.jobs.worker.units_in_model import generate_units
from wanbatch.manifests.dataset.part_files import TMP
from wanbatch.pipeline.core.requests import ComingRow, EvaluationCounts, Failed, Request, Result, Seconds
from wanbatch.pipeline.loading.registry import ModelInfo


class FakePipeline:
    """What `Wan` is to a worker: noise of the row's seed, or its first source as it is.

    Rows go wrong by the beginning of their ids. `kill-`: the process ends. `killonce-`: it ends, unless the file
    that the prompt names is there. `stop-`: the process is stopped, as by a debugger. `hang-`: waits for ever.
    `slow-`: waits a second. `wait-`: waits until the file that the prompt names is there. `device-`: the device
    breaks, once (as `killonce-`).
    """

    streams = False
    backends: ClassVar = {"text": "none", "encode": "none", "denoise": "none", "decode": "none"}

    def __init__(self, slots: int):
        self.slots = slots

    def use_slots(self, slots: int) -> None:
        self.slots = slots

    def expect_adapters(self, holder: Hashable, rows: Iterable[ComingRow]) -> None:
        pass  # it has none

    def release_adapters(self, holder: Hashable) -> None:
        pass

    def spare_memory(self) -> int:
        return 0

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        for request in requests:
            go_wrong(request)
            yield self.result(request)

    def result(self, request: Request) -> Result:
        return Result(
            request, pixels_of(request), Seconds(0.0, 0.0, 0.0, 0.0), EvaluationCounts(request.steps), 1 << 20
        )


def pixels_of(request: Request) -> np.ndarray:
    if request.sources:
        return request.sources[0].pixels
    noise = np.random.default_rng(request.seed)
    return noise.integers(0, 256, (request.height, request.width, 3), dtype=np.uint8)


def go_wrong(request: Request) -> None:
    kind = request.id.split("-")[0]
    if kind == "kill":
        os._exit(17)
    if kind == "killonce" and not Path(request.prompt).exists():
        Path(request.prompt).touch()
        os._exit(17)
    if kind == "stop" and not Path(request.prompt).exists():
        Path(request.prompt).touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "hang":
        time.sleep(600)
    if kind == "slow":
        time.sleep(1.0)
    if kind == "wait":
        wait_for(Path(request.prompt))
    if kind == "device" and not Path(request.prompt).exists():
        Path(request.prompt).touch()
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def wait_for(path: Path, seconds: float = 280) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"nobody made {path}")
        time.sleep(0.02)


def load(model: ModelInfo, device: str, dtype: str, slots: int) -> FakePipeline:
    return FakePipeline(slots)


class MendedPipeline(FakePipeline):
    """Makes every row at once, whatever its id says."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        yield from map(self.result, requests)


def load_mended(model: ModelInfo, device: str, dtype: str, slots: int) -> FakePipeline:
    return MendedPipeline(slots)


class CrampedPipeline(FakePipeline):
    """Has memory for two rows, and for none whose id begins with `huge-`."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        import torch

        if self.slots > 2 or any(request.id.startswith("huge-") for request in requests):
            raise torch.OutOfMemoryError("tried to allocate too much")
        yield from super().generate(requests)


def load_with_room_for_two(model: ModelInfo, device: str, dtype: str, slots: int) -> FakePipeline:
    return CrampedPipeline(slots)


class KillingPipeline(FakePipeline):
    """Ends the process whatever it is to make."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        os._exit(17)


def load_that_kills(model: ModelInfo, device: str, dtype: str, slots: int) -> FakePipeline:
    return KillingPipeline(slots)


class BuggyPipeline(FakePipeline):
    """Hands back something without pixels for rows whose id begins with `bug-`, as no pipeline may."""

    def result(self, request: Request) -> Result:
        result = super().result(request)
        return replace(result, pixels=None) if request.id.startswith("bug-") else result


def load_with_a_bug(model: ModelInfo, device: str, dtype: str, slots: int) -> FakePipeline:
    return BuggyPipeline(slots)


class OrphaningUnitTask(UnitTask):
    """At a row whose id begins with `orphan-`, leaves a copy of its process that nothing ties to it, once.

    The copy waits for `go` in the folder that the prompt names, makes the task with other pixels, writes its
    attempt as a worker does, notes the files' names in `done`, and ends.
    """

    def enter_model(self) -> list[Request]:
        for image in self.task.images:
            folder = Path(image.prompt)
            if image.id.startswith("orphan-") and not (folder / "forked").exists():
                self._leave_orphan(folder)
                time.sleep(600)
        return super().enter_model()

    def _leave_orphan(self, folder: Path) -> None:
        """Returns in the worker only. The copy has this thread alone, so it does what the others would."""
        if os.fork():
            return
        os.setsid()
        if os.fork():
            os._exit(0)
        os.closerange(3, 4096)  # the sockets to Ray
        (folder / "pid").write_text(str(os.getpid()))
        (folder / "pid").rename(folder / "forked")
        wait_for(folder / "go")
        pipeline = NegativePipeline(self.context.pipeline.slots)
        context = replace(self.context, pipeline=pipeline, encoders=ThreadPoolExecutor(1))
        orphan = UnitTask(context, self.task, lambda *progress: None)
        orphan.load_sources()
        generate_units(orphan, lambda: None)
        names = orphan.write().attempt.names
        (folder / "written").write_text(" ".join(names.values()))
        (folder / "written").rename(folder / "done")
        os._exit(0)


class NegativePipeline(FakePipeline):
    """Makes the negative of each picture, whatever the row's id says."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        for request in requests:
            yield replace(self.result(request), pixels=255 - pixels_of(request))


def load_orphaning(model: ModelInfo, device: str, dtype: str, slots: int) -> FakePipeline:
    """The worker of this process takes its tasks as `OrphaningUnitTask`."""
    actor.UnitTask = OrphaningUnitTask
    return FakePipeline(slots)


def load_with_small_files(model: ModelInfo, device: str, dtype: str, slots: int) -> FakePipeline:
    """No file of the process may grow beyond 2 kB; a picture's part is larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return FakePipeline(slots)


def load_broken_but_one(lock: Path, model: ModelInfo, device: str, dtype: str, slots: int) -> FakePipeline:
    """The first of the workers works; while its process lives, every other one dies of whatever it is to make."""
    file = os.open(lock, os.O_CREAT | os.O_RDWR)  # held until the process ends
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return KillingPipeline(slots)
    return FakePipeline(slots)


def load_for_ever(model: ModelInfo, device: str, dtype: str, slots: int) -> FakePipeline:
    time.sleep(600)
    raise AssertionError("nobody waited so long")


class RaisingPipeline(FakePipeline):
    """Raises the same exception for every row, as long as a file is there."""

    def __init__(self, slots: int, broken: Path):
        super().__init__(slots)
        self._broken = broken

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        for request in requests:
            if self._broken.exists():
                raise RuntimeError("the kernel was built for another device")
            yield self.result(request)


def load_raising(broken: Path, model: ModelInfo, device: str, dtype: str, slots: int) -> FakePipeline:
    return RaisingPipeline(slots, broken)


def load_on_a_damaged_disk(folder: Path, count: int, model: ModelInfo, device: str, dtype: str, slots: int):
    """The first `count` attempts lose their last bytes after they were written; each leaves its mark in a folder."""
    write = unit_task.write_attempt

    def write_and_damage(root, *rest):
        attempt = write(root, *rest)
        if len(list(folder.iterdir())) < count:
            (folder / attempt.attempt).touch()
            path = Path(root) / TMP / next(iter(attempt.names.values()))
            os.truncate(path, path.stat().st_size - 20)
        return attempt

    unit_task.write_attempt = write_and_damage
    return FakePipeline(slots)


class PickyPipeline(FakePipeline):
    """Raises an exception at rows whose id begins with `raise-`."""

    def result(self, request: Request) -> Result:
        if request.id.startswith("raise-"):
            raise ValueError(f"no picture of {request.id}")
        return super().result(request)


def load_with_rows_that_raise(model: ModelInfo, device: str, dtype: str, slots: int) -> FakePipeline:
    return PickyPipeline(slots)


class TimedPipeline(FakePipeline):
    """Says that each picture took two seconds."""

    def result(self, request: Request) -> Result:
        return replace(super().result(request), seconds=Seconds(0.5, 0.5, 0.5, 0.5))


def load_timed(model: ModelInfo, device: str, dtype: str, slots: int) -> FakePipeline:
    return TimedPipeline(slots)
