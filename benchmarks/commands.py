"""Whole commands on one GPU, one after the other: `wanbatch run` against a diffusers program, from the same folder.

    python benchmarks/commands.py [MODEL] [--part wanbatch|diffusers|torchao ...] [--case NAME ...] [--out FILE.json]

MODEL is a folder of the full-size model, by default one of random weights that is written first (23 GB). Each command
is a process of its own, with all that it takes: imports, Ray, loading, compiling, files. Cases are 50 steps with
guidance 5 in bfloat16 and in FP8, of prompts of one length, and 4 steps without guidance in FP8 with prompts of many,
1280x704, eight rows at a time; and the latter with an adapter for few steps merged (random numbers, rank 32 on all
layers), whose header gives steps, sampler and guidance to `--preset fast`. The diffusers program
(`diffusers_program.py`) runs compiled and batched, with `torchao` in its row-wise float8. What `wanbatch run` keeps
of its compiling is there before the first case: a run of 32 pictures makes it, whose start is the first of a new
machine.

pictures_per_second: from when the worker was ready to the last commit (of diffusers: after the first batch). start
and worker: seconds of each step of a start, of the command and of its worker's process. The result is written
after each command, and an earlier one of the same file is added to, so that parts may be run one by one.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import torch
from circumstances import circumstances
from mixed_prompts import mixed_words, prompts_of
from random_adapters import write_few_step_adapter

from wanbatch.pipeline.adapters.few_step import FewStepUse

PARTS = ("wanbatch", "diffusers", "torchao")
PRECISION_OF = {"diffusers": "bf16", "torchao": "fp8"}
FIRST = "the first start"
RANK = 32
FEW_STEP = FewStepUse(steps=4, sampler="euler", schedule="linear", shift=5.0, guidance=1.0)


@dataclass(frozen=True)
class Case:
    """One job; rows: for `wanbatch run` and for the diffusers program."""

    precision: str
    steps: int
    guidance: float
    rows: tuple[int, int]
    adapter: FewStepUse | None = None  # merged, and its steps and guidance are taken from it

    @property
    def flags(self) -> list[str]:
        return ["--steps", str(self.steps), "--guidance", str(self.guidance)]

    def flags_of_wanbatch(self, model: Path, folder: Path) -> list[str]:
        """The flags of `wanbatch run`; an adapter's file is written into the folder."""
        if self.adapter is None:
            return self.flags
        file = folder / "few-step.safetensors"
        if not file.exists():
            write_few_step_adapter(model, file, RANK, self.adapter)
        return ["--lora", f"few-step={file}", "--merge", "few-step", "--preset", "fast"]

    @property
    def words(self) -> Iterator[int]:
        """Of prompts: of one length where rows are few, since each length has slots of its own."""
        return iter(mixed_words(self.rows[0])) if self.steps <= 8 else itertools.repeat(30)


CASES = {
    FIRST: Case("fp8", 4, 1.0, (32, 0)),
    "50 steps, bf16": Case("bf16", 50, 5.0, (32, 16)),
    "50 steps, fp8": Case("fp8", 50, 5.0, (40, 16)),
    "4 steps, fp8, mixed prompts": Case("fp8", 4, 1.0, (640, 96)),
    "4 steps, fp8, merged few-step adapter, mixed prompts": Case("fp8", 4, 1.0, (640, 0), FEW_STEP),
}


