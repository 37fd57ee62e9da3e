"""`wanbatch tune`: chooses steps, sampler and step cache by numbers, on a sample of the user's own rows.

The sample is made with `REFERENCE_STEPS` steps of the model's own sampler: the references. `search.py` then tries
candidates; each makes the same pictures from the same noise and is scored against them. The best are timed anew,
in turn, in this process. What was chosen becomes the settings file, with the evidence in its comments.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch

from wanbatch import __version__
from wanbatch.errors import UserError
from wanbatch.jobs.config.hardware import ExecutionConfig
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.planning.units import Image
from wanbatch.jobs.tuning import settings_file
from wanbatch.jobs.tuning.comparison_sheet import Column, side_by_side
from wanbatch.jobs.tuning.search import Candidate, Quality, Search, Space, Speedup, Trial, contenders
from wanbatch.jobs.tuning.trials import Made, Maker, hardware, load_requests
from wanbatch.pipeline.core.requests import Request
from wanbatch.pipeline.evaluation import lpips
from wanbatch.pipeline.evaluation.quality import Meter, Pictures, Score, psnr_of
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import TINY, ModelInfo
from wanbatch.pipeline.sampling.schedules import SCHEDULES, levels, linear
from wanbatch.pipeline.sampling.solvers import SOLVERS, evaluations, solve

REFERENCE_STEPS = 100
TIMING_ROUNDS = 3
TUNED = ("steps", "sampler", "schedule", "step_cache")  # settings that are chosen here
ROW_SETTINGS = ("steps", "sampler", "schedule", "sigmas")  # with one of these, a row is not affected
DEFAULT_SLOTS: int = Settings.model_fields["slots"].default
PACKAGES = ("torch", "diffusers", "torchmetrics")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sample:
    """The rows that are made. unaffected: images of rows with one of `ROW_SETTINGS`, or without any step.

    passed_over: of the others, those whose sources could not be read.
    """

    requests: tuple[Request, ...]
    images: int
    unaffected: int
    passed_over: int


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came out. shown: the frontier around the goal, the fastest first, each timed in turn.

    fewest_steps: of those to try, the first that the rows allow; see `_possible`.
    """

    goal: Quality | Speedup
    reference: Candidate
    default: Trial
    chosen: Trial
    shown: tuple[Trial, ...]
    tried: int
    fewest_steps: int
    sample: Sample
    evidence: dict[str, str]

    def speedup(self, trial: Trial) -> float:
        return self.default.seconds / trial.seconds

    def as_json(self) -> dict[str, Any]:
        """Plain values."""

        def plain(trial: Trial) -> dict[str, Any]:
            values = {"seconds": round(trial.seconds, 4), "speedup": round(self.speedup(trial), 3)}
            return {**asdict(trial.candidate), **values, "score": asdict(trial.score)}

        sample = {name: getattr(self.sample, name) for name in ("images", "unaffected", "passed_over")}
        return {
            "goal": str(self.goal),
            "chosen": plain(self.chosen),
            "default": plain(self.default),
            "frontier": [plain(trial) for trial in self.shown],
            "tried": self.tried,
            "fewest_steps": self.fewest_steps,
            "reference": asdict(self.reference),
            "sample": {"pictures": len(self.sample.requests), **sample},
            **self.evidence,
        }


def tune(
    manifest: str | Path,
    settings: Settings,
    goal: Quality | Speedup,
    machine: ExecutionConfig,
    sample_size: int = 16,
    sheet: Path | None = None,
    say: Say = lambda text: print(f"wanbatch tune: {text}", file=sys.stderr, flush=True),
) -> Tuned:
    """Search for the settings that meet a goal on a manifest's rows.

    settings: `TUNED` of them play no part; `auto` slots are the default's. machine: where and how the model runs.
    sheet: PNG to write, with the sample as each of some candidates makes it.
    Raises UserError for a goal that nothing meets, a metric that cannot be had, or rows that cannot be made.
    """
    replaced = {name: Settings.model_fields[name].default for name in (*TUNED, "sigmas")}
    plan, model = prepare(manifest, settings.model_copy(update=replaced))
    device, slots = machine.device, DEFAULT_SLOTS if settings.slots == "auto" else settings.slots
    meter = Meter(_metrics(goal, model), device)
    sample = take_sample(plan, sample_size, settings)
    if device == "cpu":
        torch.set_num_threads(settings.threads)
    say(f"loading {model.name}")
    maker = Maker(Wan.load(model, device, machine.dtype, slots, machine.runtime(settings)), sample.requests)
    reference = Candidate(model.sampler, REFERENCE_STEPS, schedule=model.schedule)
    say(f"references: {len(sample.requests)} of {sample.images} images, {reference}")
    maker.make(replace(reference, steps=2))  # warm-up
    references = maker.make(reference)
    if references.failed:
        raise UserError(f"row {references.failed[0]} has values that are not numbers with {reference}")
    session = _Session(maker, Meter(_asked(goal), device), meter, references.pictures, goal, say)
    space = Space(
        default=replace(reference, steps=model.steps),
        samplers=_deterministic(),
        evaluations=lambda sampler, steps: evaluations(sampler, linear(steps, model.shift)),
        schedules=tuple(name for name in SCHEDULES if name != model.schedule),
        possible=_possible(plan),
        layers=model.layers,
        guided=any(request.guidance > 1 for request in sample.requests),
    )
    default, chosen, shown = session.search(space)
    tuned = Tuned(
        goal=goal,
        reference=reference,
        default=default,
        chosen=chosen,
        shown=tuple(shown),
        tried=len(session.tried),
        fewest_steps=(space.rising(space.default) or [space.default])[0].steps,
        sample=sample,
        evidence=_evidence(manifest, plan, model, machine),
    )
    if sheet is not None:
        _draw(tuned, session, sheet)
    return tuned


