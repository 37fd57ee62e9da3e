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
MODEL = "of the 5B model: another one takes other times"


def derived() -> dict[str, Any]:
    """The table, from the results that are committed."""
    exact, fp8, runs = (json.loads((RESULTS / name).read_text(encoding="utf-8")) for name in (EXACT, FP8, RUNS))
    pixels = exact["settings"]["width"] * exact["settings"]["height"]
    guided_step = float(
        denoising_work(np.array([pixels]), np.array([1]), np.array([exact["settings"]["guidance"]]))[0]
    )
    h200 = {
        "device": exact["hardware"]["device"],
        "denoising": {
            name: _seconds(found, "denoise") / guided_step for name, found in (("bf16", exact), ("fp8", fp8))
        },
        "coding": _seconds(exact, "decode") / pixels,
        "image": _seconds(exact, "text"),
        "held": _held(runs),
        "low": 0.95,
        "high": 1.2,
        "results": [f"benchmarks/results/{name}" for name in (EXACT, FP8, RUNS)],
        "notes": [MODEL],
    }
    h100 = {**h200, "device": "NVIDIA H100", "low": 0.9, "high": 1.4, "notes": [NO_H100, MODEL]}
    return {
        "what": "times of parts of the 5B model, by benchmarks/device_speeds.py",
        "gpus": {"h100": h100, "h200": h200},
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
