"""How many pictures a second one host makes with 1, 2, 4, ... GPUs: whole runs, one after the other.

    python benchmarks/scaling.py [--gpus 1 2 4] [--steps 50 4] [--every-card] [--out FILE.json]
    python benchmarks/scaling.py --saved --cold --precision fp8 --mixed-prompts --gpus 8 4 2 1 --alone 0 3 6
    python benchmarks/scaling.py --model tiny --gpus 1 2 --steps 4 --images 16     on a CPU: workers instead of GPUs

Each measurement is a whole `run` into a folder of its own: manifest, Ray, workers, commits. The model is Wan2.2
TI2V-5B at its full size with random weights, made on each GPU, or with `--saved` written as a folder of 23 GB from
which workers load it as they load any model; `--model` takes another one. With 50 steps rows are guided (5.0), with 8
or fewer they are not, as distilled models are used. The first run compiles, later ones read what it compiled.

pictures_per_second: the sum of the workers' own rates, each from its first unit's commit to its last one's, so that
neither the start nor the end of a run plays a part. whole_pictures_per_second: all pictures by all seconds in which
they were made, the end included, where some workers have nothing left to do. efficiency: the sum of all workers'
rates by the sum of what their cards made alone, in the runs of one GPU with as many steps. A card that was not
measured alone counts as much as the mean of those that were; cards of one kind differ by several per cent, so give
--every-card where that matters. On a CPU it is the sum of all rates by one worker's times their number. busy: the
share of its time in which a worker had pictures in the model; utilization: what nvidia-smi says of its card between
its first commit and its last but one, while there still is something to make: files of the last unit are written and
committed when the card has nothing left to do; utilization_course: the same, of each tenth of that time.
seconds_to_first_picture: from the command to its commit, seconds_to_last_worker: to the first commit of the last
worker. host: what the host did during the whole run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from circumstances import circumstances, print_result
from estimate_rows import prompt_of
from host_samples import Samples, card_names, drop_page_cache, only_cards, sampling, visible_cards
from mixed_prompts import mixed_words, prompts_of
from pyarrow.compute import mean
from pyarrow.dataset import dataset
from random_weights import RANDOM, load_random, write_random_folder

from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.run import run

UNGUIDED_STEPS = 8  # and fewer
SECONDS_A_PICTURE = {True: 1.5, False: 0.07}  # of one H100 or so, guided or not: only decides how many are made


def main() -> None:
    options = _options()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    cards = visible_cards()
    try:
        model, load = _model(options, folder, bool(cards))
        compiled = options.compile_cache or folder / "compiled"
        if options.cold:
            drop_page_cache()
        measured = []
        for steps in options.steps:
            for chosen in _choices(options.gpus, cards, cards if options.every_card else options.alone):
                images = options.images or _enough(steps, options.seconds)
                values = {"unit_rows": options.unit_rows, "compile_cache": compiled}
                values |= {"precision": options.precision} if options.precision else {}
                values |= {"slots": options.slots} if options.slots else {}
                request = Request(steps, images, chosen, options.mixed_prompts, values)
                found = measure(folder, model, load, request)
                measured.append(found)
                print(json.dumps(found), file=sys.stderr, flush=True)
                if options.out:  # what is measured so far is not lost with what follows
                    options.out.write_text(json.dumps(_result(options, measured), indent=1) + "\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print_result(_result(options, measured), options.out)


def _result(options: argparse.Namespace, measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "what": "whole runs on several GPUs of one host",
        **circumstances(("torch", "ray"), gpus=card_names(), load_before=options.load),
        "model": options.model,
        "saved": options.saved,
        "cold": options.cold,
        "precision": options.precision,
        "mixed_prompts": options.mixed_prompts,
        "scaling": scaling(measured),
        "measured": list(measured),
    }


def _model(options: argparse.Namespace, folder: Path, compiled: bool) -> tuple[str, Any]:
    """What `--model` is, and what loads it; None: what loads any."""
    if options.model != RANDOM:
        return options.model, None
    if not options.saved:
        return str(write_random_folder(folder / "model")), partial(load_random, compiled=compiled)
    command = [sys.executable, "-m", "wanbatch.pipeline.loading.random_model", str(folder / "model")]
    subprocess.run(command, check=True)  # in a process of its own, which leaves the card empty
    return str(folder / "model"), None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2], help="how many, one run each")
    parser.add_argument("--workers", type=int, nargs="+", dest="gpus", help="the same, for a host without GPUs")
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 4])
    parser.add_argument("--model", default=RANDOM, help="`random-5b`, or what `wanbatch run --model` takes")
    parser.add_argument("--saved", action="store_true", help="write the random model first, and load it from there")
    parser.add_argument("--cold", action="store_true", help="have the first run read its files from the disk: root")
    parser.add_argument("--compile-cache", type=Path, help="of an earlier call; default: an empty one")
    parser.add_argument("--precision", choices=("bf16", "fp8"), help="default: the run's own choice")
    parser.add_argument("--mixed-prompts", action="store_true", help="prompts of many lengths")
    parser.add_argument("--images", type=int, help="pictures for each GPU; default: about --seconds of them")
    parser.add_argument("--seconds", type=float, default=45, help="how long each run makes pictures, about")
    parser.add_argument("--unit-rows", type=int, default=8)
    parser.add_argument("--slots", type=int, help="rows denoised together; default: the run's own choice")
    parser.add_argument("--alone", nargs="+", default=[], help="cards that are measured alone; default: the first")
    parser.add_argument("--every-card", action="store_true", help="measure each card alone")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where manifests and folders are made")
    parser.add_argument("--out", type=Path, help="write the result here too")
    options = parser.parse_args()
    if options.precision == "fp8" and options.model == RANDOM and not options.saved:
        parser.error("--precision fp8 needs --saved")
    options.load = round(os.getloadavg()[0], 1)
    return options


@dataclass(frozen=True)
class Request:
    """One measurement.

    Attributes:
        steps: of every picture.
        images: for each worker.
        cards: of each worker; None where there is no GPU.
        mixed: whether prompts have many lengths.
        settings: of the run, besides.
    """

    steps: int
    images: int
    cards: tuple[str | None, ...]
    mixed: bool
    settings: Mapping[str, Any]


def measure(folder: Path, model: str, load: Any, request: Request) -> dict[str, Any]:
    """Make one run and say how fast it was."""
    workers, guided = len(request.cards), request.steps > UNGUIDED_STEPS
    manifest, out = folder / "m.jsonl", folder / "out"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in _rows(workers * request.images, request.mixed)))
    chosen: dict[str, Any] = {"workers": workers, "steps": request.steps, **request.settings}
    if model != "tiny":
        chosen |= {"guidance": 5.0 if guided else 1.0}
    with only_cards(request.cards), sampling(request.cards) as samples:
        begin, driver = time.time(), time.process_time()
        summary = run(manifest, out, Settings(model=model, **chosen), load=load)
        driver = time.process_time() - driver
        host = samples.host()
    assert summary.exit_code == 0, summary
    measured = {
        "gpus": workers,
        "cards": list(request.cards),
        "steps": request.steps,
        "guided": guided,
        "pictures": summary.made_now,
        **_of_log(out, workers, begin, samples),
        "whole_pictures_per_second": round(summary.made_now / summary.seconds["make"], 4),
        "slot_use": summary.slot_use,
        "seconds": summary.seconds,
        "driver_processor_seconds": round(driver, 2),
        "host": host,
        "stage_seconds_a_picture": _stages(out),
    }
    shutil.rmtree(out)
    return measured


def _of_log(out: Path, workers: int, begin: float, samples: Samples) -> dict[str, Any]:
    """What the log of a run says of its workers; begin: when the command was given, seconds since 1970."""
    events = [json.loads(line) for line in (out / "_wanbatch" / "log.jsonl").read_text().splitlines()]
    units = [event for event in events if event["event"] == "unit"]
    ready = {event["worker"]: event for event in events if event["event"] == "worker_ready"}
    of_worker = [[unit for unit in units if unit["worker"] == worker] for worker in range(workers)]
    found = [rates(these) for these in of_worker]
    cards = [ready[worker].get("gpu") for worker in range(workers)]
    windows = [(_time(these[0]), _time(these[-2])) for these in of_worker]  # at least two, see `rates`
    return {
        "pictures_per_second": round(sum(one["pictures_per_second"] for one in found), 4),
        "busy": [one["busy"] for one in found],
        "utilization": [card and samples.mean(card, when) for card, when in zip(cards, windows, strict=True)],
        "utilization_course": [
            card and [samples.mean(card, part) for part in tenths(when)]
            for card, when in zip(cards, windows, strict=True)
        ],
        "workers": [
            {
                "gpu": cards[worker],
                **one,
                **{name: ready[worker][name] for name in ("load_seconds", "warm_up_seconds")},
                "seconds_to_first_commit": round(_time(of_worker[worker][0]) - begin, 1),
            }
            for worker, one in enumerate(found)
        ],
        "seconds_to_first_picture": round(min(_time(these[0]) for these in of_worker) - begin, 1),
        "seconds_to_last_worker": round(max(_time(these[0]) for these in of_worker) - begin, 1),
    }


def _stages(out: Path) -> dict[str, float]:
    """The mean seconds of each stage, of all pictures."""
    timings = dataset(out / "timings").to_table()
    names = [name for name in timings.column_names if name.endswith("_seconds")]
    return {name.removesuffix("_seconds"): round(mean(timings[name]).as_py() or 0.0, 5) for name in names}


def rates(units: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The rate of one worker, from its first unit's commit to its last one's, and how busy it was meanwhile.

    Args:
        units: the events of its units in the log, in their order.
    """
    if len(units) < 2:
        sys.exit(f"a worker made {len(units)} units, too few to measure: give --images a larger number")
    seconds = max(1e-9, _time(units[-1]) - _time(units[0]))
    return {
        "units": len(units),
        "pictures_per_second": round(sum(unit["made"] for unit in units[1:]) / seconds, 4),
        "busy": round(sum(unit["model_seconds"] for unit in units[1:]) / seconds, 4),
    }