def kept(settings: Settings) -> dict[str, Any]:
    """What was given besides what is chosen: a run has to repeat it, so the settings file does."""
    given = {name: getattr(settings, name) for name in Settings.model_fields if name in settings.model_fields_set}
    return {name: value for name, value in given.items() if name not in (*TUNED, "sigmas") and value is not None}


def take_sample(plan: Plan, count: int, settings: Settings) -> Sample:
    """Some of the images whose steps and sampler the settings decide, chosen by the run's seed.

    Raises UserError if there is none, or none of them can be made.
    """
    affected = _affected(plan)
    unaffected = len(plan) - len(affected)
    if not len(affected):
        raise UserError(
            f"all {len(plan)} images have {' or '.join(ROW_SETTINGS)} of their own in the manifest, or creativity 0: "
            "there is nothing to tune"
        )
    order = np.random.default_rng(settings.seed).permutation(affected)
    requests, unfit = load_requests(_images(plan, order), count, plan.manifest.source_root, settings.allow_http)
    if not requests:
        image, error = unfit[0]
        raise UserError(f"no row can be made; the first one tried, {image.id!r}, fails with: {error}")
    return Sample(tuple(requests), len(plan), unaffected, len(unfit))


def _affected(plan: Plan) -> np.ndarray:
    """Places of the images whose own row names nothing of what is tuned and that have steps at all."""
    rows = plan.manifest.rows
    free = np.ones(len(rows), dtype=bool)
    for name in ROW_SETTINGS:
        free &= pc.is_null(rows[name]).to_numpy()
    moving = plan.images["creativity"].to_numpy() > 0
    return np.flatnonzero(free[plan.images["row"].to_numpy()] & moving)


def _images(plan: Plan, places: np.ndarray, together: int = 64) -> Iterator[Image]:
    for first in range(0, len(places), together):
        yield from plan.task(0, 1, "", places[first : first + together]).images


class _Session:
    """The search at work: makes, scores, times, and tells how it goes.

    quick: measures what the goal needs, for the search. meter: measures all, for what is shown.
    """

    def __init__(
        self, maker: Maker, quick: Meter, meter: Meter, references: Pictures, goal: Quality | Speedup, say: Say
    ):
        self.maker, self.quick, self.meter = maker, quick, meter
        self.references, self.goal, self.say = references, goal, say
        self.tried: list[Trial] = []

    def measure(self, candidate: Candidate) -> Trial:
        made = self.maker.make(candidate)
        score = self.quick.score(made.pictures, self.references)
        trial = Trial(candidate, score, made.seconds, made.evaluations + made.blocks)
        self.tried.append(trial)
        self.say(f"{len(self.tried):3}  {trial.seconds:.3f} s  {settings_file.scores(trial.score)}  {candidate}")
        return trial

    def search(self, space: Space) -> tuple[Trial, Trial, list[Trial]]:
        """(default, chosen, the frontier around it), all timed in turn."""
        trials = Search(space, self.goal, self.measure).run()
        front = contenders(trials, trials[0], self.goal)
        scores: dict[Candidate, Score] = {}

        def take(number: int, candidate: Candidate, made: Made) -> None:
            if number == 0:
                scores[candidate] = self.meter.score(made.pictures, self.references)
            self.say(f"round {number + 1} of {TIMING_ROUNDS}  {made.seconds:.3f} s  {candidate}")

        named = {trial.candidate: trial for trial in [trials[0], *front]}
        self.say(f"timing {len(named)} of them in turn, {TIMING_ROUNDS} rounds")
        seconds = self.maker.in_turn(list(named), TIMING_ROUNDS, take)
        default, *_ = timed = [replace(t, score=scores[c], seconds=seconds[c]) for c, t in named.items()]
        shown = sorted((one for one in timed if one.candidate in {f.candidate for f in front}), key=_time)
        meeting = [trial for trial in shown if self.goal.met(trial, default)]
        if not meeting:
            raise UserError(_unmet(self.goal, default, trials, shown))
        return default, self.goal.best(meeting), shown


