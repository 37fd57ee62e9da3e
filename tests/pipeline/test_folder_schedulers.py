"""Folders with other schedulers than Wan's own: the same pictures as diffusers makes of the same folder."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
)
from diffusers.schedulers import scheduling_flow_match_euler_discrete, scheduling_flow_match_lcm
from picture_requests import PLAIN, difference, loaded_twice, made_by_diffusers, make

from wanbatch.pipeline.core import conditioning
from wanbatch.pipeline.core.requests import Request
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 5.0}
SCHEDULERS = {
    "unipc-1": UniPCMultistepScheduler(solver_order=1, **FLOW),
    "unipc-2": UniPCMultistepScheduler(**FLOW),
    "unipc-3": UniPCMultistepScheduler(solver_order=3, **FLOW),
    "dpmpp": DPMSolverMultistepScheduler(**FLOW),
    "deis": DEISMultistepScheduler(**FLOW),
    "euler": FlowMatchEulerDiscreteScheduler(shift=5.0),
    "euler-karras": FlowMatchEulerDiscreteScheduler(shift=5.0, use_karras_sigmas=True),
    "euler-exponential": FlowMatchEulerDiscreteScheduler(shift=5.0, use_exponential_sigmas=True),
    "heun": FlowMatchHeunDiscreteScheduler(shift=5.0),
    "lcm": FlowMatchLCMScheduler(shift=5.0),
    "euler-stochastic": FlowMatchEulerDiscreteScheduler(shift=5.0, stochastic_sampling=True),
}


@pytest.fixture(scope="module", params=SCHEDULERS)
def folder(request, model_folder, tmp_path_factory):
    """The small model with another scheduler, as diffusers saves it."""
    copy = shutil.copytree(model_folder, tmp_path_factory.mktemp("scheduler") / "model")
    SCHEDULERS[request.param].save_pretrained(copy / "scheduler")
    index = copy / "model_index.json"
    index.write_text(index.read_text().replace("UniPCMultistepScheduler", type(SCHEDULERS[request.param]).__name__))
    return copy


@pytest.fixture(scope="module")
def both(folder) -> tuple[registry.ModelInfo, Wan, WanPipeline]:
    """The folder loaded by us and by diffusers."""
    return loaded_twice(folder, slots=1)


def request_of(info: registry.ModelInfo, steps: int) -> Request:
    small = replace(PLAIN, width=32, height=32, steps=steps)
    return replace(small, shift=info.shift, sampler=info.sampler, schedule=info.schedule)


def with_our_noise(monkeypatch, seed: int) -> None:
    """diffusers draws what a stochastic scheduler adds from the global generator; let it be what we add."""
    steps = iter(range(1000))
    for module in (scheduling_flow_match_lcm, scheduling_flow_match_euler_discrete):
        monkeypatch.setattr(
            module,
            "randn_tensor",
            lambda shape, **_: conditioning.step_noise(seed, next(steps), (shape[1], *shape[3:]))[None, :, None],
        )


@pytest.mark.parametrize("steps", [4, 20])
def test_a_folder_makes_the_pictures_that_diffusers_makes_of_it(both, steps, monkeypatch):
    """Before, the levels of UniPC were taken with each of them: FlowMatchEuler was off by 0.125 of white."""
    info, wan, pipeline = both
    request = request_of(info, steps)
    ours = make(wan, request)["a"]
    with_our_noise(monkeypatch, request.seed)
    theirs = made_by_diffusers(pipeline, request)
    assert difference(ours, theirs) <= 1
    assert theirs.std() > 1  # not a blank picture, on which anything would agree


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 20, 50])
def test_the_levels_and_times_are_those_of_the_scheduler(both, steps):
    info, wan, pipeline = both
    request = request_of(info, steps)
    embeddings, _ = wan.encode_prompts([request])
    solution = wan.sample(request, embeddings, {}).solution
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    levels, times = scheduler.sigmas.double().numpy(), scheduler.timesteps.double().numpy()
    if info.sampler == "deis":  # the last step of diffusers changes nothing
        levels, times = levels[:-1], times[:-1]
    elif info.sampler == "heun":  # it has each level once more where it looks a second time
        levels = np.append(times / 1000, 0.0)
    np.testing.assert_allclose(solution.sigmas, levels, rtol=0, atol=1e-7)
    np.testing.assert_allclose(solution.timesteps, times, rtol=0, atol=1e-4)
