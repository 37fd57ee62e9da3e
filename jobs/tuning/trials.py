"""Making the same pictures with one candidate's settings after another's, from the same noise, and timing it.

`wanbatch tune` makes a sample of a manifest's rows, `benchmarks/quality.py` captions of the small world.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch

from wanbatch.errors import RowError, UserError
from wanbatch.jobs.planning.plan import Image
from wanbatch.jobs.tuning.search import Candidate
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.requests import Failed, Request, Result, SourceImage, fit
from wanbatch.pipeline.generate import Wan


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """Pictures by id, uint8 [height, width, 3], and the seconds that each took: text, sources, steps, decoding.

    evaluations: of the model, and blocks: that ran in them, for a picture. failed: ids whose picture has values that
    are not numbers; it is black here.
    """

    pictures: dict[str, np.ndarray]
    seconds: float
    evaluations: float
    blocks: float
    failed: tuple[str, ...] = ()


class Maker:
    """Makes requests with a candidate's settings instead of their own."""

    def __init__(self, wan: Wan, requests: Sequence[Request]):
        self.wan, self.requests = wan, list(requests)

    def make(self, candidate: Candidate) -> Made:
        """Raises UserError for settings that this model does not have or that need more memory than there is."""
        self.wan.use_step_cache(candidate.step_cache)
        requests = [
            replace(request, sampler=candidate.sampler, steps=candidate.steps, schedule=candidate.schedule)
            for request in self.requests
        ]
        self.wan.text.forget()  # so that every candidate's time has the prompts in it
        begin = synchronized_time(self.wan.device)
        try:
            outcomes = list(self.wan.generate(requests))
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise UserError(f"memory ran out with {self.wan.slots} slots: give --slots less") from error
        seconds = (synchronized_time(self.wan.device) - begin) / len(requests)
        made = {o.request.id: _black(o.request) if isinstance(o, Failed) else o.pixels for o in outcomes}
        failed = tuple(o.request.id for o in outcomes if isinstance(o, Failed))
        works = [o.work for o in outcomes if isinstance(o, Result)]
        evaluations = sum(work.steps_full + work.steps_cached for work in works) / len(requests)
        blocks = sum(work.blocks_full for work in works) / len(requests)
        return Made({request.id: made[request.id] for request in requests}, seconds, evaluations, blocks, failed)

    def in_turn(
        self, candidates: Sequence[Candidate], rounds: int, take: Callable[[int, Candidate, Made], None]
    ) -> dict[Candidate, float]:
        """Seconds of a picture for each: medians over rounds, each of which runs every candidate once.

        take: is given the round, from 0, the candidate and what it made.
        """
        seconds: dict[Candidate, list[float]] = {candidate: [] for candidate in candidates}
        for number in range(rounds):
            for candidate, times in seconds.items():
                made = self.make(candidate)
                times.append(made.seconds)
                take(number, candidate, made)
        return {candidate: statistics.median(times) for candidate, times in seconds.items()}


def load_requests(
    images: Iterable[Image], count: int, source_root: Path | str, allow_http: bool
) -> tuple[list[Request], list[tuple[Image, RowError]]]:
    """The first `count` images that can be made, as requests, and those that were passed over, with the reason."""
    requests: list[Request] = []
    unfit: list[tuple[Image, RowError]] = []
    with SourceLoader(source_root, allow_http=allow_http) as loader:
        for image in images:
            if len(requests) == count:
                break
            try:
                requests.append(_request(image, loader))
            except RowError as error:
                unfit.append((image, error))
    return requests, unfit


def hardware(device: str) -> str:
    """In words: the GPU, or the processor and the number of threads."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.machine()}, {torch.get_num_threads()} threads"


def _request(image: Image, loader: SourceLoader) -> Request:
    sources = []
    for source in image.sources:
        loaded = loader.load(source)
        pixels = fit(loaded.pixels, image.width, image.height)
        sources.append(SourceImage(f"{loaded.sha256}-{image.width}x{image.height}", pixels, source.weight))
    settings = {field.name: getattr(image, field.name) for field in fields(Request) if field.name != "sources"}
    return Request(sources=tuple(sources), **settings)


def _black(request: Request) -> np.ndarray:
    return np.zeros((request.height, request.width, 3), dtype=np.uint8)