def tenths(window: tuple[float, float]) -> Iterator[tuple[float, float]]:
    """The ten parts of a time, one after the other."""
    begin, end = window
    for part in range(10):
        yield begin + (end - begin) * part / 10, begin + (end - begin) * (part + 1) / 10


def scaling(measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Efficiency of each number of GPUs against one GPU of the same series, by steps."""
    found = []
    for steps in dict.fromkeys(one["steps"] for one in measured):
        series = [one for one in measured if one["steps"] == steps]
        alone = {one["cards"][0]: one["pictures_per_second"] for one in series if one["gpus"] == 1}
        for gpus in dict.fromkeys(one["gpus"] for one in series):
            these = [one for one in series if one["gpus"] == gpus]
            found.append(
                {
                    "steps": steps,
                    "gpus": gpus,
                    "pictures_per_second": _mean(one["pictures_per_second"] for one in these),
                    "whole_pictures_per_second": _mean(one["whole_pictures_per_second"] for one in these),
                    "efficiency": round(efficiency(these, alone), 4) if alone else None,
                    "least_busy": min(min(one["busy"]) for one in these),
                    "slot_use": _mean(one["slot_use"] for one in these),
                    "seconds_to_first_picture": max(one["seconds_to_first_picture"] for one in these),
                    "seconds_to_last_worker": max(one["seconds_to_last_worker"] for one in these),
                }
            )
    return found


def efficiency(runs: Sequence[dict[str, Any]], alone: Mapping[str | None, float]) -> float:
    """How much of what their cards make alone all workers of some runs made.

    Args:
        runs: of one number of GPUs.
        alone: pictures a second of each card that was measured alone, at least one; of None, a worker without a card.
            The mean of them stands for any other card.
    """
    workers = [worker for one in runs for worker in one["workers"]]
    mean = sum(alone.values()) / len(alone)
    expected = sum(alone.get(worker["gpu"], mean) for worker in workers)
    return sum(worker["pictures_per_second"] for worker in workers) / expected


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return round(sum(found) / len(found), 4)


def _time(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def _rows(count: int, mixed: bool) -> Iterator[dict[str, Any]]:
    if mixed:
        for number, prompt in enumerate(prompts_of(mixed_words(count))):
            yield {"id": f"p{number:05d}", "prompt": prompt}
        return
    for number in range(count):
        prompt = f"{prompt_of(number)}, photograph number {number}, natural light"
        yield {"id": f"p{number:05d}", "prompt": prompt}


def _enough(steps: int, seconds: float) -> int:
    """Pictures that one GPU makes in about so many seconds; at least four units' worth."""
    guided = steps > UNGUIDED_STEPS
    each = SECONDS_A_PICTURE[guided] * (steps / 50 if guided else steps / 4)
    return max(32, round(seconds / each / 8) * 8)


def _choices(gpus: Sequence[int], cards: Sequence[str], alone: Sequence[str]) -> Iterator[tuple[str | None, ...]]:
    """The cards of each run."""
    for count in gpus:
        if not cards:
            yield (None,) * count
        elif count > len(cards):
            sys.exit(f"{count} GPUs are asked for and {len(cards)} are there: give --gpus smaller numbers")
        elif count == 1:
            yield from ((card,) for card in alone or cards[:1])
        else:
            yield tuple(cards[:count])


if __name__ == "__main__":
    main()
