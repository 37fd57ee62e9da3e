"""A model without memory: what was brought for coming rows leaves first, and then there are fewer slots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from adapter_making import random_pairs
from fake_pipelines import FakePipeline
from picture_requests import PLAIN
from small_models import random_transformer

from wanbatch.jobs.worker.recovery import generate_or_fail
from wanbatch.pipeline.adapters.store import AdapterStore
from wanbatch.pipeline.adapters.tensors import AdapterTensors, LowRank
from wanbatch.pipeline.core.requests import ComingRow, Failed, Request, Result

ROWS = [replace(PLAIN, id=f"row {number}", width=8, height=8) for number in range(5)]


class FullPipeline(FakePipeline):
    """Has memory for rows in so many slots, with none of its adapters beside them."""

    def __init__(self, slots: int, room: int):
        super().__init__(slots)
        self.room, self.tries = room, 0
        pairs = random_pairs(random_transformer().config)
        tensors = AdapterTensors({layer: LowRank(down, up, 1.0) for layer, (down, up) in pairs.items()})
        self.adapters = AdapterStore({"ink": ((tensors,), 1.0)}, torch.device("cpu"), torch.float32)

    def expect_adapters(self, holder, rows) -> None:
        self.adapters.expect(holder, rows)
        self.adapters.wait()

    def spare_memory(self) -> int:
        return self.adapters.spare_memory()

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        self.tries += 1
        for number, request in enumerate(requests):
            if number == 2 and (self.adapters.resident or self.slots > self.room):
                raise torch.OutOfMemoryError("no memory")
            yield self.result(request)


@pytest.mark.parametrize(
    ("expects", "room", "slots", "tries"),
    [
        (True, 4, 4, 2),  # the adapters had taken it
        (True, 2, 2, 3),  # they, and two slots
        (False, 2, 2, 2),
        (False, 4, 4, 1),
    ],
)
def test_adapters_of_coming_rows_leave_before_slots_do(expects, room, slots, tries):
    pipeline = FullPipeline(4, room)
    if expects:
        pipeline.expect_adapters("next", [ComingRow("a", [("ink", 1.0)])])
        assert len(pipeline.adapters.resident) == 1
    outcomes = list(generate_or_fail(pipeline, "cpu", ROWS))
    assert [outcome.request.id for outcome in outcomes] == [row.id for row in ROWS]
    assert all(isinstance(outcome, Result) for outcome in outcomes)
    assert (pipeline.slots, pipeline.tries) == (slots, tries)
    assert pipeline.adapters.resident == []


class RefillingPipeline(FullPipeline):
    """Brings adapters again each time, so that letting go of them would help for ever."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Result | Failed]:
        self.tries += 1
        self.adapters.applied([("ink", 1.0)]).pairs(0)
        raise torch.OutOfMemoryError("no memory")
        yield


def test_what_has_no_memory_even_so_fails_in_the_end():
    pipeline = RefillingPipeline(4, 4)
    outcomes = list(generate_or_fail(pipeline, "cpu", ROWS[:2]))
    assert [outcome.error.kind for outcome in outcomes] == ["oom", "oom"]
    assert (pipeline.slots, pipeline.tries) == (1, 6)  # 4 slots twice, then 2, 1, and each row alone
