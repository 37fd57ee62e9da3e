"""One worker: a pipeline on one device that turns tasks into written attempts.

It never publishes: that is the driver's. A row that cannot be made becomes a failure record and the others go
on; an exception of the pipeline is narrowed down to its row by trying halves.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import pyarrow as pa

from wanbatch.errors import DeviceError, RowError
from wanbatch.jobs.plan import Image, Task
from wanbatch.manifests import rows
from wanbatch.manifests.dataset import Attempt, write_attempt
from wanbatch.manifests.sources import LoadedImage, SourceLoader
from wanbatch.pipeline.models import ModelInfo
from wanbatch.pipeline.requests import Failed, Request, Result, SourceImage, fit

if TYPE_CHECKING:
    from wanbatch.pipeline.generate import Wan

PNG_COMPRESSION = 6
_DEVICE_TROUBLE = re.compile(r"CUDA error|CUBLAS_STATUS|CUDNN_STATUS|device-side assert")
_NO_MEMORY = re.compile(r"DefaultCPUAllocator: can't allocate memory|CUDA error: out of memory|_STATUS_ALLOC_FAILED")


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker is started with. device, dtype: resolved. threads: of torch, on a CPU."""

    model: ModelInfo
    out: str
    source_root: str
    allow_http: bool
    device: str
    dtype: str
    slots: int
    threads: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says of a finished task. busy_seconds: from taking it to having it written."""

    attempt: Attempt
    busy_seconds: float
    slots: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """An exception of the pipeline, told apart. kind: the error class of a row that it is traced to."""

    message: str
    memory: bool
    device: bool

    @classmethod
    def of(cls, error: Exception) -> Trouble:
        """memory: the device's or the host's ran out. device: its context is broken, as CUDA's errors leave it.

        Only some ways to run out of memory have a class of their own; torch on a CPU has none.
        """
        import torch

        memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(_NO_MEMORY.search(str(error)))
        device = isinstance(error, torch.AcceleratorError) or bool(_DEVICE_TROUBLE.search(str(error)))
        return cls(f"{type(error).__name__}: {error}", memory, device and not memory)

    @property
    def kind(self) -> str:
        return "oom" if self.memory else "error"


class Worker:
    """Holds one pipeline and runs one task at a time. `ready` comes first.

    load: builds the pipeline, instead of `Wan.load`; for tests of faults.
    """

    def __init__(self, setup: WorkerSetup, name: str, load: Callable[..., Wan] | None = None):
        self.setup, self.name, self.load = setup, name, load
        self.in_hand = (-1, 0)

    def ready(self) -> float:
        """Load the model. Returns the seconds it took; not in `__init__`, so that its errors keep their type."""
        setup, begin = self.setup, time.perf_counter()
        self.sources = SourceLoader(setup.source_root, allow_http=setup.allow_http)
        pa.array([0])  # imports pandas where there is one; not while the first unit is made
        self.wan = (self.load or _load)(setup.model, setup.device, setup.dtype, setup.slots)
        if setup.threads and "torch" in sys.modules:  # what `load` builds may do without
            sys.modules["torch"].set_num_threads(setup.threads)
        self.backends = rows.Backends(**self.wan.backends)
        self.host = socket.gethostname()
        self.device = sys.modules["torch"].cuda.get_device_name() if setup.device == "cuda" else "cpu"
        return time.perf_counter() - begin

    def progress(self) -> tuple[int, int]:
        """(unit in hand, its images that are made or have failed); may be asked while it runs."""
        return self.in_hand

    def run(self, task: Task) -> Report:
        """Make a task's images and write them as an attempt."""
        begin = time.perf_counter()
        self.in_hand = task.unit, 0
        work = _Work(self, task)
        work.load_sources()
        work.generate()
        attempt = work.write()
        return Report(attempt, time.perf_counter() - begin, self.wan.slots)

    def run_packed(self, task: bytes) -> bytes:
        """`run`, with pickled task and report: Ray takes half the time for bytes."""
        return pickle.dumps(self.run(pickle.loads(task)), protocol=5)

    def halve_slots(self) -> bool:
        """Go on with half the rows in a batch, from now on. False if there is only one."""
        import torch

        if self.wan.slots == 1:
            return False
        if self.setup.device == "cuda":
            torch.cuda.empty_cache()
        self.wan.use_slots(self.wan.slots // 2)
        return True


class _Work:
    """One task in hand: what is made and what has failed so far."""

    def __init__(self, worker: Worker, task: Task):
        self.worker, self.task = worker, task
        self.started = datetime.now(UTC)
        self.sources: dict[str, tuple[SourceImage, ...]] = {}
        self.used: dict[str, tuple[rows.UsedSource, ...]] = {}
        self.load_seconds: dict[str, float] = {}
        self.records: dict[str, rows.Record] = {}
        self.timings: dict[str, rows.Timing] = {}
        self.failures: list[rows.Failure] = []

    def load_sources(self) -> None:
        """Read each distinct source once, fitted to the size it is used at."""
        fitted: dict[tuple, tuple[SourceImage, str]] = {}
        load = self.worker.sources.load
        for image in self.task.images:
            begin = time.perf_counter()
            try:
                loaded = [_fitted(load, image, place, fitted) for place in range(len(image.sources))]
            except RowError as error:
                self._fail(image, error)
                continue
            self.load_seconds[image.id] = time.perf_counter() - begin
            self.sources[image.id] = tuple(picture for picture, _ in loaded)
            self.used[image.id] = tuple(
                rows.UsedSource(source.path, source.weight, digest)
                for source, (_, digest) in zip(image.sources, loaded, strict=True)
            )

    def generate(self) -> None:
        """Make every image whose sources could be read."""
        images = {image.id: image for image in self.task.images if image.id in self.sources}
        requests = [_request(image, self.sources[image.id]) for image in images.values()]
        for outcome in self._outcomes(requests):
            image = images[outcome.request.id]
            if isinstance(outcome, Failed):
                self._fail(image, outcome.error)
            else:
                self._record(image, outcome)
            self.worker.in_hand = self.task.unit, len(self.records) + len(self.failures)

    def write(self) -> Attempt:
        """Write what was made and what failed as one attempt."""
        made = [place for place, image in enumerate(self.task.images) if image.id in self.records]
        names = [self.task.images[place].id for place in made]
        records = [self.records[name] for name in names]
        return write_attempt(
            self.worker.setup.out,
            self.task.unit,
            self.task.attempt_token,
            rows.data_table(records, self.task.passthrough.take(made)) if records else None,
            [self.timings[name] for name in names],
            self.failures,
            {image.id: image.digest for image in self.task.images},
        )

    def _outcomes(self, requests: list[Request]) -> Iterator[Result | Failed]:
        """All outcomes. Memory that runs out halves the slots; another exception is traced to its row by halves.

        Raises DeviceError if the device is in a bad state.
        """
        if not requests:
            return
        done, trouble = set(), None
        try:
            for outcome in self.worker.wan.generate(requests):
                done.add(outcome.request.id)
                yield outcome
        except Exception as error:  # noqa: BLE001  any failure of one row must not take the others with it
            trouble = Trouble.of(error)  # and nothing of the error itself, whose traceback holds tensors
        if trouble is None:
            return
        if trouble.device:
            raise DeviceError(trouble.message)
        left = [request for request in requests if request.id not in done]
        if trouble.memory and self.worker.halve_slots():
            yield from self._outcomes(left)
        elif len(requests) == 1:
            yield from (Failed(request, RowError("generate", trouble.kind, trouble.message)) for request in left)
        else:
            middle = max(1, len(left) // 2)
            yield from self._outcomes(left[:middle])
            yield from self._outcomes(left[middle:])

    def _record(self, image: Image, result: Result) -> None:
        begin = time.perf_counter()
        encoded = _png(result.pixels)
        model = self.worker.setup.model
        self.records[image.id] = rows.Record(
            id=image.id,
            image=encoded,
            prompt=image.prompt,
            negative_prompt=image.negative_prompt,
            sources=self.used[image.id],
            creativity=image.creativity,
            seed=image.seed,
            variant=image.variant,
            width=image.width,
            height=image.height,
            steps=image.steps,
            guidance=image.guidance,
            shift=image.shift,
            sampler=image.sampler,
            model=model.name,
            revision=model.revision,
            sha256=hashlib.sha256(result.pixels.tobytes()).hexdigest(),
            manifest_row=image.manifest_row,
        )
        self.timings[image.id] = rows.Timing(
            id=image.id,
            unit=self.task.unit,
            attempt=self.task.attempt,
            worker=self.worker.name,
            host=self.worker.host,
            device=self.worker.device,
            batch_size=self.worker.wan.slots,
            started=self.started,
            backends=self.worker.backends,
            load_seconds=self.load_seconds[image.id],
            text_seconds=result.seconds.text,
            encode_seconds=result.seconds.encode,
            denoise_seconds=result.seconds.denoise,
            decode_seconds=result.seconds.decode,
            image_seconds=time.perf_counter() - begin,
            steps_full=result.steps,
            peak_memory_bytes=result.peak_memory_bytes,
        )

    def _fail(self, image: Image, error: RowError) -> None:
        self.failures.append(
            rows.Failure(
                id=image.id,
                manifest_row=image.manifest_row,
                stage=error.stage,
                error_class=error.kind,
                message=error.message,
                attempts=self.task.attempt,
                unit=self.task.unit,
                time=datetime.now(UTC),
            )
        )


def _load(model: ModelInfo, device: str, dtype: str, slots: int) -> Wan:
    from wanbatch.pipeline.generate import Wan

    return Wan.load(model, device, dtype, slots)


def _request(image: Image, sources: tuple[SourceImage, ...]) -> Request:
    return Request(
        id=image.id,
        prompt=image.prompt,
        negative_prompt=image.negative_prompt,
        sources=sources,
        creativity=image.creativity,
        seed=image.seed,
        width=image.width,
        height=image.height,
        steps=image.steps,
        guidance=image.guidance,
        shift=image.shift,
        sampler=image.sampler,
    )


def _fitted(
    load: Callable[[rows.Source], LoadedImage], image: Image, place: int, known: dict
) -> tuple[SourceImage, str]:
    """A source at the size of its image, and the digest of its file. known: those of this task so far."""
    source = image.sources[place]
    key = (source.key, image.width, image.height)
    if key not in known:
        loaded = load(source)
        pixels = fit(loaded.pixels, image.width, image.height)
        known[key] = SourceImage(f"{loaded.sha256}-{image.width}x{image.height}", pixels), loaded.sha256
    picture, digest = known[key]
    return replace(picture, weight=source.weight), digest


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG", compress_level=PNG_COMPRESSION)
    return buffer.getvalue()
