"""`wanbatch train lora --sweep`: the trials of a sweep, each in a folder and a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.jobs.training.asked import ensure_alone
from wanbatch.jobs.training.lora import Checked, LoraRequest, checked, train
from wanbatch.jobs.training.sweep import Trial, best_of, rule, score, table, trials_of
from wanbatch.machine import usable_cores
from wanbatch.pipeline.training.lora.card import file_names
from wanbatch.pipeline.training.lora.run import CARD_FILE, MEASURES_FILE, PLOT_FILE
from wanbatch.pipeline.training.lora.training import LossNotFinite
from wanbatch.pipeline.training.same_training import ensure_same_training

SWEEP_FILE, RESULT_FILE, LOG_FILE = "sweep.json", "result.json", "log.txt"
TRIALS, CACHE, SAMPLES = "trials", "cache", "samples"
THREADS = 4  # of one trial on a CPU


class RunTasks(Protocol):
    """See `driver.tasks.run_tasks`."""

    def __call__(
        self,
        calls: Sequence[Callable[[], Trial]],
        at_once: int,
        gpu: bool,
        ended: Callable[[int, Trial | Exception], None],
    ) -> None: ...


def sweep(
    request: LoraRequest, values: Mapping[str, Sequence[Any]], run_tasks: RunTasks, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train with every combination of some settings, and take the best; a folder with the same sweep is gone on with.

    Args:
        request: What is asked for; its folder gets the best adapter, and a folder for each trial.
        values: Of the settings that are swept, by their names.
        run_tasks: Makes the calls.
        say: Takes lines of text.

    Returns:
        What `sweep.json` has, and the file of the best adapter.

    Raises:
        UserError: If something is wrong with what was given, or no trial came to its end.
    """
    ensure_alone("a sweep")
    trials = [with_result(trial, request.out) for trial in trials_of(values)]
    for trial in trials:
        replace(request.settings, **trial.values)  # refuses values that cannot be
    if request.start_from is not None and "rank" in values:
        raise UserError("--sweep: the rank is that of --start-from for all trials: drop it from the sweep")
    found, by = checked(request, say), rule(request.trigger)
    request.out.mkdir(parents=True, exist_ok=True)
    ensure_same_training(request.out, _identity(request, values, found), {"pictures": "other pictures or captions"})
    _train_left(request, trials, found.device.type == "cuda", by, run_tasks, say)
    written = _write(request.out, trials, by)
    best = best_of(trials, by)
    if best is None:
        raise UserError(
            f"{request.out}: no trial of the sweep came to its end: {trials[0].words}: {trials[0].failed}"
        )
    _take(request, best, table(trials, by), by)
    return written | {"file": str(request.out / file_names(request.name, request.settings)[0])}


def _train_left(
    request: LoraRequest,
    trials: list[Trial],
    gpu: bool,
    by: str,
    run_tasks: RunTasks,
    say: Callable[[str], None],
) -> None:
    """Train those that have not ended, and put what came out of them in their places."""
    left = [index for index, trial in enumerate(trials) if trial.measures is None and trial.failed is None]
    at_once, threads = _shares(gpu)
    say(f"{number_of(len(trials), 'trials')}, {len(left)} to train, {min(at_once, max(1, len(left)))} at once")

    def ended(place: int, outcome: Trial | Exception) -> None:
        index = left[place]
        failed = None if isinstance(outcome, Trial) else str(outcome)
        trials[index] = outcome if isinstance(outcome, Trial) else replace(trials[index], failed=failed)
        _write(request.out, trials, by)
        done = sum(trial.measures is not None or trial.failed is not None for trial in trials)
        say(f"{done} of {len(trials)}: {table([trials[index]], by)[1].removeprefix('*').strip()}")

    if left:
        calls = [partial(run_trial, _of_trial(request, trials[index]), trials[index], threads) for index in left]
        try:
            run_tasks(calls, at_once, gpu, ended)
        except KeyboardInterrupt:
            say("interrupted: the same command goes on")
            raise


