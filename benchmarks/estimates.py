"""How near the estimates of `wanbatch plan` come to the runs that they are of.

    python benchmarks/estimates.py [--model random-5b] [--gpu h200] [--scale 4] [--out FILE.json]

Makes a first run of plain rows, then foresees and makes a second one of other rows: other numbers of steps, with and
without guidance, two sizes, some from source images at several creativities. The second one is foreseen twice: by
the timing records of the first (`--like`), and by the committed table (`--gpu`), if one is named. `ratio` is the time
in which it was made by the middle of what was foreseen.

`random-5b` is TI2V-5B at its full size with random weights; `tiny` works on a CPU, and takes some minutes with
`--scale 1` on two cores. They say something only on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from circumstances import circumstances, print_result
from estimate_rows import mixed, plain, written
from host_samples import card_names, visible_cards
from random_weights import RANDOM, load_random, write_random_folder

from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.driver.fingerprint import model_location
from wanbatch.jobs.driver.run import run
from wanbatch.jobs.planning.forecast import forecast
from wanbatch.jobs.planning.preparation import prepare


def main() -> None:
    options = _options()
    folder = Path(tempfile.mkdtemp())
    cards = visible_cards()
    model, load = options.model, None
    if model == RANDOM:
        model, load = str(write_random_folder(folder / "model")), partial(load_random, compiled=bool(cards))
    try:
        first = _made(written(folder, "first", plain(options.scale, options.model)), model, load)
        manifest = written(folder, "second", mixed(options.scale, options.model, folder))
        foreseen = _foreseen(manifest, model, folder / "first", options.gpu)
        second = _made(manifest, model, load)
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


def _made(manifest: Path, model: str, load: Any) -> dict[str, Any]:
    """Make the rows of a manifest; the seconds of each part of the run."""
    summary = run(manifest, manifest.with_suffix(""), Settings(model=model, workers=1), load=load)
    assert summary.exit_code == 0, summary
    return {"pictures": summary.made_now, **summary.seconds, "slot_use": summary.slot_use}


def _foreseen(manifest: Path, model: str, like: Path, gpu: str | None) -> dict[str, dict[str, Any]]:
    """What is foreseen of a manifest, by a run before it and by the table."""
    settings, out = Settings(model=model, workers=1), manifest.with_suffix("")
    plan, info = prepare(manifest, settings, weights=False, every_source=True)
    found = {"like the first run": forecast(plan, settings, model_location(info), out, like)}
    if gpu is not None:
        found[f"table, {gpu}"] = forecast(plan, settings, model_location(info), out, gpu=gpu)
    return {name: one.as_json() for name, one in found.items()}


if __name__ == "__main__":
    main()
