"""How good and how fast pictures are, for samplers, steps, step caches and precisions.

    python benchmarks/quality.py --out benchmarks/results/quality-NAME.json [--prompts 256] [--only PATTERN]
                                 [--model FOLDER] [--minutes 7] [--plot docs/quality.png]

Each configuration makes the same pictures from the same noise. They are scored against references of 100 steps
in fp32 (PSNR, SSIM; LPIPS if AlexNet's weights are at hand) and, for the model `tiny`, by the judge against the
attributes that the captions name. Then all configurations are timed in turn, in this process, on the first 32
pictures. `seconds` are the least of the rounds, since what else the machine does only adds; `core_seconds`, the
median, are those that the processor's cores spent on a picture, which that hardly moves (without spinning:
`OMP_WAIT_POLICY=passive`).

`pass_seconds` are those of the scoring pass, over all pictures, one configuration after the other.

`differences` compare two configurations picture by picture (`quality_grid.pairs`).

References and what was measured of each picture are kept in `--work`; results are written after every configuration
and after every round, and the same command goes on where it stopped. `--minutes` stops by itself. What a step cache
leaves out is also counted in blocks: on a machine that does other things, too, trust these.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from model_requests import request_of
from quality_grid import BLEND, GUIDANCES, IMAGE, REFERENCE_STEPS, TEXT, Configuration, grid, pairs
from quality_report import draw, table

from wanbatch import __version__
from wanbatch.jobs.config.hardware import ExecutionConfig, describe_device
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.tuning.candidates import Candidate
from wanbatch.jobs.tuning.trials import CandidateRunner
from wanbatch.pipeline.core.conditioning import to_pixels
from wanbatch.pipeline.core.requests import Request, SourceImage
from wanbatch.pipeline.evaluation import lpips
from wanbatch.pipeline.evaluation.judge import Judge, distance, distance_interval
from wanbatch.pipeline.evaluation.metrics import Measured
from wanbatch.pipeline.evaluation.quality import Meter, stacked
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import TINY, ModelInfo, find
from wanbatch.pipeline.training.toy import world
from wanbatch.pipeline.training.toy.scores import renders, write_prompts

CHUNK = 32  # references in a file
TIMED = 32
CREATIVITY = 0.75  # of rows with sources
PACKAGES = ("torch", "diffusers", "torchmetrics")


class Board:
    """The results' file."""

    def __init__(self, path: Path, conditions: dict[str, Any]):
        self.path = path
        self.found: dict[str, Any] = {**conditions, "results": {}}
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            for name in ("model_digest", "captions_digest", "prompts", "hardware", "settings"):
                if before[name] != conditions[name]:
                    raise click.ClickException(f"{path} has another {name}: choose another --out")
            self.found |= {name: before[name] for name in ("results", "differences") if name in before}

    def row(self, configuration: Configuration) -> dict[str, Any]:
        return self.found["results"].setdefault(str(configuration), {})

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        beside.replace(self.path)


