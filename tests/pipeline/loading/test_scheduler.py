"""The scheduler of a model folder as sampler, schedule and shift, or refused by the field that is not reproduced."""

from __future__ import annotations

import json
import re

import pytest
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
)

from wanbatch.errors import UserError
from wanbatch.pipeline.loading.scheduler import read_scheduler
from wanbatch.pipeline.sampling.schedules import SCHEDULES
from wanbatch.pipeline.sampling.solvers import SOLVERS

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
UNIPC = {"_class_name": "UniPCMultistepScheduler", **FLOW}
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler"}


def saved(folder, scheduler):
    """The folder with a scheduler as diffusers saves it, or with a configuration as it stands."""
    if isinstance(scheduler, dict):
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    else:
        scheduler.save_pretrained(folder / "scheduler")
    return folder


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (UniPCMultistepScheduler(flow_shift=5.0, **FLOW), ("unipc", "linear", 5.0)),
        (UniPCMultistepScheduler(solver_order=1, **FLOW), ("unipc1", "linear", 1.0)),
        (UniPCMultistepScheduler(solver_order=3, **FLOW), ("unipc3", "linear", 1.0)),
        (DPMSolverMultistepScheduler(flow_shift=3.0, **FLOW), ("dpmpp_2m", "dpmpp_flow", 3.0)),
        (DEISMultistepScheduler(flow_shift=3.0, **FLOW), ("deis", "deis_flow", 3.0)),
        (FlowMatchEulerDiscreteScheduler(shift=8.0), ("euler", "flow_match", 8.0)),
        (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), ("lcm", "flow_match", 1.0)),
        (FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True), ("euler", "flow_match_karras", 1.0)),
        (FlowMatchEulerDiscreteScheduler(use_exponential_sigmas=True), ("euler", "flow_match_exponential", 1.0)),
        (FlowMatchHeunDiscreteScheduler(shift=3.0), ("heun", "flow_match", 3.0)),
        (FlowMatchLCMScheduler(shift=8.0), ("lcm", "flow_match", 8.0)),
        ({"_class_name": "FlowMatchLCMScheduler", "use_beta_sigmas": True}, ("lcm", "flow_match_beta", 1.0)),
    ],
)
def test_a_scheduler_becomes_sampler_schedule_and_shift(tmp_path, scheduler, expected):
    found = read_scheduler(saved(tmp_path, scheduler))
    assert (found.sampler, found.schedule, found.shift) == expected
    assert found.unreproduced == ()


@pytest.mark.parametrize(
    "convert", [DEISMultistepScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler]
)
def test_what_another_scheduler_left_in_the_file_plays_no_part_as_in_diffusers(tmp_path, convert):
    unipc = UniPCMultistepScheduler(flow_shift=5.0, **FLOW)
    found = read_scheduler(saved(tmp_path, convert.from_config(unipc.config)))
    assert found.unreproduced == ()
    assert found.shift == (1.0 if convert is FlowMatchEulerDiscreteScheduler else 5.0)


@pytest.mark.parametrize(
    ("config", "what", "decides"),
    [
        ({**UNIPC, "solver_order": 4}, "solver_order is 4", "--sampler unipc,"),
        ({**UNIPC, "solver_type": "bh1"}, "solver_type is 'bh1'", "--sampler unipc,"),
        ({**UNIPC, "predict_x0": False}, "predict_x0 is False", "--sampler unipc,"),
        ({**UNIPC, "lower_order_final": False}, "lower_order_final is False", "--sampler unipc,"),
        ({**UNIPC, "disable_corrector": [0]}, r"disable_corrector is \[0\]", "--sampler unipc,"),
        ({**UNIPC, "thresholding": True}, "thresholding is True", "--sampler unipc,"),
        ({**UNIPC, "final_sigmas_type": "sigma_min"}, "final_sigmas_type is 'sigma_min'", "--schedule linear,"),
        ({**UNIPC, "use_beta_sigmas": True}, "use_beta_sigmas is True", "--schedule beta,"),
        ({**UNIPC, "shift_terminal": 0.1}, "shift_terminal is 0.1", "--schedule linear,"),
        ({**UNIPC, "use_dynamic_shifting": True}, "use_dynamic_shifting is True", "--schedule linear,"),
        ({**UNIPC, "num_train_timesteps": 500}, "num_train_timesteps is 500", "--schedule linear,"),
        (
            {**UNIPC, "prediction_type": "epsilon"},
            "prediction_type is 'epsilon'",
            "--sampler unipc --schedule linear",
        ),
        ({"_class_name": "UniPCMultistepScheduler"}, "prediction_type is 'epsilon'", "--sampler unipc --schedule"),
        ({**UNIPC, "shiny": 1}, "shiny is not a known field", "--sampler unipc --schedule"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", **FLOW, "algorithm_type": "sde-dpmsolver++"},
            r"algorithm_type is 'sde-dpmsolver\+\+'",
            "--sampler dpmpp_2m,",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", **FLOW, "solver_type": "heun"},
            "solver_type is 'heun'",
            "--sampler dpmpp_2m,",
        ),
        ({"_class_name": "DEISMultistepScheduler", **FLOW, "solver_order": 3}, "solver_order is 3", "--sampler deis"),
        ({**EULER, "invert_sigmas": True}, "invert_sigmas is True", "--schedule flow_match,"),
        ({**EULER, "shift_terminal": 0.1}, "shift_terminal is 0.1", "--schedule flow_match,"),
        ({**EULER, "use_dynamic_shifting": True}, "use_dynamic_shifting is True", "--schedule flow_match,"),
        ({**EULER, "use_beta_sigmas": True, "use_karras_sigmas": True}, "are both true", "--schedule flow_match_"),
        (
            {"_class_name": "FlowMatchLCMScheduler", "scale_factors": [0.5]},
            r"scale_factors is \[0.5\]",
            "--sampler lcm,",
        ),
    ],
)
def test_what_is_not_reproduced_is_named_with_file_field_value_and_flag(tmp_path, config, what, decides):
    """Before, each of these was read as if the field were not there, and made other pictures without a word."""
    first = read_scheduler(saved(tmp_path, config)).unreproduced[0]
    with pytest.raises(UserError, match=rf"scheduler_config.json: .*{what}.* reproduces: give .*{decides}") as caught:
        raise UserError(first.message)
    flags = re.search(r"schedule of wanbatch reproduces: give (.*?), the nearest", str(caught.value))[1].split()
    known = {"--sampler": SOLVERS, "--schedule": SCHEDULES}
    assert all(name in known[flag] for flag, name in zip(flags[::2], flags[1::2], strict=True))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "DDIMScheduler"}, "DDIMScheduler is not known; known: UniPCMultistepScheduler"),
        ({**UNIPC, "flow_shift": "5"}, "flow_shift is '5': must be a number from 0.01 to 100"),
        ({**EULER, "shift": 0}, "shift is 0: must be a number"),
        ({**EULER, "shift": float("nan")}, "shift is nan: must be a number"),
    ],
)
def test_no_scheduler_for_flow_matching_is_refused(tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        read_scheduler(saved(tmp_path, config))
