"""How many pictures a second one host makes with 1, 2, 4, ... GPUs: whole runs, one after the other.

    python benchmarks/scaling.py [--gpus 1 2 4] [--steps 50 4] [--every-card] [--out FILE.json]
    python benchmarks/scaling.py --model tiny --gpus 1 2 --steps 4 --images 16     on a CPU: workers instead of GPUs

Each measurement is a whole `run` into a folder of its own: manifest, Ray, workers, commits. The model is Wan2.2
TI2V-5B at its full size with random weights, made on each GPU; `--model` takes another one. With 50 steps rows are
guided (5.0), with 8 or fewer they are not, as distilled models are used. The first run compiles, later ones read what
it compiled.

pictures_per_second: the sum of the workers' own rates, each from its first unit's commit to its last one's, so that
neither the start nor the end of a run plays a part. whole_pictures_per_second: all pictures by all seconds in which
they were made, the end included, where some workers have nothing left to do. efficiency: the first figure by that of
one GPU times the number of GPUs; with `--every-card` one GPU is the mean of all cards, each measured alone, since
cards of one kind differ by several per cent. busy: the share of its time in which a worker had pictures in the model;
utilization: what nvidia-smi says of its card meanwhile. seconds_to_first_picture: from the command to its commit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from circumstances import circumstances, print_result
from estimate_rows import prompt_of

from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.run import run

RANDOM = "random-5b"
SAMPLE_SECONDS = 0.5
UNGUIDED_STEPS = 8  # and fewer
SECONDS_A_PICTURE = {True: 1.5, False: 0.07}  # of one H100 or so, guided or not: only decides how many are made


def main() -> None:
    options = _options()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    cards = visible_cards()
    try:
        model, load = options.model, None
        if model == RANDOM:
            model, load = str(write_random_folder(folder / "model")), partial(load_random, compiled=bool(cards))
        measured = []
        for steps in options.steps:
            for chosen in _choices(options.gpus, cards, options.every_card):
                images = options.images or _enough(steps, options.seconds)
                found = measure(folder, model, load, Request(steps, images, chosen, options.unit_rows))
                measured.append(found)
                print(json.dumps(found), file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = {
        "what": "whole runs on several GPUs of one host",
        **circumstances(("torch", "ray"), gpus=card_names(), load_before=options.load),
        "model": options.model,
        "scaling": scaling(measured),
        "measured": measured,
    }
    print_result(result, options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2], help="how many, one run each")
    parser.add_argument("--workers", type=int, nargs="+", dest="gpus", help="the same, for a host without GPUs")
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 4])
    parser.add_argument("--model", default=RANDOM, help="`random-5b`, or what `wanbatch run --model` takes")
    parser.add_argument("--images", type=int, help="pictures for each GPU; default: about --seconds of them")
    parser.add_argument("--seconds", type=float, default=45, help="how long each run makes pictures, about")
    parser.add_argument("--unit-rows", type=int, default=8)
    parser.add_argument("--every-card", action="store_true", help="measure each card alone, not the first one only")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where manifests and folders are made")
    parser.add_argument("--out", type=Path, help="write the result here too")
    options = parser.parse_args()
    options.load = round(os.getloadavg()[0], 1)
    return options


@dataclass(frozen=True)
class Request:
    """One measurement.

    Attributes:
        steps: of every picture.
        images: for each worker.
        cards: of each worker; None where there is no GPU.
        unit_rows: rows of a unit.
    """

    steps: int
    images: int
    cards: tuple[str | None, ...]
    unit_rows: int


def measure(folder: Path, model: str, load: Any, request: Request) -> dict[str, Any]:
    """Make one run and say how fast it was."""
    workers, guided = len(request.cards), request.steps > UNGUIDED_STEPS
    manifest, out = folder / "m.jsonl", folder / "out"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in _rows(workers * request.images)))
    chosen: dict[str, Any] = {"workers": workers, "steps": request.steps, "unit_rows": request.unit_rows}
    chosen |= {"compile_cache": folder / "compiled"}
    if model != "tiny":
        chosen |= {"guidance": 5.0 if guided else 1.0}
    with _visible(request.cards), sampling(request.cards) as samples:
        begin = datetime.now(UTC)
        summary = run(manifest, out, Settings(model=model, **chosen), load=load)
    events = [json.loads(line) for line in (out / "_wanbatch" / "log.jsonl").read_text().splitlines()]
    assert summary.exit_code == 0, summary
    shutil.rmtree(out)
    units = [event for event in events if event["event"] == "unit"]
    found = [rates([unit for unit in units if unit["worker"] == worker]) for worker in range(workers)]
    window = (min(_time(unit) for unit in units), max(_time(unit) for unit in units))
    return {
        "gpus": workers,
        "cards": list(request.cards),
        "steps": request.steps,
        "guided": guided,
        "pictures": summary.made_now,
        "pictures_per_second": round(sum(one["pictures_per_second"] for one in found), 4),
        "whole_pictures_per_second": round(summary.made_now / summary.seconds["make"], 4),
        "busy": [one["busy"] for one in found],
        "utilization": samples.means(window),
        "workers": found,
        "seconds_to_first_picture": round((_time(units[0]) - begin.timestamp()), 1),
        "seconds_of_start": [
            {name: event[name] for name in ("load_seconds", "warm_up_seconds")}
            for event in events
            if event["event"] == "worker_ready"
        ],
        "seconds": summary.seconds,
    }


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


def scaling(measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Efficiency of each number of GPUs against one GPU of the same series, by steps."""
    found = []
    for steps in dict.fromkeys(one["steps"] for one in measured):
        series = [one for one in measured if one["steps"] == steps]
        alone = [one["pictures_per_second"] for one in series if one["gpus"] == 1]
        for gpus in dict.fromkeys(one["gpus"] for one in series):
            these = [one for one in series if one["gpus"] == gpus]
            rate = sum(one["pictures_per_second"] for one in these) / len(these)
            whole = sum(one["whole_pictures_per_second"] for one in these) / len(these)
            found.append(
                {
                    "steps": steps,
                    "gpus": gpus,
                    "pictures_per_second": round(rate, 4),
                    "whole_pictures_per_second": round(whole, 4),
                    "efficiency": round(rate / gpus / (sum(alone) / len(alone)), 4) if alone else None,
                    "least_busy": min(min(one["busy"]) for one in these),
                    "seconds_to_first_picture": max(one["seconds_to_first_picture"] for one in these),
                }
            )
    return found