def _time(trial: Trial) -> float:
    return trial.seconds


def _unmet(goal: Quality | Speedup, default: Trial, trials: list[Trial], shown: list[Trial]) -> str:
    if isinstance(goal, Speedup):
        best = goal.nearest(shown)
        return f"nothing is {goal}: the fastest is {best.candidate} with {default.seconds / best.seconds:.2f} times"
    best = goal.nearest(trials)
    reached = ", ".join(f"{limit.metric} {getattr(best.score, limit.metric):.4g}" for limit in goal.limits)
    return f"nothing reaches {goal}: the best is {best.candidate} with {reached}"


def _asked(goal: Quality | Speedup) -> set[str]:
    return {limit.metric for limit in goal.limits} if isinstance(goal, Quality) else set()


def _metrics(goal: Quality | Speedup, model: ModelInfo) -> Collection[str]:
    """What is measured: PSNR and SSIM, the judge for the small model, and LPIPS if it is asked for or at hand."""
    asked = _asked(goal)
    if "judge" in asked and model.name != TINY:
        raise UserError(
            f"the judge reads pictures of the model `{TINY}` alone, not of {model.name}: use another budget"
        )
    found = {"psnr", "ssim"} | asked
    if model.name == TINY:
        found.add("judge")
    if lpips.at_hand():
        found.add("lpips")
    return found


def _deterministic() -> tuple[str, ...]:
    """Samplers that go to the same picture from the same noise, with steps enough."""
    return tuple(name for name in SOLVERS if not solve(name, 4, 3.0).noise.any())


def _possible(plan: Plan) -> Callable[[Candidate], bool]:
    """Whether no row that takes its steps from the settings would start below the last noise level.

    `wanbatch run` refuses such rows, or, for the default creativity, raises it.
    """
    steps = plan.manifest.rows["steps"].take(plan.images["row"]).to_pylist()
    own = plan.manifest.rows["schedule"].take(plan.images["row"]).to_pylist()
    columns = [plan.images[name].to_pylist() for name in ("sigmas", "shift", "creativity")]
    starts: dict[tuple[str | None, float], float] = {}
    for given, schedule, sigmas, shift, creativity in zip(steps, own, *columns, strict=True):
        if given is None and sigmas is None and 0 < creativity < 1:
            starts[schedule, shift] = min(creativity, starts.get((schedule, shift), 1.0))

    def possible(candidate: Candidate) -> bool:
        return all(
            levels(candidate.steps, shift, 1.0, schedule or candidate.schedule)[-2] <= start
            for (schedule, shift), start in starts.items()
        )

    return possible


def _evidence(manifest: str | Path, plan: Plan, model: ModelInfo, machine: ExecutionConfig) -> dict[str, str]:
    versions = {"wanbatch": __version__, **{name: version(name) for name in PACKAGES}}
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": f"{hardware(machine.device)}, {machine.precision}{', compiled' if machine.compile else ''}",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "model": f"{model.name}, revision {model.revision}" if model.revision else model.name,
        "model_digest": model.digest,
        "manifest": str(manifest),
        "manifest_digest": plan.manifest.digest,
    }


def _draw(tuned: Tuned, session: _Session, path: Path) -> None:
    """Reference, default, chosen, and its two neighbours on the frontier, beside each other for each row.

    The rows that the chosen settings change most come first.
    """
    place = next(i for i, trial in enumerate(tuned.shown) if trial.candidate == tuned.chosen.candidate)
    others = [trial for i, trial in enumerate(tuned.shown) if i != place]
    others.sort(key=lambda trial: abs(tuned.shown.index(trial) - place))
    columns = [Column(f"reference: {tuned.reference}", session.references)]
    for name, trial in [("default", tuned.default), ("chosen", tuned.chosen), *(("", t) for t in others[:2])]:
        title = f"{name}: {trial.candidate}".removeprefix(": ")
        notes = f"{tuned.speedup(trial):.1f} x, {settings_file.scores(trial.score)}"
        columns.append(Column(title, session.maker.make(trial.candidate).pictures, notes))
    chosen = columns[2].pictures
    psnr = {name: psnr_of(chosen[name], reference) for name, reference in session.references.items()}
    prompts = {request.id: request.prompt for request in tuned.sample.requests}
    captions = {
        name: f"{psnr[name]:.1f} dB  {name}: {prompts[name]}" for name in sorted(psnr, key=lambda one: psnr[one])
    }
    side_by_side(columns, captions, path)
