"""Pipelines without a model, for `run(load=...)`: pixels follow from the row's seed. No torch, so they start fast.

They go wrong at rows whose id says so. Runs of tests/faults and tests/soak hand them to their workers by value.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from wanbatch.jobs.worker.unit_task import Work
from wanbatch.pipeline.core.requests import Failed, Request, Result, Seconds
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.sampling.evaluation_counts import EvaluationCounts as Evaluations


class Painter:
    """What `Wan` is to a worker: noise of the row's seed, or its first source as it is.

    Rows go wrong by the beginning of their ids. `kill-`: the process ends. `killonce-`: it ends, unless the file
    that the prompt names is there. `stop-`: the process is stopped, as by a debugger. `hang-`: waits for ever.
    `slow-`: waits a second. `wait-`: waits until the file that the prompt names is there.
    """

    backends: ClassVar = {"text": "none", "encode": "none", "denoise": "none", "decode": "none"}

    def __init__(self, slots: int):
        self.slots = slots

    def use_slots(self, slots: int) -> None:
        self.slots = slots

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        for request in requests:
            go_wrong(request)
            yield self.paint(request)

    def paint(self, request: Request) -> Result:
        return Result(request, pixels_of(request), Seconds(0.0, 0.0, 0.0, 0.0), Evaluations(request.steps), 1 << 20)


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


def wait_for(path: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"nobody made {path}")
        time.sleep(0.02)


def load(model: ModelInfo, device: str, dtype: str, slots: int) -> Painter:
    return Painter(slots)


class Killing(Painter):
    """Ends the process whatever it is to make."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        os._exit(17)


def load_that_kills(model: ModelInfo, device: str, dtype: str, slots: int) -> Painter:
    return Killing(slots)


class Buggy(Painter):
    """Hands back something without pixels for rows whose id begins with `bug-`, as no pipeline may."""

    def paint(self, request: Request) -> Result:
        return (
            replace(super().paint(request), pixels=None) if request.id.startswith("bug-") else super().paint(request)
        )


def load_with_a_bug(model: ModelInfo, device: str, dtype: str, slots: int) -> Painter:
    return Buggy(slots)


class Orphaning(Painter):
    """At a row whose id begins with `orphan-`, leaves a copy of its process that nothing ties to it, once.

    The copy waits for `go` in the folder that the prompt names, paints other pixels than the row's, writes its
    attempt as a worker does, notes the files' names in `done`, and ends.
    """

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        for request in requests:
            folder = Path(request.prompt)
            if request.id.startswith("orphan-") and not (folder / "forked").exists():
                self._leave_orphan(folder, request)
                time.sleep(600)
            else:
                go_wrong(request)
                yield self.paint(request)

    def _leave_orphan(self, folder: Path, request: Request) -> None:
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
        unit = _unit_in_hand()
        unit.worker.encoders = ThreadPoolExecutor(1)
        image = next(image for image in unit.task.images if image.id == request.id)
        unit._take(image, replace(self.paint(request), pixels=255 - pixels_of(request)))
        names = unit.write().names
        (folder / "written").write_text(" ".join(names.values()))
        (folder / "written").rename(folder / "done")
        os._exit(0)


def _unit_in_hand() -> Work:
    """The one that this thread is making."""
    frame = sys._getframe(1)
    while not isinstance(found := frame.f_locals.get("self"), Work):
        assert frame.f_back is not None
        frame = frame.f_back
    return found


def load_orphaning(model: ModelInfo, device: str, dtype: str, slots: int) -> Painter:
    return Orphaning(slots)


def load_with_small_files(model: ModelInfo, device: str, dtype: str, slots: int) -> Painter:
    """No file of the process may grow beyond 2 kB; a picture's part is larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return Painter(slots)


def load_broken_first(model: ModelInfo, device: str, dtype: str, slots: int) -> Painter:
    """The first of the workers, and who follows it in its place, dies of whatever it is to make."""
    worker_that_loads = sys._getframe(1).f_locals["self"]
    return Killing(slots) if worker_that_loads.name == "worker-0" else Painter(slots)


def load_for_ever(model: ModelInfo, device: str, dtype: str, slots: int) -> Painter:
    time.sleep(600)
    raise AssertionError("nobody waited so long")
