"""One task in a worker's hands: what is made of it so far and what has failed.

Its three stages may run in three threads, one after the other: `load_sources`, `generate`, `write`. Pictures are
encoded beside them, as soon as the model hands them over.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from wanbatch.errors import DeviceError, RowError
from wanbatch.jobs.planning.plan import Image, Task
from wanbatch.manifests import records
from wanbatch.manifests.columns import RESOLVED
from wanbatch.manifests.dataset.image_formats import ImageFormat
from wanbatch.manifests.dataset.part_files import Attempt, write_attempt
from wanbatch.manifests.sources.loader import LoadedImage
from wanbatch.pipeline.core.requests import Failed, Request, Result, SourceImage, fit
from wanbatch.pipeline.loading.registry import ModelInfo

if TYPE_CHECKING:
    from wanbatch.jobs.worker.actor import Worker

_DEVICE_TROUBLE = re.compile(r"CUDA error|CUBLAS_STATUS|CUDNN_STATUS|device-side assert")
_NO_MEMORY = re.compile(r"DefaultCPUAllocator: can't allocate memory|CUDA error: out of memory|_STATUS_ALLOC_FAILED")

ASKED = tuple(field.name for field in fields(Request) if field.name in RESOLVED)
"""Settings of an image that the model is asked with."""


@dataclass(frozen=True, slots=True)
class PipelineFailure:
    """An exception of the pipeline, told apart. kind: the error class of a row that it is traced to."""

    message: str
    memory: bool
    device: bool

    @classmethod
    def of(cls, error: Exception) -> PipelineFailure:
        """memory: the device's or the host's ran out. device: its context is broken, as CUDA's errors leave it."""
        import torch

        memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(_NO_MEMORY.search(str(error)))
        device = isinstance(error, torch.AcceleratorError) or bool(_DEVICE_TROUBLE.search(str(error)))
        return cls(f"{type(error).__name__}: {error}", memory, device and not memory)

    @property
    def kind(self) -> str:
        return "oom" if self.memory else "error"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as a file. sha256: of its pixels. seconds: that both took, in a thread of their own."""

    image: bytes
    sha256: str
    seconds: float


class UnitTask:
    """One task in hand. busy_seconds: of the stages so far, less what they waited for each other."""

    def __init__(self, worker: Worker, task: Task):
        self.worker, self.task = worker, task
        self.started = datetime.now(UTC)
        self.sources: dict[str, tuple[SourceImage, ...]] = {}
        self.used: dict[str, tuple[records.UsedSource, ...]] = {}
        self.load_seconds: dict[str, float] = {}
        self.timings: dict[str, records.Timing] = {}
        self.encoded: dict[str, Future[Encoded]] = {}
        self.failures: list[records.Failure] = []
        self.busy_seconds = self.model_seconds = 0.0
        self.slots = 0

    def load_sources(self) -> None:
        """Read each distinct source once, fitted to the size it is used at."""
        begin = time.perf_counter()
        fitted: dict[tuple, tuple[SourceImage, str]] = {}
        for image in self.task.images:
            self._load(image, fitted)
        self.busy_seconds += time.perf_counter() - begin

    def generate(self) -> None:
        """Make every image whose sources could be read, and have the pictures encoded."""
        begin = time.perf_counter()
        images = {image.id: image for image in self.task.images if image.id in self.sources}
        requests = [_request(image, self.sources[image.id]) for image in images.values()]
        for outcome in self._outcomes(requests):
            image = images[outcome.request.id]
            if isinstance(outcome, Failed):
                self._fail(image, outcome.error)
            else:
                self._take(image, outcome)
            self.worker.making = self.task.unit, len(self.timings) + len(self.failures)
        self.slots = self.worker.wan.slots
        self.sources.clear()
        self.model_seconds = time.perf_counter() - begin
        self.busy_seconds += self.model_seconds

    def write(self) -> Attempt:
        """Write what was made and what failed as one attempt."""
        encoded = {name: future.result() for name, future in self.encoded.items()}
        begin = time.perf_counter()
        made = [place for place, image in enumerate(self.task.images) if image.id in encoded]
        images = [self.task.images[place] for place in made]
        made_records = [self._record(image, encoded[image.id]) for image in images]
        attempt = write_attempt(
            self.worker.setup.out,
            self.task.unit,
            self.task.attempt_token,
            records.data_table(made_records, self.task.passthrough.take(made), self.task.later)
            if made_records
            else None,
            [replace(self.timings[image.id], image_seconds=encoded[image.id].seconds) for image in images],
            self.failures,
            {image.id: image.digest for image in self.task.images},
        )
        self.busy_seconds += sum(one.seconds for one in encoded.values()) + time.perf_counter() - begin
        return attempt

    def _load(self, image: Image, fitted: dict) -> None:
        begin = time.perf_counter()
        load = self.worker.sources.load
        try:
            model = self.worker.setup.model
            loaded = [_fitted(load, model, image, place, fitted) for place in range(len(image.sources))]
        except RowError as error:
            self._fail(image, error)
            return
        self.load_seconds[image.id] = time.perf_counter() - begin
        self.sources[image.id] = tuple(picture for picture, _ in loaded)
        self.used[image.id] = tuple(
            records.UsedSource(source.path, source.weight, digest)
            for source, (_, digest) in zip(image.sources, loaded, strict=True)
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
            trouble = PipelineFailure.of(error)  # and nothing of the error itself, whose traceback holds tensors
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

    def _take(self, image: Image, result: Result) -> None:
        """Note how a picture was made, and hand its pixels to an encoder."""
        worker = self.worker
        self.encoded[image.id] = worker.encoders.submit(encode, result.pixels, worker.setup.format)
        self.timings[image.id] = records.Timing(
            id=image.id,
            unit=self.task.unit,
            attempt=self.task.attempt,
            worker=worker.name,
            host=worker.host,
            device=worker.device,
            batch_size=worker.wan.slots,
            started=self.started,
            backends=worker.backends,
            load_seconds=self.load_seconds[image.id],
            text_seconds=result.seconds.text,
            encode_seconds=result.seconds.encode,
            denoise_seconds=result.seconds.denoise,
            decode_seconds=result.seconds.decode,
            steps_full=result.work.steps_full,
            steps_cached=result.work.steps_cached,
            blocks_full=result.work.blocks_full,
            blocks_cached=result.work.blocks_cached,
            peak_memory_bytes=result.peak_memory_bytes,
        )

    def _record(self, image: Image, encoded: Encoded) -> records.Record:
        model = self.worker.setup.model
        return records.Record(
            id=image.id,
            image=encoded.image,
            sources=self.used[image.id],
            variant=image.variant,
            **{name: getattr(image, name) for name in RESOLVED},
            step_cache=self.worker.setup.runtime.step_cache,
            model=model.name,
            revision=model.revision,
            sha256=encoded.sha256,
            manifest_row=image.manifest_row,
            suffix=self.worker.setup.format.suffix,
        )

    def _fail(self, image: Image, error: RowError) -> None:
        self.failures.append(
            records.Failure(
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


def blank_request(image: Image) -> Request:
    """What an image asks of the model, with grey pictures in the place of its sources."""
    grey = np.full((image.height, image.width, 3), 128, dtype=np.uint8)
    return _request(image, tuple(SourceImage("grey", grey, source.weight) for source in image.sources))


def _request(image: Image, sources: tuple[SourceImage, ...]) -> Request:
    return Request(id=image.id, sources=sources, **{name: getattr(image, name) for name in ASKED})


def _fitted(
    load: Callable[[records.Source], LoadedImage], model: ModelInfo, image: Image, place: int, known: dict
) -> tuple[SourceImage, str]:
    """A source at the size of its image, and the digest of its file. known: those of this task so far."""
    source = image.sources[place]
    area = image.source_area if place == 0 else None
    key = (source.key, image.width, image.height, area)
    if key not in known:
        loaded = load(source)
        height, width = loaded.pixels.shape[:2]
        if area is not None and model.fitting_size(width, height, area) != (image.width, image.height):
            message = f"{source.name} has another shape than when the run was planned: retry the row"
            raise RowError("source", "changed_image", message)
        pixels = fit(loaded.pixels, image.width, image.height)
        known[key] = SourceImage(f"{loaded.sha256}-{image.width}x{image.height}", pixels), loaded.sha256
    picture, digest = known[key]
    return replace(picture, weight=source.weight), digest


def encode(pixels: np.ndarray, how: ImageFormat) -> Encoded:
    """uint8 [height, width, 3] as a file, with the hash of its pixels."""
    begin = time.perf_counter()
    image = how.encode(pixels)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return Encoded(image, digest, time.perf_counter() - begin)
