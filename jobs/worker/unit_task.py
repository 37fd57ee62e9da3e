"""One task in a worker's hands: what is made of it so far and what has failed.

Its three stages may run in three threads, one after the other: `load_sources`; then `enter_model`, `take` for each
outcome and `leave_model`; then `write`. Pictures are encoded beside them, as soon as the model hands them over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import perf_counter

import numpy as np

from wanbatch import __version__
from wanbatch.errors import RowError
from wanbatch.jobs.config.metrics import STAGES
from wanbatch.jobs.planning.units import Image, Task
from wanbatch.jobs.worker.context import WorkerContext
from wanbatch.jobs.worker.creativity_maps import CreativityMaps, as_shown
from wanbatch.jobs.worker.marking import mark_of
from wanbatch.jobs.worker.messages import UnitReport
from wanbatch.jobs.worker.requests import FittedSources, coming_row, request_for
from wanbatch.jobs.worker.sounds import HeardSound, HeardSounds
from wanbatch.manifests import records
from wanbatch.manifests.columns import RARE, RESOLVED
from wanbatch.manifests.dataset.content_credentials import Signer
from wanbatch.manifests.dataset.image_formats import ImageFormat
from wanbatch.manifests.dataset.origin_marks import OriginMark
from wanbatch.manifests.dataset.part_files import Attempt, write_attempt
from wanbatch.manifests.digital_source import SYNTHETIC
from wanbatch.manifests.sources.notes import MAP_PART_SMALL, NotedImages, added
from wanbatch.pipeline.core.requests import CreativityMap, Failed, Request, Result, SourceImage
from wanbatch.pipeline.sampling.schedules import KEEP


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as a file.

    Attributes:
        image: the file.
        sha256: of the picture's pixels.
        seconds: that both took, in a thread of their own.
    """

    image: bytes
    sha256: str
    seconds: float


