"""How near the estimates of `wanbatch plan` come to the runs that they are of.

    python benchmarks/estimates.py [--model random-5b] [--gpu h200] [--scale 4] [--out FILE.json]

Makes a first run of plain rows, then foresees and makes a second one of other rows: other numbers of steps, with and
without guidance, two sizes, some from source images at several creativities. The second one is foreseen twice: by
the timing records of the first (`--like`), and by the committed table (`--gpu`), if one is named. `ratio` is the time
in which it was made by the middle of what was foreseen.

`random-5b` is TI2V-5B at its full size with random weights; `tiny` works on a CPU. With `tiny`, `--scale` multiplies
how many rows there are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from circumstances import circumstances, print_result
from PIL import Image
from scaling import PLACES, RANDOM, SUBJECTS, card_names, load_random, visible_cards, write_random_folder

from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.fingerprint import model_location
from wanbatch.jobs.driver.run import run
from wanbatch.jobs.planning.forecast import forecast
from wanbatch.jobs.planning.preparation import prepare

Rows = list[dict[str, Any]]


def main() -> None:
    options = _options()
    folder = Path(tempfile.mkdtemp())
    cards = visible_cards()
    model, load = options.model, None
    if model == RANDOM:
        model, load = str(write_random_folder(folder / "model")), partial(load_random, compiled=bool(cards))
    small = options.model == "tiny"
    sizes = [(128, 128), (192, 128)] if small else [(1280, 704), (704, 704)]
    try:
        first = _made(folder, "first", list(_plain(12 * options.scale, sizes[0])), model, load)
        rows = list(_mixed(6 * options.scale, sizes, folder))
        foreseen = _foreseen(folder, rows, model, folder / "first", options.gpu)
        second = _made(folder, "second", rows, model, load)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = second["make"]
    result = {
        "what": "what plan foresees against the run",
        **circumstances(("torch", "ray"), gpus=card_names(), load_before=options.load),
        "model": options.model,
        "first_run": first,
        "second_run": second,
        "foreseen": {
            name: {**found, "ratio": round(seconds / found["device_seconds"]["middle"], 4)}
            for name, found in foreseen.items()
        },
    }
    print_result(result, options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=RANDOM, choices=(RANDOM, "tiny"))
    parser.add_argument("--gpu", help="a key of the committed table to foresee by, too")
    parser.add_argument("--scale", type=int, default=4, help="how many rows, in dozens")
    parser.add_argument("--out", type=Path, help="write the result here too")
    options = parser.parse_args()
    options.load = round(os.getloadavg()[0], 1)
    return options


def _made(folder: Path, name: str, rows: Rows, model: str, load: Any) -> dict[str, float]:
    """Make rows; the seconds of each part of the run."""
    summary = run(_manifest(folder, name, rows), folder / name, Settings(model=model, workers=1), load=load)
    assert summary.exit_code == 0, summary
    return {"pictures": summary.made_now, **summary.seconds}


def _foreseen(folder: Path, rows: Rows, model: str, like: Path, gpu: str | None) -> dict[str, dict[str, Any]]:
    """What is foreseen of rows, by a run before them and by the table."""
    settings = Settings(model=model, workers=1)
    plan, info = prepare(_manifest(folder, "second", rows), settings, weights=False, every_source=True)
    found = {"like the first run": forecast(plan, settings, model_location(info), folder / "second", like)}
    if gpu is not None:
        found[f"table, {gpu}"] = forecast(plan, settings, model_location(info), folder / "second", gpu=gpu)
    return {name: one.as_json() for name, one in found.items()}


def _manifest(folder: Path, name: str, rows: Rows) -> Path:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _plain(count: int, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {"id": f"p{number:04d}", "prompt": _prompt(number), "width": size[0], "height": size[1]}


def _mixed(count: int, sizes: list[tuple[int, int]], folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of four kinds, `count` of each."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, *sizes[0][::-1], 3), dtype=np.uint8)
    for number in range(count):
        width, height = sizes[1]
        yield {"id": f"few-{number}", "prompt": _prompt(number), "steps": 8, "guidance": 1, "width": sizes[0][0],
               "height": sizes[0][1]}  # fmt: skip
        yield {"id": f"small-{number}", "prompt": _prompt(number), "width": width, "height": height}
        yield {"id": f"thirty-{number}", "prompt": _prompt(number), "steps": 30, "width": width, "height": height}
        name = f"source-{number}.png"
        Image.fromarray(pixels[number]).save(folder / name)
        yield {
            "id": f"varied-{number}",
            "prompt": _prompt(number),
            "image": name,
            "creativity": 0.3 + number % 3 * 0.3,
        }


def _prompt(number: int) -> str:
    return f"{SUBJECTS[number % len(SUBJECTS)]} {PLACES[number // len(SUBJECTS) % len(PLACES)]}, number {number}"


if __name__ == "__main__":
    main()
