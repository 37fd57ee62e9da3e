"""What solvers and schedules are worth on equations with known solutions, and what goes wrong in WanPipeline.

    python benchmarks/samplers.py benchmarks/results/samplers.json

Two parts, both on a CPU in seconds. `solvers`: pixels from a mixture of three Gaussians, whose exact velocity and
exact flow are known; the error of each solver for a number of evaluations of the model. `traps`: the loop of
diffusers' WanPipeline around schedulers that are configured in the ways that one finds, with the exact model of
Gaussian pixels; what mean and deviation come out. docs/samplers.md shows the numbers.
"""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import diffusers
import numpy as np
import torch
from torch import Tensor

from wanbatch.pipeline.batching.solver_step import advance
from wanbatch.pipeline.sampling.schedules import SPACINGS, levels
from wanbatch.pipeline.sampling.solvers import SOLVERS, STATES, TWO_STAGES, Solution, solve

SHIFT = 5.0
BUDGETS = (4, 8, 16, 32, 64)
DETERMINISTIC = [name for name in SOLVERS if name not in ("lcm", "euler_ancestral")]

# ---- solvers --------------------------------------------------------------------------------------------------

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MEANS = torch.tensor([-1.5, 0.4, 2.0], dtype=torch.float64)
STDS = torch.tensor([0.2, 0.15, 0.3], dtype=torch.float64)


def mixture_velocity(x: Tensor, s: float) -> Tensor:
    """E[eps - x0 | x] for pixels of the mixture at level s."""
    variance = ((1 - s) * STDS) ** 2 + s**2
    away = x[..., None] - (1 - s) * MEANS
    share = torch.softmax(WEIGHTS.log() - variance.log() / 2 - away**2 / variance / 2, dim=-1)
    x0 = (share * (MEANS + (1 - s) * STDS**2 * away / variance)).sum(-1)
    return (x - x0) / s


def mixture_flow(x: Tensor) -> Tensor:
    """Where the exact flow takes noise: in one dimension it keeps each sample's quantile."""
    wanted = torch.special.ndtr(x)
    low, high = torch.full_like(x, -10), torch.full_like(x, 10)
    for _ in range(60):
        middle = (low + high) / 2
        below = (WEIGHTS * torch.special.ndtr((middle[..., None] - MEANS) / STDS)).sum(-1) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return middle


def run(solution: Solution, start: Tensor) -> Tensor:
    """start: [1, 1, 1, pixels]. Returns the last samples."""
    state = torch.zeros(1, STATES, *start.shape[1:], dtype=start.dtype)
    state[:, 0] = start
    for step in range(solution.steps):
        v = mixture_velocity(state[:, 0], float(solution.sigmas[step]))
        rows = [
            torch.from_numpy(getattr(solution, name)[step : step + 1]) for name in ("sigmas", "correct", "predict")
        ]
        state = advance(state, v, *rows)
    return state[:, 0]


def solver_errors() -> dict[str, Any]:
    """schedule -> solver -> for each budget: root mean square of the distance to the exact end of the same noise.

    A solver that evaluates twice a step takes as many steps as the budget holds.
    """
    quantiles = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    start = torch.special.ndtri(quantiles)[None, None, None]
    exact = mixture_flow(start)
    found: dict[str, Any] = {}
    for schedule in SPACINGS:
        found[schedule] = {}
        for sampler in DETERMINISTIC:
            errors = []
            for budget in BUDGETS:
                steps = (budget + 1) // 2 if sampler in TWO_STAGES else budget
                ends = run(solve(sampler, steps, SHIFT, schedule=schedule), start)
                errors.append(round(float((ends - exact).square().mean().sqrt()), 5))
            found[schedule][sampler] = errors
    return found


# ---- WanPipeline ----------------------------------------------------------------------------------------------

MEAN, STD = 0.5, 0.5


def gaussian_velocity(x: Tensor, s: float) -> Tensor:
    """The exact model of pixels N(MEAN, STD^2)."""
    z = (x - (1 - s) * MEAN) / (((1 - s) * STD) ** 2 + s**2)
    return s * z - (MEAN + (1 - s) * STD**2 * z)


def wan_pipeline(scheduler: Any, steps: int = 30, scaled: bool = False) -> dict[str, Any]:
    """What diffusers' WanPipeline does with a scheduler, around the exact model.

    scaled: also call `scale_model_input` and multiply by `init_noise_sigma`, which it does not.
    """
    torch.manual_seed(0)  # stochastic schedulers get no generator from WanPipeline and draw from the global one
    scheduler.set_timesteps(steps)
    latents = torch.randn(1, 1, 100, 200, generator=torch.Generator().manual_seed(0))
    if scaled:
        latents = latents * scheduler.init_noise_sigma
    try:
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(latents, t) if scaled else latents
            velocity = gaussian_velocity(seen, float(t) / 1000)
            latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
    except ValueError as error:
        return {"error": str(error).strip()[:100]}
    return moments(latents)