@click.command(help=__doc__)
@click.argument("model", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), default=PARTS)
@click.option("--case", "cases", multiple=True, type=click.Choice(list(CASES)), default=list(CASES)[1:])
@click.option("--size", default="1280x704", show_default=True)
@click.option("--share", default=1.0, help="of the rows, to try this on a small machine")
@click.option("--compile-cache", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path))
def main(
    model: Path | None,
    parts: Sequence[str],
    cases: Sequence[str],
    size: str,
    share: float,
    compile_cache: Path | None,
    out: Path | None,
) -> None:
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    result: dict[str, Any] = {"what": "whole commands on one GPU", **circumstances(("torch", "diffusers"), gpu=card)}
    result["commands"] = json.loads(out.read_text())["commands"] if out and out.exists() else []
    with tempfile.TemporaryDirectory(dir=compile_cache and compile_cache.parent) as name:
        folder = Path(name)
        if model is None:
            model = folder / "model"
            subprocess.run([sys.executable, "-m", "wanbatch.pipeline.loading.random_model", str(model)], check=True)
        cache = compile_cache or folder / "compiled"

        def note(title: str, of: str, found: dict[str, Any]) -> None:
            result["commands"].append({"case": title, "of": of, "card": card, **found})
            print(json.dumps(result["commands"][-1]), flush=True)
            if out:
                out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

        if "wanbatch" in parts:
            note(FIRST, "wanbatch", of_wanbatch(model, CASES[FIRST], size, 1.0, folder, cache))
            for title in cases:
                note(title, "wanbatch", of_wanbatch(model, CASES[title], size, share, folder, cache))
        for part in parts:
            for title in cases if part != "wanbatch" else ():
                if CASES[title].precision == PRECISION_OF[part] and CASES[title].rows[1]:
                    note(title, part, of_diffusers(model, CASES[title], size, share, folder, part == "torchao"))


def of_wanbatch(model: Path, case: Case, size: str, share: float, folder: Path, cache: Path) -> dict[str, Any]:
    """One `wanbatch run`, what its log says of its speed, and how long its start took."""
    out = folder / "out"
    width, height = size.split("x")
    command = [
        sys.executable,
        "-m",
        "wanbatch.jobs.cli",
        "run",
        str(manifest(folder, case, int(case.rows[0] * share))),
    ]
    command += ["--out", str(out), "--model", str(model), "--slots", "8", "--workers", "1"]
    command += case.flags_of_wanbatch(model, folder)
    command += ["--precision", case.precision, "--width", width, "--height", height]
    command += ["--compile-cache", str(cache)]
    begin = time.time()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.time() - begin
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stdout[-1500:]} {done.stderr[-1500:]}")
    events = [json.loads(line) for line in (out / "_wanbatch" / "log.jsonl").read_text().splitlines()]
    units = [event for event in events if event["event"] == "unit"]
    ready = next(event for event in events if event["event"] == "worker_ready")
    shutil.rmtree(out)
    ready_at, first, last = (_time(event) for event in (ready, units[0], units[-1]))
    made = sum(unit["made"] for unit in units)
    return {
        "pictures": made,
        "evaluations_a_picture": sum(unit["evaluations"] for unit in units) / made,
        "pictures_per_second": round(made / (last - ready_at), 4),
        "seconds": round(seconds, 1),
        "seconds_to_worker_ready": round(ready_at - begin, 1),
        "seconds_to_first_unit": round(first - begin, 1),
        **{name: ready[name] for name in ("load_seconds", "warm_up_seconds")},
        "start": _steps(next(event for event in events if event["event"] == "start")),
        "worker": _steps(ready),
        "slot_use": round(sum(unit["evaluations"] for unit in units) / sum(unit["slot_steps"] for unit in units), 4),
        "busy": round(sum(unit["model_seconds"] for unit in units) / (last - ready_at), 4),
    }


def _steps(event: dict[str, Any]) -> dict[str, Any]:
    """The steps of a process, as the log has them."""
    return {name: event[name] for name in ("process_began", "steps", "beside") if name in event}


def _time(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def of_diffusers(model: Path, case: Case, size: str, share: float, folder: Path, fp8: bool) -> dict[str, Any]:
    """One run of the diffusers program, and what it says of itself."""
    out = folder / "pictures"
    program = Path(__file__).parent / "diffusers_program.py"
    command = [
        sys.executable,
        str(program),
        str(model),
        str(manifest(folder, case, int(case.rows[1] * share))),
        str(out),
    ]
    command += [*case.flags, "--size", size, *(["--fp8"] if fp8 else [])]
    begin = time.time()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": f"{done.stdout[-500:]} {done.stderr[-1500:]}"}
    shutil.rmtree(out)
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": round(time.time() - begin, 1)}


def manifest(folder: Path, case: Case, rows: int) -> Path:
    """Rows of a case."""
    path = folder / "rows.jsonl"
    prompts = enumerate(prompts_of(list(itertools.islice(case.words, rows))))
    written = ({"id": f"p{number:05d}", "seed": number, "prompt": prompt} for number, prompt in prompts)
    path.write_text("".join(json.dumps(row) + "\n" for row in written))
    return path


if __name__ == "__main__":
    main()
