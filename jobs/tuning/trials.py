"""Making the same images with one candidate's settings after another's, from the same noise, and timing it.

`wanbatch tune` makes a sample of a manifest's rows, `benchmarks/quality.py` captions of the small world.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from wanbatch.errors import UserError
from wanbatch.jobs.tuning.candidates import Candidate
from wanbatch.pipeline.core.device import synchronized_time
from wanbatch.pipeline.core.requests import Failed, Request, Result
from wanbatch.pipeline.generate import Wan


@dataclass(frozen=True, slots=True, eq=False)
class CandidateImages:
    """What one candidate made of all requests.

    Attributes:
        pictures: Pixels by id, uint8 [height, width, 3].
        seconds: Seconds an image, from its prompt and sources to its pixels.
        evaluations: Evaluations of the model, an image.
        blocks: Transformer blocks that ran in them, an image.
        failed: Ids whose image contains NaN or infinity; they are black in `pictures`.
    """

    pictures: dict[str, np.ndarray]
    seconds: float
    evaluations: float
    blocks: float
    failed: tuple[str, ...] = ()


class CandidateRunner:
    """Makes the same requests with the settings of one candidate after another."""

    def __init__(self, wan: Wan, requests: Sequence[Request]):
        self.wan, self.requests = wan, list(requests)

    def make(self, candidate: Candidate) -> CandidateImages:
        """Make all requests with a candidate's settings instead of their own.

        Raises:
            UserError: The model does not have these settings, or they need more memory than there is.
        """
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
        pixels = {o.request.id: _black(o.request) if isinstance(o, Failed) else o.pixels for o in outcomes}
        works = [o.work for o in outcomes if isinstance(o, Result)]
        return CandidateImages(
            pictures={request.id: pixels[request.id] for request in requests},
            seconds=seconds,
            evaluations=sum(work.steps_full + work.steps_cached for work in works) / len(requests),
            blocks=sum(work.blocks_full for work in works) / len(requests),
            failed=tuple(o.request.id for o in outcomes if isinstance(o, Failed)),
        )

    def time_in_turn(
        self,
        candidates: Sequence[Candidate],
        rounds: int,
        on_images: Callable[[int, Candidate, CandidateImages], None],
    ) -> dict[Candidate, float]:
        """Return the seconds an image of each candidate: medians over rounds, each of which runs every one once.

        Args:
            candidates: What is timed.
            rounds: How often.
            on_images: Called with the round, from 0, the candidate and what it made.
        """
        seconds: dict[Candidate, list[float]] = {candidate: [] for candidate in candidates}
        for number in range(rounds):
            for candidate, times in seconds.items():
                made = self.make(candidate)
                times.append(made.seconds)
                on_images(number, candidate, made)
        return {candidate: statistics.median(times) for candidate, times in seconds.items()}


def _black(request: Request) -> np.ndarray:
    return np.zeros((request.height, request.width, 3), dtype=np.uint8)