class Bench:
    """A model of each precision, loaded when its turn comes."""

    def __init__(self, model: ModelInfo, requests: Mapping[str, Sequence[Request]], device: str, slots: int):
        self.model, self.requests, self.device, self.slots = model, requests, device, slots
        self.wans: dict[str, Wan] = {}

    def maker(self, precision: str, requests: Sequence[Request]) -> CandidateRunner:
        if precision not in self.wans:
            machine = ExecutionConfig(self.device, precision, compile=self.device == "cuda")
            runtime = machine.runtime(Settings())
            self.wans[precision] = Wan.load(self.model, self.device, machine.dtype, self.slots, runtime)
            CandidateRunner(self.wans[precision], requests[:2]).make(Candidate("euler", 2))  # warm-up
        return CandidateRunner(self.wans[precision], requests)

    def references(self, task: str, folder: Path, ends: float) -> dict[str, np.ndarray] | None:
        """Made once and kept, a file for each `CHUNK`; None if time is up before they are all there."""
        reference = Candidate(self.model.sampler, REFERENCE_STEPS, schedule=self.model.schedule)
        pictures: dict[str, np.ndarray] = {}
        requests = self.requests[task]
        for first in range(0, len(requests), CHUNK):
            chunk = requests[first : first + CHUNK]
            file = folder / task.replace(" ", "-") / f"{first:05}-{len(chunk)}.npz"
            if not file.exists():
                if time.monotonic() > ends:
                    return None
                made = self.maker("fp32", chunk).make(reference)
                file.parent.mkdir(parents=True, exist_ok=True)
                beside = file.with_suffix(".part.npz")
                np.savez(beside, **made.pictures)  # type: ignore[arg-type]
                beside.replace(file)
                click.echo(f"{task}: references {first + len(chunk)} of {len(requests)}, {made.seconds:.3f} s each")
            with np.load(file) as kept:
                pictures |= {name: kept[name] for name in kept.files}
        return pictures


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--model", default=TINY, show_default=True, help="`tiny`, a folder, or a hub id")
@click.option("--prompts", default=256, show_default=True)
@click.option(
    "--captions", type=click.Path(path_type=Path, exists=True), help="text, one a line; default: the world's"
)
@click.option("--only", multiple=True, default=["*"], help="configurations whose name matches, like 'unipc, 8*'")
@click.option("--rounds", default=3, show_default=True, help="of timing, in all")
@click.option("--minutes", default=1e9, help="stop after so long")
@click.option("--slots", default=32, show_default=True)
@click.option("--seed", default=7, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--work", type=click.Path(path_type=Path), default=Path("out/quality-references"), show_default=True)
@click.option("--plot", type=click.Path(path_type=Path), help="PNG to draw from the results")
def main(
    out: Path, model: str, prompts: int, captions: Path | None, only: tuple[str, ...], rounds: int,
    minutes: float, slots: int, seed: int, device: str, work: Path, plot: Path | None,
) -> None:  # fmt: skip
    ends = time.monotonic() + minutes * 60
    info = find(model)
    texts, truth = _texts(captions, prompts) if captions else _world(prompts, seed)
    if info.name != TINY:
        truth = None
    requests = _requests(info, texts, truth is not None)
    key = hashlib.sha256(json.dumps([info.digest, texts, device, torch.__version__]).encode()).hexdigest()
    settings = {"slots": slots, "seed": seed, "reference_steps": REFERENCE_STEPS, "width": info.width,
                "height": info.height, "guidance": info.guidance, "timed": TIMED}  # fmt: skip
    board = Board(out, {
        "what": "quality against references of the same noise; seconds of a picture, text to decoding",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device, "hardware": describe_device(device),
        "versions": {"wanbatch": __version__, **{name: version(name) for name in PACKAGES}},
        "model": info.name, "model_digest": info.digest, "prompts": prompts,
        "captions_digest": hashlib.sha256(json.dumps(texts).encode()).hexdigest(), "settings": settings,
    })  # fmt: skip
    chosen = [
        one
        for one in dict.fromkeys(grid(info))
        if one.task in requests and any(fnmatch.fnmatchcase(str(one), pattern) for pattern in only)
    ]
    bench, work = Bench(info, requests, device, slots), work / key[:16]
    metrics = ["ssim", *(["judge"] if truth is not None else []), *(["lpips"] if lpips.at_hand() else [])]
    meter = Meter(metrics, device)
    real = None if truth is None or meter.judge is None else _real_features(meter.judge, truth, info, device)
    done = True
    for task in dict.fromkeys(one.task for one in chosen):
        references = bench.references(task, work, ends) if done else None
        its = [one for one in chosen if one.task == task]
        done = references is not None and score(board, bench, meter, its, references, truth, real, work, ends)
    compare(board, info, work)
    done = done and clock(board, bench, chosen, rounds, ends)
    click.echo("\n".join(table(board.found)))
    if plot is not None:
        draw(board.found, plot)
    if not done:
        raise click.ClickException("time is up: the same command goes on")


def score(
    board: Board, bench: Bench, meter: Meter, chosen: Sequence[Configuration], references: dict, truth: dict | None,
    real: torch.Tensor | None, work: Path, ends: float,
) -> bool:  # fmt: skip
    """Make and score what has no score yet, or lacks a metric; whether all is done.

    real: the judge's features of real renders of what the captions say, for the Fréchet distance.
    """
    for one in chosen:
        row = board.row(one)
        if "score" in row and all(row["score"][name] is not None for name in meter.metrics):
            continue
        if time.monotonic() > ends:
            return False
        made = bench.maker(one.precision, bench.requests[one.task]).make(one.candidate)
        measured = meter.measure(made.pictures, references, truth)
        keep(measured, work, one)
        row |= {
            **asdict(one.candidate),
            "precision": one.precision,
            "task": one.task,
            "blocks": round(made.blocks, 2),
            "failed": len(made.failed),
            "pass_seconds": round(made.seconds, 5),
            "score": _rounded(asdict(measured.score())),
            "intervals": {name: [round(end, 5) for end in ends_] for name, ends_ in measured.intervals().items()},
        }
        if real is not None and meter.judge is not None:
            features = meter.judge.features(stacked(list(made.pictures.values()), bench.device))
            row["distance"] = round(distance(features, real), 2)
            if len(features) >= 2 * features.shape[1]:
                row["intervals"]["distance"] = [round(end, 2) for end in distance_interval(features, real)]
        board.save()
        click.echo(f"{one}: {row['score']}, {made.blocks:.1f} blocks, {made.seconds:.3f} s")
    return True


def keep(measured: Measured, work: Path, one: Configuration) -> None:
    """Write what was measured of each picture."""
    file = _file_of(work, one)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{name: value for name, value in asdict(measured).items() if value is not None})


