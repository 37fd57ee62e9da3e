"""`wanbatch tune`: chooses steps, sampler and step cache by numbers, on a sample of the user's own rows.

The sample is made with many steps of the model's own sampler: the references. `search.py` then tries candidates;
each makes the same images from the same noise and is scored against them. The best are timed anew, in turn, in
this process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from wanbatch import __version__
from wanbatch.counting import number_of
from wanbatch.errors import UserError
from wanbatch.jobs.config.hardware import ExecutionConfig, describe_device
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.preparation import prepare
from wanbatch.jobs.tuning.candidates import Candidate, SearchSpace, Trial
from wanbatch.jobs.tuning.comparison_sheet import comparison, write_sheet
from wanbatch.jobs.tuning.goals import Goal
from wanbatch.jobs.tuning.result import TuningResult, score_text
from wanbatch.jobs.tuning.sample import Sample, draw_sample, possible_candidates
from wanbatch.jobs.tuning.search import Search, contenders
from wanbatch.jobs.tuning.settings_file import REPLACED
from wanbatch.jobs.tuning.trials import CandidateImages, CandidateRunner
from wanbatch.manifests.sources.notes import WORDS, noted_sources
from wanbatch.pipeline.evaluation import lpips
from wanbatch.pipeline.evaluation.metrics import Score
from wanbatch.pipeline.evaluation.quality import Meter, Pictures
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import TINY, ModelInfo
from wanbatch.pipeline.loading.runtime import MERGED
from wanbatch.pipeline.sampling.schedules import SPACINGS, linear
from wanbatch.pipeline.sampling.solvers import SOLVERS, evaluations, solve

DEFAULT_SLOTS: int = Settings.model_fields["slots"].default
PACKAGES = ("torch", "diffusers", "torchmetrics")

OnProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TuningOptions:
    """How thorough the measuring is, and what is drawn.

    Attributes:
        sample_size: Images that each candidate makes.
        reference_steps: Steps of the references.
        timing_rounds: How often the best candidates are timed.
        sheet: PNG to write, with the sample as some of the candidates make it.
    """

    sample_size: int = 16
    reference_steps: int = 100
    timing_rounds: int = 3
    sheet: Path | None = None


def print_progress(text: str) -> None:
    """Print a line of progress to standard error."""
    print(f"wanbatch tune: {text}", file=sys.stderr, flush=True)


def tune(
    manifest: str | Path,
    settings: Settings,
    goal: Goal,
    execution: ExecutionConfig,
    options: TuningOptions,
    on_progress: OnProgress = print_progress,
) -> TuningResult:
    """Search for the settings that meet a goal on a manifest's rows.

    Args:
        manifest: Path or URL.
        settings: Those of a run; the values of `REPLACED` play no part, and `auto` slots are the default's.
        goal: What the settings have to reach.
        execution: Where and how the model runs.
        options: How thorough the measuring is.
        on_progress: Called with a line of text now and then.

    Raises:
        UserError: Nothing meets the goal, a metric cannot be had, or rows cannot be made.
    """
    neutral = {name: Settings.model_fields[name].default for name in REPLACED}
    plan, model = prepare(manifest, settings.model_copy(update=neutral), every_source=True)
    _tell_warnings(plan, model, on_progress)
    meter = Meter(_metrics(goal, model), execution.device)
    sample = draw_sample(plan, options.sample_size, settings)
    on_progress(f"loading {model.name}")
    runner = CandidateRunner(_load(model, execution, settings, plan), sample.requests)
    reference = Candidate(model.sampler, options.reference_steps, schedule=model.schedule)
    on_progress(f"references: {len(sample.requests)} of {number_of(sample.images, 'images')}, {reference}")
    references = _make_references(runner, reference)
    measurement = _Measurement(
        runner, Meter(goal.metrics, execution.device), meter, references.pictures, options.timing_rounds, on_progress
    )
    space = _search_space(plan, model, settings, sample)
    default, chosen, frontier = measurement.search(space, goal)
    result = TuningResult(
        goal=goal,
        reference=reference,
        default=default,
        chosen=chosen,
        frontier=frontier,
        candidates=measurement.candidates,
        fewest_steps=space.fewest_steps,
        sample=sample,
        evidence=_evidence(manifest, plan, model, execution),
    )
    if options.sheet is not None:
        write_sheet(*comparison(result, references.pictures, lambda one: runner.make(one).pictures), options.sheet)
    return result


def _tell_warnings(plan: Plan, model: ModelInfo, on_progress: OnProgress) -> None:
    """What `wanbatch plan` says of columns and sources; a model that was made for its own levels is refused."""
    if model.sigmas is not None:
        raise UserError(
            f"{model.name} was made for noise levels of its own, {', '.join(f'{one:g}' for one in model.sigmas)}, so "
            "that there is nothing to tune: run it as it is"
        )
    for name, (count, example) in noted_sources(plan.source_notes).items():
        on_progress(f"note: {count} {'source' if count == 1 else 'sources'} {WORDS[name]}; {example} for one")
    for message in plan.all_warnings:
        on_progress(f"warning: {message}")
    for message in plan.unreadable.values():
        on_progress(f"warning: {message}")
    if plan.hearing is not None:
        on_progress("warning: rows have sounds, which play no part in what is measured")


class _Measurement:
    """Makes, scores and times the sample with one candidate after another, and tells how it goes."""

    def __init__(
        self,
        runner: CandidateRunner,
        search_meter: Meter,
        full_meter: Meter,
        references: Pictures,
        rounds: int,
        on_progress: OnProgress,
    ):
        """Keep what is needed to measure.

        Args:
            runner: Makes the sample.
            search_meter: Measures what the goal needs, for the search.
            full_meter: Measures everything, for the result.
            references: Pixels of the references by id.
            rounds: How often the best candidates are timed.
            on_progress: Called with a line of text for everything that is measured.
        """
        self.runner, self.search_meter, self.full_meter = runner, search_meter, full_meter
        self.references, self.rounds, self.on_progress = references, rounds, on_progress
        self.candidates = 0

    def measure(self, candidate: Candidate) -> Trial:
        """Make and score the sample with a candidate, once."""
        made = self.runner.make(candidate)
        score = self.search_meter.score(made.pictures, self.references)
        self.candidates += 1
        self.on_progress(f"{self.candidates:3}  {made.seconds:.3f} s  {score_text(score)}  {candidate}")
        return Trial(candidate, score, made.seconds, made.evaluations + made.blocks)

    def search(self, space: SearchSpace, goal: Goal) -> tuple[Trial, Trial, tuple[Trial, ...]]:
        """Return the default, the best and the frontier around it, all timed in turn.

        Raises:
            UserError: Nothing meets the goal.
        """
        trials = Search(space, goal, self.measure).run()
        front = contenders(trials, trials[0], goal)
        default, *timed = self._time_in_turn([trials[0], *front])
        shown = tuple(sorted(timed, key=lambda trial: trial.seconds))
        meeting = [trial for trial in shown if goal.is_met(trial, default)]
        if not meeting:
            raise UserError(goal.failure(default, trials, shown))
        return default, goal.best(meeting), shown

    def _time_in_turn(self, trials: list[Trial]) -> list[Trial]:
        """Return trials with new times and all metrics; one that is given twice is timed once."""
        scores: dict[Candidate, Score] = {}

        def on_images(number: int, candidate: Candidate, made: CandidateImages) -> None:
            if number == 0:
                scores[candidate] = self.full_meter.score(made.pictures, self.references)
            self.on_progress(f"round {number + 1} of {self.rounds}  {made.seconds:.3f} s  {candidate}")

        distinct = list(dict.fromkeys(trial.candidate for trial in trials))
        self.on_progress(f"timing {len(distinct)} of them in turn, {self.rounds} rounds")
        seconds = self.runner.time_in_turn(distinct, self.rounds, on_images)
        return [replace(one, score=scores[one.candidate], seconds=seconds[one.candidate]) for one in trials]


def _load(model: ModelInfo, execution: ExecutionConfig, settings: Settings, plan: Plan) -> Wan:
    slots = DEFAULT_SLOTS if settings.slots == "auto" else settings.slots
    if execution.device == "cpu":
        torch.set_num_threads(settings.threads)
    merged = [(one.file, one.weight) for one in plan.adapters.values() if one.merged]
    return Wan.load(model, execution.device, execution.dtype, slots, execution.runtime(settings), merged)


def _make_references(runner: CandidateRunner, reference: Candidate) -> CandidateImages:
    runner.make(replace(reference, steps=2))  # warm-up
    references = runner.make(reference)
    if references.failed:
        raise UserError(f"row {references.failed[0]} contains NaN or infinity with {reference}")
    return references


def _search_space(plan: Plan, model: ModelInfo, settings: Settings, sample: Sample) -> SearchSpace:
    return SearchSpace(
        default=Candidate(model.sampler, model.steps, schedule=model.schedule),
        samplers=_deterministic_samplers(),
        evaluations=lambda sampler, steps: evaluations(sampler, linear(steps, model.shift)),
        schedules=tuple(name for name in SPACINGS if name != model.schedule),
        is_possible=possible_candidates(plan),
        layers=0 if settings.row_adapters == MERGED else model.layers,  # which every block goes with
        guided=any(request.guidance > 1 for request in sample.requests),
    )


def _metrics(goal: Goal, model: ModelInfo) -> Collection[str]:
    """Return what is measured: PSNR and SSIM, the judge for the small model, LPIPS if it is asked for or there."""
    if "judge" in goal.metrics and model.name != TINY:
        raise UserError(
            f"the judge reads pictures of the model `{TINY}` alone, not of {model.name}: use another budget"
        )
    found = {"psnr", "ssim"} | goal.metrics
    if model.name == TINY:
        found.add("judge")
    if lpips.at_hand():
        found.add("lpips")
    return found


def _deterministic_samplers() -> tuple[str, ...]:
    """Return the samplers that go to the same image from the same noise, with steps enough."""
    return tuple(name for name in SOLVERS if not solve(name, 4, 3.0).noise.any())


def _evidence(manifest: str | Path, plan: Plan, model: ModelInfo, execution: ExecutionConfig) -> dict[str, str]:
    versions = {"wanbatch": __version__, **{name: version(name) for name in PACKAGES}}
    compiled = ", compiled" if execution.compile else ""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": f"{describe_device(execution.device)}, {execution.precision}{compiled}",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "model": f"{model.name}, revision {model.revision}" if model.revision else model.name,
        "model_digest": model.digest,
        "manifest": str(manifest),
        "manifest_digest": plan.manifest.digest,
    }
