"""What a driver and its workers send each other. No Ray, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wanbatch.jobs.planning.adapters import NamedAdapter
from wanbatch.jobs.planning.units import Image
from wanbatch.manifests.dataset.content_credentials import SigningFiles
from wanbatch.manifests.dataset.image_formats import ImageFormat
from wanbatch.manifests.dataset.part_files import Attempt
from wanbatch.manifests.sources.notes import NotedImages
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.sound.config import SoundConfig


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Which engines a worker is to use.

    Attributes:
        store: where they are, an absolute path or a URL.
        digests: of those that the driver chose, by the part that each stands for; None: each worker takes those of
            its own device.
        required: whether a worker without any is refused.
    """

    store: str
    digests: Mapping[str, str] | None
    required: bool


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker is started with.

    Attributes:
        out: the output folder, a path or URL.
        source_root: where relative source paths start.
        source_fence: the folder that no source may leave, a path or URL; None: `source_root`.
        device: `cuda` or `cpu`.
        dtype: of weights and activations, as torch calls it.
        slots: rows denoised together.
        threads: that torch works with on the CPU, beside a GPU, too; 0 leaves torch's own number.
        examples: images like those that will come; what they need is compiled before the first unit.
        seen_source: path of a source file that the driver sees, so that a worker on another host must see it, too;
            None if the run has none.
        workers_on_host: how many workers share the cores of one host, at most.
        device_kind: the kind of device that makes the run's pictures; None: any kind does.
        on_cluster: whether workers may be on other hosts than the driver, where the model's files are elsewhere.
        model_cache: folder on each host that keeps a copy of the model; None: it is used where it is.
        embed_settings: pictures say in their files what they were made with.
        signing: what pictures are signed with; None: they are not.
        engines: of a store that run parts of the model; None: none do.
        adapters: those that images name, and those that are merged into the model, in this order.
        hearing: how sounds are heard; None: no row has one.
    """

    model: ModelInfo
    out: str
    source_root: str
    allow_http: bool
    device: str
    dtype: str
    slots: int
    threads: int
    format: ImageFormat = field(default_factory=ImageFormat)
    runtime: Runtime = field(default_factory=Runtime)
    examples: tuple[Image, ...] = ()
    seen_source: str | None = None
    workers_on_host: int = 1
    source_fence: str | None = None
    device_kind: str | None = None
    on_cluster: bool = False
    model_cache: str | None = None
    embed_settings: bool = False
    signing: SigningFiles | None = None
    engines: EngineChoice | None = None
    adapters: tuple[NamedAdapter, ...] = ()
    hearing: SoundConfig | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """What a worker that is ready says of itself.

    Attributes:
        load_seconds: how long it took to load the model.
        warm_up_seconds: how long it took to compile it.
        backends: how it computes each stage.
        host: name of its machine.
        mark: what it left in the output folder (`manifests/dataset/visibility.py`), for the driver to find.
        device: name of its device, as timings have it.
        gpu: which GPU of its host it has, as CUDA_VISIBLE_DEVICES names it; empty without one.
        steps: of its start, as `StartSteps.as_json` has them.
    """

    load_seconds: float
    warm_up_seconds: float
    backends: Mapping[str, str]
    host: str
    mark: str
    device: str = ""
    gpu: str = ""
    steps: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UnitReport:
    """What a worker reports of a finished task.

    Attributes:
        attempt: what was written; it lacks images that were cut off because the run stops, and is None without any.
        busy_seconds: how long its stages worked on it, added up. What they waited for each other does not count;
            what ran beside other tasks' stages does.
        model_seconds: the part of these in which it had the model.
        slots: rows denoised together when it was made.
        source_retries: how often requests for its sources were made again, after a busy server or a lost connection.
        source_notes: what the user should know of the sources of its images, by the names of `notes.WORDS`.
        host: name of the machine that wrote it.
        causes: error class -> what the first row that failed so says.
        evaluations: of the model for its images, guidance aside.
        slot_steps: its images' share of the slots of all evaluations, slots without an image included.
        moves: how often parts of the model came to the device for it, where they take turns there.
        move_seconds: that this took, as part of the images' time.
    """

    attempt: Attempt | None
    busy_seconds: float
    model_seconds: float
    slots: int
    source_retries: int = 0
    source_notes: Mapping[str, NotedImages] = field(default_factory=dict)
    host: str = ""
    causes: Mapping[str, str] = field(default_factory=dict)
    evaluations: int = 0
    slot_steps: float = 0.0
    moves: int = 0
    move_seconds: float = 0.0

    @property
    def slot_use(self) -> float | None:
        """The share of the slots of its evaluations that had an image; None if nothing was evaluated."""
        return self.evaluations / self.slot_steps if self.slot_steps else None


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What has become of the tasks that a worker was given.

    Attributes:
        reports: of tasks that are finished, in the order in which they were handed over.
        generated: how many of the other tasks, the first ones, have left the model and are being written.
        in_model: the first unit that is in the model or, if none is, the last one that was, and how many of its
            images are made; (-1, 0) before the first.
        entered: how many of the other tasks, the first ones, have got the model, those that left it included.
        has_made: whether this process has made an image, of a finished task or of one in the model.
    """

    reports: list[UnitReport]
    generated: int
    in_model: tuple[int, int]
    entered: int = 0
    has_made: bool = False