def compare(board: Board, info: ModelInfo, work: Path) -> None:
    """Note the differences of the pairs of which every picture's measures are kept."""
    found: dict[str, Any] = board.found.setdefault("differences", {})
    for first, second in pairs(info):
        if not all(_file_of(work, one).exists() for one in (first, second)):
            continue
        ours, theirs = (Measured(**np.load(_file_of(work, one))) for one in (first, second))
        found[f"{first} against {second}"] = {
            name: [round(value, 5) for value in values] for name, values in ours.differences(theirs).items()
        }
    board.save()


def _file_of(work: Path, one: Configuration) -> Path:
    return work / "measured" / f"{str(one).replace(' ', '-')}.npz"


def clock(board: Board, bench: Bench, chosen: Sequence[Configuration], rounds: int, ends: float) -> bool:
    """Time all configurations in turn until each has so many rounds; whether all is done."""
    for number in range(rounds):
        for one in chosen:
            row = board.row(one)
            if len(row.get("times", ())) > number:
                continue
            if time.monotonic() > ends:
                return False
            first = bench.requests[one.task][:TIMED]
            maker, begin = bench.maker(one.precision, first), time.process_time()
            seconds = maker.make(one.candidate).seconds
            cores = (time.process_time() - begin) / len(first)
            row["times"] = [*row.get("times", ()), round(seconds, 5)]
            row["core_times"] = [*row.get("core_times", ()), round(cores, 5)]
            row["seconds"] = min(row["times"])
            row["core_seconds"] = round(statistics.median(row["core_times"]), 5)
            board.save()
            click.echo(f"round {number + 1} of {rounds}  {seconds:.3f} s, {cores:.3f} of cores  {one}")
    return True


def _world(count: int, seed: int) -> tuple[list[str], dict[str, list[int]] | None]:
    """Captions that name everything, and what they name."""
    attributes = world.sample(count, torch.Generator().manual_seed(seed))
    truth = {f"{index:05}": row for index, row in enumerate(attributes.tolist())}
    return write_prompts(attributes, seed), truth


def _texts(path: Path, count: int) -> tuple[list[str], None]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(lines) < count:
        raise click.ClickException(f"{path} has {len(lines)} lines: --prompts {count} needs more")
    return lines[:count], None


def _requests(info: ModelInfo, texts: Sequence[str], pictured: bool) -> dict[str, list[Request]]:
    """The same captions for each task. pictured: whether there are sources for them, renders of the small world."""
    plain = [request_of(info, id=f"{index:05}", prompt=text, seed=1000 + index) for index, text in enumerate(texts)]
    tasks = {TEXT: plain}
    tasks |= {name: [replace(one, guidance=value) for one in plain] for name, value in GUIDANCES.items()}
    if pictured:
        attributes = world.sample(2 * len(texts), torch.Generator().manual_seed(99))
        sources = [SourceImage(str(index), to_pixels(picture)) for index, picture in enumerate(
            renders(attributes, info.height, info.width, seed=99))]  # fmt: skip
        tasks[IMAGE] = [
            replace(one, sources=(sources[2 * index],), creativity=CREATIVITY) for index, one in enumerate(plain)
        ]
        tasks[BLEND] = [
            replace(one, sources=tuple(sources[2 * index : 2 * index + 2]), creativity=CREATIVITY)
            for index, one in enumerate(plain)
        ]
    return tasks


def _real_features(judge: Judge, truth: dict[str, list[int]], info: ModelInfo, device: str) -> torch.Tensor:
    attributes = torch.tensor(list(truth.values()))
    return judge.features(renders(attributes, info.height, info.width, seed=98).to(device))


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}


if __name__ == "__main__":
    main()