def run_trial(request: LoraRequest, trial: Trial, threads: int) -> Trial:
    """Train one trial, or go on with it; its lines are in a file of its folder.

    Args:
        request: Of the trial; its paths are absolute.
        trial: That it is.
        threads: Of the CPU.
    """
    import torch

    torch.set_num_threads(threads)
    request.out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with (request.out / LOG_FILE).open("a", buffering=1) as log:
        try:
            measures = train(request, lambda text: print(text, file=log))
        except LossNotFinite as error:
            print(error, file=log)
            result = replace(trial, failed=str(error).partition(": the state")[0])
        except (UserError, torch.OutOfMemoryError) as error:
            print(error, file=log)
            return replace(trial, failed=str(error).strip().splitlines()[0])  # it may be otherwise next time
        else:
            result = replace(trial, measures=measures, seconds=round(time.monotonic() - begin, 1))
    _write_whole(request.out / RESULT_FILE, result.as_dict())
    return result


def _of_trial(request: LoraRequest, trial: Trial) -> LoraRequest:
    """What one trial is asked for, wherever its process runs."""
    here = Path(os.getcwd())

    def absolute(path: str | Path | None) -> str | Path | None:
        return str(here / path) if path is not None and (here / path).exists() else path

    return replace(
        request,
        images=absolute(request.images) or request.images,
        model=str(absolute(request.model)),
        prior=absolute(request.prior),
        start_from=None if request.start_from is None else here / request.start_from,
        masks=str(absolute(request.masks)) if request.masks is not None else None,
        out=here / request.out / TRIALS / trial.name,
        cache=here / request.out / CACHE,
        settings=replace(request.settings, **trial.values),
    )


def _identity(request: LoraRequest, values: Mapping[str, Sequence[Any]], found: Checked) -> dict[str, Any]:
    """By what a sweep is told from others; values may be added."""
    settings = {key: value for key, value in asdict(request.settings).items() if key not in values}
    asked = {key: getattr(request, key) for key in ("name", "template", "trigger", "caption", "resolution", "masks")}
    weights = {key: getattr(request, key) for key in ("unmasked_weight", "prior_weight")}
    prior = None if found.prior is None else found.prior.manifest.digest
    return settings | asked | weights | {
        "sweep": sorted(values), "model": found.info.digest, "pictures": found.pictures.manifest.digest,
        "prior": prior, "start": None if found.start is None else found.start.digest,
    }  # fmt: skip


def _shares(gpu: bool) -> tuple[int, int]:
    """How many trials are trained at once, and the CPU threads of each."""
    import torch

    cores = usable_cores()
    at_once = torch.cuda.device_count() if gpu else max(1, cores // THREADS)
    return at_once, max(1, min(THREADS, cores // at_once))


def with_result(trial: Trial, out: Path) -> Trial:
    """A trial with what an earlier call of the command found, if it came to its end."""
    file = out / TRIALS / trial.name / RESULT_FILE
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        return trial
    except ValueError as error:
        raise UserError(f"{file}: is damaged ({error}): remove it, and its trial is measured again") from error
    return replace(trial, **{key: found.get(key) for key in ("measures", "failed", "seconds")})


def _write(out: Path, trials: Sequence[Trial], by: str) -> dict[str, Any]:
    best = best_of(trials, by)
    told = [trial.as_dict() | ({} if trial.measures is None else {"score": round(score(trial, by), 5)})
            for trial in trials]  # fmt: skip
    found = {"rule": by, "best": best and best.name, "trials": told}
    _write_whole(out / SWEEP_FILE, found)
    return found


def _write_whole(path: Path, content: Mapping[str, Any]) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    unfinished.replace(path)


def _take(request: LoraRequest, best: Trial, lines: Sequence[str], by: str) -> None:
    """Copy the best trial's adapter, numbers, samples and card into the folder of the sweep."""
    out, trial = request.out, request.out / TRIALS / best.name
    for name in (*file_names(request.name, request.settings), MEASURES_FILE, PLOT_FILE):
        shutil.copyfile(trial / name, out / f"{name}.new")
        (out / f"{name}.new").replace(out / name)
    shutil.rmtree(out / SAMPLES, ignore_errors=True)  # of an earlier best
    shutil.copytree(trial / SAMPLES, out / SAMPLES)
    headline = f"The one of {number_of(len(lines) - 1, 'trials')} with {by}:"
    told = ["", "## Sweep", "", headline, "", "```", *lines, "```", ""]
    (out / CARD_FILE).write_text((trial / CARD_FILE).read_text() + "\n".join(told))
