"""The batch size: which one is chosen, and that measuring measures."""

from __future__ import annotations

import pytest
import torch
from small_models import random_transformer

from wanbatch.pipeline.batching import batch, calibration
from wanbatch.pipeline.batching.calibration import best_slots, measure
from wanbatch.pipeline.loading.runtime import Runtime
from wanbatch.pipeline.loading.single_frame import single_frame_transformer
from wanbatch.pipeline.models.dit import FrameTransformer

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("seconds", "slots"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 2: 0.98, 4: 0.975}, 1),
        ({1: 1.0, 2: 0.8, 4: 0.7, 8: 0.69, 16: 0.69}, 4),
        ({1: 1.0, 2: 0.8, 4: 0.7, 8: 0.6, 16: 0.5}, 16),
        ({1: 0.5, 2: 0.6, 4: 0.7}, 1),
    ],
)
def test_the_smallest_batch_that_is_nearly_the_fastest(seconds, slots):
    assert best_slots(seconds) == slots


def test_nothing_measured():
    with pytest.raises(ValueError, match="no batch size"):
        best_slots({})


@pytest.mark.parametrize("runtime", [Runtime(), Runtime(fp8=True)])
def test_each_batch_size_is_timed(runtime, monkeypatch):
    monkeypatch.setattr(calibration, "CANDIDATES", (1, 2))
    seen = []
    forward = FrameTransformer.forward
    monkeypatch.setattr(
        FrameTransformer,
        "forward",
        lambda self, latents, *rest: seen.append(tuple(latents.shape)) or forward(self, latents, *rest),
    )
    model = single_frame_transformer(random_transformer(), runtime, CPU)
    found = measure(model, CPU, (4, 6, True), reserved=0)
    assert set(found) == {1, 2}
    assert min(found.values()) > 0
    assert set(seen) == {(2, 8, 4, 6), (4, 8, 4, 6)}


def test_batches_that_do_not_fit_are_left_out(monkeypatch):
    forward = FrameTransformer.forward

    def in_little_memory(self, latents, *rest):
        if len(latents) > 4:
            raise torch.OutOfMemoryError("no room")
        return forward(self, latents, *rest)

    monkeypatch.setattr(FrameTransformer, "forward", in_little_memory)
    model = single_frame_transformer(random_transformer(), Runtime(), CPU)
    assert set(measure(model, CPU, (4, 4, False), reserved=0)) == {1, 2, 4}


def test_what_is_timed_is_what_a_run_replays(monkeypatch):
    """Before, small batches were timed as they are launched one by one, though a run replays them."""
    monkeypatch.setattr(calibration, "CANDIDATES", (1, 2))
    monkeypatch.setattr(batch, "worth_capturing", lambda *_: True)
    replayed = []

    class Graphs:
        def run(self, key, function, *inputs):
            replayed.append(inputs[0].shape[0])
            return function(*inputs)

    monkeypatch.setattr(batch, "CudaGraphs", Graphs)
    model = single_frame_transformer(random_transformer(), Runtime(), CPU)
    assert set(measure(model, CPU, (4, 4, True), reserved=0)) == {1, 2}
    steps = calibration.WARM_UP + calibration.REPEATS
    assert replayed == [2] * steps + [4] * steps
    replayed.clear()
    measure(model, CPU, (4, 4, True), reserved=0, stationary=False)
    assert replayed == []
