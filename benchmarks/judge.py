"""How many fresh real renders of the small model's world its judge reads right, by size, with intervals.

    python benchmarks/judge.py [--count 8192] [--size 160x160 ...] [--out benchmarks/results/judge.json]

The scores in `pipeline/tiny/training.json` are of 1,024 renders a size, which leaves half a percent of doubt. The
renders here are drawn anew, from seeds that training does not use.
"""

from __future__ import annotations

import json
import platform
import shlex
import sys
from pathlib import Path

import click
import torch
from scipy.stats import binomtest

from wanbatch.pipeline.evaluation.judge import Judge
from wanbatch.pipeline.training.toy import world
from wanbatch.pipeline.training.toy.scores import renders

ROOT = Path(__file__).parents[1]
AT_ONCE, FIRST_SEED = 512, 1_000_000


def read_right(judge: Judge, height: int, width: int, count: int) -> int:
    """How many of `count` fresh renders the judge reads right in every attribute."""
    right = 0
    for seed in range(FIRST_SEED, FIRST_SEED + count // AT_ONCE):
        attributes = world.sample(AT_ONCE, torch.Generator().manual_seed(seed))
        pictures = renders(attributes, height, width, seed=seed)
        right += int((judge.read(pictures) == attributes).all(1).sum())
    return right


@click.command()
@click.option("--count", default=8192, show_default=True, help=f"renders of a size, in whole {AT_ONCE}s")
@click.option("--size", "sizes", multiple=True, default=("128x128", "160x160", "192x128", "128x192", "256x256"))
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "benchmarks/results/judge.json")
def main(count: int, sizes: tuple[str, ...], out: Path) -> None:
    """Count and write."""
    count -= count % AT_ONCE
    judge = Judge.load(ROOT / "pipeline/tiny/judge", torch.device("cpu"))
    found = {}
    for size in sizes:
        width, height = map(int, size.split("x"))
        right = read_right(judge, height, width, count)
        interval = binomtest(right, count).proportion_ci(method="wilson")
        found[size] = {
            "all": round(right / count, 4),
            "interval": [round(float(interval.low), 4), round(float(interval.high), 4)],
        }
        print(size, found[size], flush=True)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    command = shlex.join(["python", *sys.argv])
    result = {"renders": count, "read_right": found, "versions": versions, "command": command, "device": "cpu"}
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