def euler_in_edm_variables(steps: int = 30) -> dict[str, Any]:
    """Euler-discrete with its scaling done right: for it, x / (1 - s) has noise s / (1 - s), and eps = x + (1 - s) v.

    The model's input is then divided by 1 + sigma, not by (1 + sigma^2)^(1/2) as `scale_model_input` does.
    """
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type="epsilon")
    s = levels(steps, SHIFT)[:-1]
    scheduler.set_timesteps(steps)
    scheduler.sigmas = torch.from_numpy(np.append(s / (1 - s), 0.0))
    noise = torch.randn(1, 1, 100, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    latents = noise * scheduler.sigmas[0]
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1].tolist(), strict=True):
        scheduler.is_scale_input_called = True
        level = sigma / (1 + sigma)
        x = latents / (1 + sigma)
        eps = x + (1 - level) * gaussian_velocity(x, level)
        latents = scheduler.step(eps, t, latents, return_dict=False)[0]
    return moments(latents)


def moments(latents: Tensor) -> dict[str, Any]:
    if not bool(latents.isfinite().all()):
        return {"error": "the latents are not finite"}
    return {"mean": round(float(latents.mean()), 3), "deviation": round(float(latents.std()), 3)}


def traps() -> dict[str, Any]:
    """Name of a configuration -> the mean and deviation that come out, or the error. Right is MEAN and STD."""
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": SHIFT}
    unipc = diffusers.UniPCMultistepScheduler(**flow)
    found: dict[str, Any] = {
        "UniPC, use_flow_sigmas": wan_pipeline(unipc),
        "DPMSolverMultistep, use_flow_sigmas": wan_pipeline(diffusers.DPMSolverMultistepScheduler(**flow)),
        "DEIS, use_flow_sigmas": wan_pipeline(diffusers.DEISMultistepScheduler(**flow)),
        "FlowMatchEuler, shift": wan_pipeline(diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT)),
        "UniPC, use_flow_sigmas and use_beta_sigmas": wan_pipeline(
            diffusers.UniPCMultistepScheduler(**flow, use_beta_sigmas=True)
        )
        if diffusers.utils.is_scipy_available()
        else {"error": "needs scipy"},
        "UniPC, use_flow_sigmas and use_exponential_sigmas": wan_pipeline(
            diffusers.UniPCMultistepScheduler(**flow, use_exponential_sigmas=True)
        ),
        "DPMSolverMultistep, use_flow_sigmas and use_karras_sigmas": wan_pipeline(
            diffusers.DPMSolverMultistepScheduler(**flow, use_karras_sigmas=True)
        ),
        "EulerDiscrete from UniPC's config": wan_pipeline(diffusers.EulerDiscreteScheduler.from_config(unipc.config)),
    }
    for cls in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"):
        for kind in ("epsilon", "v_prediction"):
            scheduler = getattr(diffusers, cls)
            short = cls.removesuffix("Scheduler")
            found[f"{short}, {kind}"] = wan_pipeline(scheduler(prediction_type=kind))
            found[f"{short}, {kind}, scaled as it asks"] = wan_pipeline(scheduler(prediction_type=kind), scaled=True)
    found["EulerDiscrete in its own variables"] = euler_in_edm_variables()
    return found


def end_points() -> dict[str, Any]:
    """The last level above 0 of 30 steps, as each scheduler makes it by itself."""
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": SHIFT}
    unipc = diffusers.UniPCMultistepScheduler(**flow)
    schedulers = {
        "UniPC, flow_shift": unipc,
        "FlowMatchEuler, shift": diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        "FlowMatchEuler from UniPC's config": diffusers.FlowMatchEulerDiscreteScheduler.from_config(unipc.config),
        "FlowMatchHeun, shift": diffusers.FlowMatchHeunDiscreteScheduler(shift=SHIFT),
    }
    found = {}
    for name, scheduler in schedulers.items():
        scheduler.set_timesteps(30)
        sigmas = scheduler.sigmas[scheduler.sigmas > 0]
        found[name] = {"middle": round(float(sigmas[len(sigmas) // 2]), 4), "last": round(float(sigmas[-1]), 4)}
    return found


def measure() -> dict[str, Any]:
    """Everything, as JSON values; the same on every machine but for rounding."""
    diffusers.utils.logging.set_verbosity_error()
    return {
        "shift": SHIFT,
        "budgets": BUDGETS,
        "solvers": solver_errors(),
        "right": {"mean": MEAN, "deviation": STD},
        "traps": traps(),
        "end_points": end_points(),
    }


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
def main(out: Path) -> None:
    measured = measure()
    about = {
        "command": f"python benchmarks/samplers.py {out}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("torch", "diffusers", "numpy")},
    }
    out.write_text(json.dumps({**about, **measured}, indent=1) + "\n")
    for schedule, table in measured["solvers"].items():
        print(f"\n{schedule:<16}" + "".join(f"{budget:>9}" for budget in BUDGETS))
        for sampler, errors in table.items():
            print(f"{sampler:<16}" + "".join(f"{error:>9.4f}" for error in errors))
    for name, result in (*measured["traps"].items(), *measured["end_points"].items()):
        print(f"{name:<60} {result}")


if __name__ == "__main__":
    main()
