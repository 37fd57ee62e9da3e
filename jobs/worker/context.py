"""What all units of one worker share: its pipeline, its sources, its threads for encoding, its name."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from wanbatch.jobs.worker.messages import WorkerSetup
from wanbatch.manifests import records
from wanbatch.manifests.dataset.content_credentials import Signer
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.pipeline.core.requests import ComingRow, Failed, Request, Result
from wanbatch.pipeline.loading.registry import ModelInfo

if TYPE_CHECKING:
    from wanbatch.pipeline.sound.hearing import Hearing  # needs torch


class ImagePipeline(Protocol):
    """What a worker needs of a pipeline; `Wan` is one."""

    @property
    def slots(self) -> int:
        """Rows that are denoised together."""

    @property
    def backends(self) -> Mapping[str, str]:
        """How each stage (text, encode, denoise, decode) is computed, by name."""

    def use_slots(self, slots: int) -> None:
        """Denoise so many rows together from now on."""

    @property
    def streams(self) -> bool:
        """Whether `generate` takes further requests while it is at work."""

    def generate(
        self, requests: Sequence[Request], more: Callable[[], Sequence[Request]] | None = None
    ) -> Iterator[Result | Failed]:
        """Yield one outcome for each request, as soon as it is there.

        A pipeline that streams asks `more` for further ones when it could work on them; empty: there are none now.
        """

    def expect_adapters(self, holder: Hashable, rows: Iterable[ComingRow]) -> None:
        """Get adapters ready for rows that come later, while `generate` may be at work on others in another thread.

        Args:
            holder: who releases them, once these rows are made.
            rows: the first rows first.
        """

    def release_adapters(self, holder: Hashable) -> None:
        """Take note that none of these rows needs its adapters any more."""

    def spare_memory(self) -> int:
        """Let go of what the device's memory holds for coming rows alone; returns how many bytes that were."""

    def warm_up(self, examples: Sequence[Request]) -> float:
        """Compile what requests like these need; returns the seconds that it took."""


LoadPipeline = Callable[[ModelInfo, str, str, int], ImagePipeline]  # of model, device, dtype and slots


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What all units of one worker share.

    Attributes:
        setup: what the worker was started with.
        name: the worker's, as timings have it.
        host: name of the machine.
        device: name of the device, as timings have it.
        pipeline: what generates images.
        backends: how the pipeline computes each stage.
        sources: loads source images.
        encoders: threads that encode pictures as files.
        signer: signs them; None: nothing does.
        hearing: hears sounds; None: no row has one.
    """

    setup: WorkerSetup
    name: str
    host: str
    device: str
    pipeline: ImagePipeline
    backends: records.Backends
    sources: SourceLoader
    encoders: ThreadPoolExecutor
    signer: Signer | None = None
    hearing: Hearing | None = None