def _time(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def _rows(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        prompt = f"{prompt_of(number)}, photograph number {number}, natural light"
        yield {"id": f"p{number:05d}", "prompt": prompt}


def _enough(steps: int, seconds: float) -> int:
    """Pictures that one GPU makes in about so many seconds; at least four units' worth."""
    guided = steps > UNGUIDED_STEPS
    each = SECONDS_A_PICTURE[guided] * (steps / 50 if guided else steps / 4)
    return max(32, round(seconds / each / 8) * 8)


def _choices(gpus: Sequence[int], cards: Sequence[str], every_card: bool) -> Iterator[tuple[str | None, ...]]:
    """The cards of each run."""
    for count in gpus:
        if not cards:
            yield (None,) * count
        elif count > len(cards):
            sys.exit(f"{count} GPUs are asked for and {len(cards)} are there: give --gpus smaller numbers")
        elif count == 1 and every_card:
            yield from ((card,) for card in cards)
        else:
            yield tuple(cards[:count])


# ---- cards ---------------------------------------------------------------------------------------------------


def visible_cards() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. Does not start CUDA."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in given.split(",") if name]
    return [line.split(",")[0] for line in _nvidia_smi("index")]


def card_names() -> list[str]:
    return _nvidia_smi("name")


def _nvidia_smi(fields: str) -> list[str]:
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


@contextmanager
def _visible(cards: Sequence[str | None]) -> Iterator[None]:
    """Ray, which a run starts, hands out these cards alone."""
    before, names = os.environ.get("CUDA_VISIBLE_DEVICES"), [card for card in cards if card is not None]
    if names:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    try:
        yield
    finally:
        if names:
            os.environ.pop("CUDA_VISIBLE_DEVICES")
            if before is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


class Samples:
    """What nvidia-smi said of each card, again and again."""

    def __init__(self, cards: Sequence[str | None]):
        self._cards = [card for card in cards if card is not None]
        self._taken: list[tuple[float, dict[str, float]]] = []
        self._stop = threading.Event()

    def take(self) -> None:
        """Take samples until `stop`."""
        while self._cards and not self._stop.wait(SAMPLE_SECONDS):
            lines = [line.split(", ") for line in _nvidia_smi("index,uuid,utilization.gpu")]
            used = {
                name: float(share) for *names, share in lines for name in names if share.replace(".", "").isdigit()
            }
            self._taken.append((time.time(), used))

    def stop(self) -> None:
        self._stop.set()

    def means(self, window: tuple[float, float]) -> list[float | None]:
        """The mean of each card between two times."""
        inside = [used for when, used in self._taken if window[0] <= when <= window[1]]
        found = ([used[card] for used in inside if card in used] for card in self._cards)
        return [round(sum(values) / len(values) / 100, 4) if values else None for values in found]


@contextmanager
def sampling(cards: Sequence[str | None]) -> Iterator[Samples]:
    samples = Samples(cards)
    thread = threading.Thread(target=samples.take, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        samples.stop()
        thread.join()


def write_random_folder(folder: Path) -> Path:
    """A model folder with the configurations of the full-size model and empty files instead of its weights."""
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
    from safetensors.torch import save_file
    from transformers import UMT5Config

    from wanbatch.pipeline.loading.random_model import TEXT, TRANSFORMER, VAE, random_info
    from wanbatch.pipeline.loading.registry import TINY, find

    tiny = Path(find(TINY).folder)
    shutil.copytree(tiny / "tokenizer", folder / "tokenizer")
    shutil.copy(tiny / "model_index.json", folder)
    UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=random_info().shift
    ).save_pretrained(folder / "scheduler")
    with torch.device("meta"):
        WanTransformer3DModel(**TRANSFORMER).save_config(folder / "transformer")
        AutoencoderKLWan(**VAE).save_config(folder / "vae")
    UMT5Config(**TEXT, architectures=["UMT5EncoderModel"]).save_pretrained(folder / "text_encoder")
    for part in ("transformer", "vae", "text_encoder"):
        save_file({}, folder / part / "empty.safetensors")
    return folder


def load_random(model: Any, device: str, dtype: str, slots: int, compiled: bool) -> Any:
    """What a worker works with: random weights, made on its device in seconds instead of read from a disk."""
    import torch

    from wanbatch.pipeline.generate import Wan
    from wanbatch.pipeline.loading.compiler import set_up_compiler
    from wanbatch.pipeline.loading.random_model import random_modules
    from wanbatch.pipeline.loading.runtime import Runtime
    from wanbatch.pipeline.loading.weights import DTYPES

    if compiled:
        set_up_compiler(None)
    where = torch.device(device)
    return Wan(random_modules(where, DTYPES[dtype]), where, slots, Runtime(compile=compiled))


if __name__ == "__main__":
    main()