class UnitTask:
    """One task in hand."""

    def __init__(
        self,
        context: WorkerContext,
        task: Task,
        on_progress: Callable[[int, int, int], None],
        stops: Callable[[], bool] = lambda: False,
    ):
        """Take a task in hand.

        Args:
            context: what the worker has.
            task: what to make.
            on_progress: told the unit's number, how many of its images are made or have failed, and how many are
                made: when it gets the model, and then after each image.
            stops: whether images that are not made yet are to be left out, since the run stops.
        """
        self.context, self.task = context, task
        self._on_progress, self._stops = on_progress, stops
        self._started = datetime.now(UTC)
        self._sources: dict[str, tuple[SourceImage, ...]] = {}
        self._maps: dict[str, CreativityMap | None] = {}
        self._shown: dict[str, Image] = {}  # with what their maps say
        self._sounds: dict[str, HeardSound] = {}
        self._used: dict[str, tuple[records.UsedSource, ...]] = {}
        self._marks: dict[str, OriginMark] = {}
        self._load_seconds: dict[str, float] = {}
        self._timings: dict[str, records.Timing] = {}
        self._encoded: dict[str, Future[Encoded]] = {}
        self._notes: dict[str, dict[str, str]] = {}  # id -> note -> a source that it is about
        self._failures: list[records.Failure] = []
        self._in_model: dict[str, Image] = {}
        self._evaluations, self._slot_steps = 0, 0.0
        self._moves, self._move_seconds = 0, 0.0
        self._busy_seconds = self._model_seconds = 0.0  # without what the stages waited for each other
        self._slots = self._source_retries = 0

    def load_sources(self) -> None:
        """Have the adapters brought that rows name, and read each distinct source once, fitted to its size."""
        if not self._stops():
            self.context.pipeline.expect_adapters(self, map(coming_row, self.task.images))
        begin, retried = perf_counter(), self.context.sources.retried
        sources = FittedSources(self.context.sources, self.context.setup.model)
        maps = CreativityMaps(self.context.sources)
        sounds = HeardSounds(self.context.sources, self.context.hearing)
        for image in self.task.images:
            if self._stops():
                break
            self._load(image, sources, maps, sounds)
        self._source_retries = self.context.sources.retried - retried
        self._busy_seconds += perf_counter() - begin

    def enter_model(self) -> list[Request]:
        """Requests for every image whose sources could be read; none if the run stops."""
        self._on_progress(self.task.unit, 0, 0)
        images = {image.id: image for image in self.task.images if image.id in self._sources}
        self._in_model = {} if self.stops else images
        return [
            request_for(image, self._sources[name], self._maps[name], self._sounds[name])
            for name, image in self._in_model.items()
        ]

    def take(self, outcome: Result | Failed, seconds: float) -> None:
        """Take an image that is made, and have it encoded, or one that has failed.

        Args:
            outcome: of one of the requests.
            seconds: its part of the time in which the worker had images in the model.
        """
        image = self._in_model.pop(outcome.request.id)
        if isinstance(outcome, Failed):
            self._fail(image, outcome.error)
        else:
            self._keep(image, outcome)
        self._model_seconds += seconds
        self._on_progress(self.task.unit, len(self._timings) + len(self._failures), len(self._timings))

    @property
    def all_taken(self) -> bool:
        """Whether no image of the unit is in the model any more."""
        return not self._in_model

    @property
    def stops(self) -> bool:
        """Whether images that are not made yet are to be left out, since the run stops."""
        return self._stops()

    def leave_model(self) -> None:
        """Give up what only the model needs; images that are not taken are left out."""
        self._slots = self.context.pipeline.slots
        self._in_model = {}
        self._sources.clear()
        self._maps.clear()
        self.context.pipeline.release_adapters(self)
        self._busy_seconds += self._model_seconds

    def write(self) -> UnitReport:
        """Write what was made and what failed as one attempt; nothing if all was cut off."""
        encoded = {name: future.result() for name, future in self._encoded.items()}
        begin = perf_counter()
        attempt = self._write_attempt(encoded) if encoded or self._failures else None
        self._busy_seconds += sum(one.seconds for one in encoded.values()) + perf_counter() - begin
        causes = {failure.error_class: failure.message for failure in reversed(self._failures)}
        return UnitReport(
            attempt=attempt,
            busy_seconds=self._busy_seconds,
            model_seconds=self._model_seconds,
            slots=self._slots,
            source_retries=self._source_retries,
            source_notes=self._source_notes(encoded),
            host=self.context.host,
            causes=causes,
            evaluations=self._evaluations,
            slot_steps=self._slot_steps,
            moves=self._moves,
            move_seconds=self._move_seconds,
        )

    def stage_seconds(self) -> dict[str, float]:
        """Seconds of its images in each of `config.metrics.STAGES`, once it is written."""
        timed = self._timings.values()
        seconds = {
            "load": sum(self._load_seconds.values()),
            "image": sum(future.result().seconds for future in self._encoded.values()),
        }
        return {
            stage: seconds.get(stage) or sum(getattr(one, f"{stage}_seconds") for one in timed) for stage in STAGES
        }

    def _source_notes(self, made: Collection[str]) -> dict[str, NotedImages]:
        """What the user should know of the sources of images that were made. made: their ids."""
        notes: dict[str, NotedImages] = {}
        for name, found in self._notes.items():
            if name in made:
                notes = added(notes, {note: NotedImages(1, source) for note, source in found.items()})
        return notes

    def _write_attempt(self, encoded: Mapping[str, Encoded]) -> Attempt:
        made = [index for index, image in enumerate(self.task.images) if image.id in encoded]
        images = [self.task.images[index] for index in made]
        made_records = [self._record(image, encoded[image.id]) for image in images]
        ended = encoded.keys() | {failure.id for failure in self._failures}
        return write_attempt(
            self.context.setup.out,
            self.task.unit,
            self.task.attempt_token,
            records.data_table(made_records, self.task.passthrough.take(made), self.task.later)
            if made_records
            else None,
            [replace(self._timings[image.id], image_seconds=encoded[image.id].seconds) for image in images],
            self._failures,
            {image.id: image.digest for image in self.task.images if image.id in ended},
        )

    def _load(self, image: Image, sources: FittedSources, maps: CreativityMaps, sounds: HeardSounds) -> None:
        begin = perf_counter()
        try:
            loaded = sources.of(image)
            shown = maps.of(image, loaded[0].size) if loaded else None
            heard = sounds.of(image)
        except RowError as error:
            self._fail(image, error)
            return
        self._load_seconds[image.id] = perf_counter() - begin
        self._sources[image.id] = tuple(fitted.picture for fitted in loaded)
        self._maps[image.id], self._sounds[image.id] = shown, heard
        self._used[image.id] = tuple(
            records.UsedSource(source.path, source.weight, fitted.sha256)
            for source, fitted in zip(image.sources, loaded, strict=True)
        )
        self._shown[image.id] = image = as_shown(image, shown)
        self._marks[image.id] = mark_of(image, [fitted.term for fitted in loaded], self.context.setup)
        self._notes[image.id] = {
            note: source.name for source, fitted in zip(image.sources, loaded, strict=True) for note in fitted.notes
        }

    def _keep(self, image: Image, result: Result) -> None:
        """Note how a picture was made, and hand its pixels to an encoder."""
        context = self.context
        self._evaluations += result.work.steps_full + result.work.steps_cached
        self._slot_steps += result.slot_steps
        self._moves += result.moves
        self._move_seconds += result.move_seconds
        if result.start_lowered:
            self._notes[image.id][MAP_PART_SMALL] = image.sources[0].name
        mark = self._marks[image.id]
        self._encoded[image.id] = context.encoders.submit(
            encode, result.pixels, context.setup.format, mark, context.signer
        )
        self._timings[image.id] = records.Timing(
            id=image.id,
            unit=self.task.unit,
            attempt=self.task.attempt,
            worker=context.name,
            host=context.host,
            device=context.device,
            batch_size=context.pipeline.slots,
            started=self._started,
            backends=records.Backends(**result.backends) if result.backends else context.backends,
            load_seconds=self._load_seconds[image.id],
            text_seconds=result.seconds.text,
            encode_seconds=result.seconds.encode,
            denoise_seconds=result.seconds.denoise,
            decode_seconds=result.seconds.decode,
            steps_full=result.work.steps_full,
            steps_cached=result.work.steps_cached,
            blocks_full=result.work.blocks_full,
            blocks_cached=result.work.blocks_cached,
            peak_memory_bytes=result.peak_memory_bytes,
            slot_steps=result.slot_steps,
        )

    def _record(self, image: Image, encoded: Encoded) -> records.Record:
        setup, timing = self.context.setup, self._timings[image.id]
        image = self._shown[image.id]
        evaluations = image.evaluations
        if image.creativity_boxes or image.map_source:  # the map decides where the row starts
            evaluations = timing.steps_full + timing.steps_cached
        return records.Record(
            id=image.id,
            image=encoded.image,
            sources=self._used[image.id],
            variant=image.variant,
            **{name: getattr(image, name) for name in RESOLVED if name != "creativity_steps"},
            creativity_steps=image.creativity_steps or KEEP,
            evaluations=evaluations,
            **{**{name: getattr(image, name) for name in RARE}, **self._sounds[image.id].record},
            step_cache=setup.runtime.step_cache,
            model=setup.model.name,
            revision=setup.model.revision,
            sha256=encoded.sha256,
            is_synthetic=self._marks[image.id].term in SYNTHETIC,
            wanbatch_version=__version__,
            manifest_row=image.manifest_row,
            suffix=setup.format.suffix,
        )

    def _fail(self, image: Image, error: RowError) -> None:
        self._failures.append(
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


def encode(
    pixels: np.ndarray, format: ImageFormat, mark: OriginMark | None = None, signer: Signer | None = None
) -> Encoded:
    """Encode pixels as a file, with the hash of the pixels.

    Args:
        pixels: uint8 [height, width, 3], RGB.
        format: of the file.
        mark: what the file says of its origin.
        signer: signs what it says; needs a mark.
    """
    begin = perf_counter()
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    image = format.encode(pixels, mark.metadata(digest) if mark else None)
    if signer is not None and mark is not None:
        image = signer.sign(image, format.name, mark)
    return Encoded(image, digest, perf_counter() - begin)
