"""Writes `jobs/planning/device_speeds.json`, the table of `wanbatch plan --gpu`, from the results of benchmarks.

    python benchmarks/device_speeds.py

`tests/jobs/planning/test_estimates.py` fails when the table is no longer what this script derives.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from wanbatch.jobs.planning.workload import denoising_work

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TABLE = ROOT / "jobs" / "planning" / "device_speeds.json"
EXACT, FP8, RUNS = "h200-bench-exact.json", "h200-bench-fp8.json", "h200-runs.json"
NO_H100 = "no H100 was measured: these are the times of an H200, whose chip is the same and whose memory is faster"
LARGE = {"a14b": "a14b-h200.json", "1.3b": "wan21-1.3b-h200.json"}
"""Results of `large_models.py` by the models that they are of; those that are not there are left out."""
SIZE = "1280x704"
MODEL = "of the 5B model: another one takes other times"
FORMS = {"5b": (30, 3072, 14336), "a14b": (40, 5120, 13824), "1.3b": (30, 1536, 8960)}
"""Blocks, width and width of the feed-forward layers of each model's transformer, by which `plan` knows it again."""


def derived() -> dict[str, Any]:
    """The table, from the results that are committed."""
    exact, fp8, runs = (json.loads((RESULTS / name).read_text(encoding="utf-8")) for name in (EXACT, FP8, RUNS))
    pixels = exact["settings"]["width"] * exact["settings"]["height"]
    guided_step = _guided_step(pixels, exact["settings"]["guidance"])
    text = _seconds(exact, "text")
    h200 = {
        "device": exact["hardware"]["device"],
        "transformer": list(FORMS["5b"]),
        "denoising": {
            name: _seconds(found, "denoise") / guided_step for name, found in (("bf16", exact), ("fp8", fp8))
        },
        "coding": _seconds(exact, "decode") / pixels,
        "image": text,
        "others": {
            model: _large(model, json.loads((RESULTS / name).read_text(encoding="utf-8")), name, text)
            for model, name in LARGE.items()
            if (RESULTS / name).is_file()
        },
        "held": _held(runs),
        "low": 0.95,
        "high": 1.2,
        "results": [f"benchmarks/results/{name}" for name in (EXACT, FP8, RUNS)],
        "notes": [MODEL],
    }
    h100 = {**h200, "device": "NVIDIA H100", "low": 0.9, "high": 1.4, "notes": [NO_H100, MODEL]}
    return {
        "what": "times of parts of models, by benchmarks/device_speeds.py; first of the 5B model",
        "gpus": {"h100": h100, "h200": h200},
    }


def _guided_step(pixels: int, guidance: float) -> float:
    """The work of one guided evaluation, as `workload.denoising_work` counts it."""
    return float(denoising_work(np.array([pixels]), np.array([1]), np.array([guidance]))[0])


def _large(model: str, found: dict[str, Any], name: str, text: float) -> dict[str, Any]:
    """What was measured of a larger or smaller model: a step, and whole pictures, whose rest is the autoencoder's.

    Args:
        model: A key of `LARGE`.
        found: Its results.
        name: Of their file.
        text: Seconds of a prompt, whose encoder all models share.
    """
    width, height = (int(side) for side in SIZE.split("x"))
    measured, settings = found[SIZE], found["settings"]
    seconds = {
        one.removeprefix("wanbatch "): figures["ms"] / 1000
        for one, figures in measured["step"].items()
        if one.startswith("wanbatch ")
    }
    step = _guided_step(width * height, 5.0)
    rest = [
        measured["pictures"][f"wanbatch {precision}"]["seconds"] / settings["slots"] - settings["steps"] * one - text
        for precision, one in seconds.items()
    ]
    return {
        "transformer": list(FORMS[model]),
        "denoising": {precision: one / step for precision, one in seconds.items()},
        "coding": max(0.0, float(np.mean(rest))) / (width * height),
        "image": text,
        "results": [f"benchmarks/results/{name}"],
        "device": found["hardware"]["device"],
    }


def _seconds(found: dict[str, Any], stage: str) -> float:
    return found["stages"][stage]["wanbatch"]["ms"] / 1000


def _held(runs: dict[str, Any]) -> float:
    """How long workers held the GPU for each second of the model's stages: the mean over whole runs."""
    ratios = []
    for run in runs["runs"]:
        mean, summary = run["mean_seconds_of_a_picture"], run["summary"]
        busy = summary["made_now"] * sum(mean[stage] for stage in ("text", "encode", "denoise", "decode"))
        ratios.append(summary["seconds"]["make"] / busy)
    return round(float(np.mean(ratios)), 4)


@click.command(help=__doc__)
def main() -> None:
    TABLE.write_text(json.dumps(derived(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
