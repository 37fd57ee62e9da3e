"""What `wanbatch tune` found: as values, as JSON and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from wanbatch.counting import number_of
from wanbatch.jobs.tuning.candidates import Candidate, Trial
from wanbatch.jobs.tuning.goals import Goal

if TYPE_CHECKING:
    from wanbatch.jobs.tuning.sample import Sample
    from wanbatch.pipeline.evaluation.metrics import Score


@dataclass(frozen=True, slots=True)
class TuningResult:
    """What was measured and chosen.

    Attributes:
        goal: What the search was for.
        reference: The settings that made the references.
        default: The model's own settings.
        chosen: The best that meets the goal.
        frontier: The frontier around the goal, the fastest first, each timed in turn.
        candidates: How many candidates were tried.
        fewest_steps: The fewest steps with which all rows of the manifest can be made.
        sample: What was made with each candidate.
        evidence: When, where and with what this was measured.
    """

    goal: Goal
    reference: Candidate
    default: Trial
    chosen: Trial
    frontier: tuple[Trial, ...]
    candidates: int
    fewest_steps: int
    sample: Sample
    evidence: Mapping[str, str]

    def speedup(self, trial: Trial) -> float:
        """Return how many times as fast as the default a trial is."""
        return self.default.seconds / trial.seconds

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""

        def plain(trial: Trial) -> dict[str, Any]:
            values = {"seconds": round(trial.seconds, 4), "speedup": round(self.speedup(trial), 3)}
            return {**asdict(trial.candidate), **values, "score": asdict(trial.score)}

        return {
            "goal": str(self.goal),
            "chosen": plain(self.chosen),
            "default": plain(self.default),
            "frontier": [plain(trial) for trial in self.frontier],
            "tried": self.candidates,
            "fewest_steps": self.fewest_steps,
            "reference": asdict(self.reference),
            "sample": {
                "pictures": len(self.sample.requests),
                "images": self.sample.images,
                "unaffected": self.sample.unaffected,
                "unmeasured": self.sample.unmeasured,
                "passed_over": self.sample.unreadable,
            },
            **self.evidence,
        }

    def summary(self) -> list[str]:
        """Say in a few lines what was measured."""
        sample = self.sample
        lines = [
            f"{number_of(len(sample.requests), 'pictures')} of {sample.images}, "
            f"against {self.reference} from the same noise; {self.candidates} candidates tried"
        ]
        if self.fewest_steps > 1:
            lines.append(
                f"not with fewer than {number_of(self.fewest_steps, 'steps')}: rows of low creativity would "
                f"start below the last level"
            )
        if sample.unaffected:
            lines.append(
                f"{number_of(sample.unaffected, 'images', 'keeps', 'keep')} the rows' own steps, sampler, "
                f"schedule or sigmas, or creativity 0: only a step cache applies to them too"
            )
        if sample.unmeasured:
            lines.append(
                f"{number_of(sample.unmeasured, 'images', 'has', 'have')} an adapter, a creativity map or boxes: "
                f"what is chosen applies to them too, and was not measured with them"
            )
        if sample.unreadable:
            lines.append(
                f"{number_of(sample.unreadable, 'images', 'was', 'were')} skipped: their sources cannot be read"
            )
        return lines

    def table(self) -> list[str]:
        """Return the frontier and the default, a line each; the chosen one is marked with a star."""
        rows = list(self.frontier)
        if all(trial.candidate != self.default.candidate for trial in rows):
            rows = sorted([*rows, self.default], key=lambda trial: trial.seconds)
        lines = ["  s/picture  speed  " + "  ".join(f"{name:>6}" for name, _ in _columns(self.default.score))]
        for trial in rows:
            mark = "*" if trial.candidate == self.chosen.candidate else " "
            cells = "  ".join(f"{text:>6}" for _, text in _columns(trial.score))
            note = "  (default)" if trial.candidate == self.default.candidate else ""
            lines.append(f"{mark} {trial.seconds:9.3f} {self.speedup(trial):5.2f}x  {cells}  {trial.candidate}{note}")
        return lines


def score_text(score: Score) -> str:
    """Return a score in a few words, for a line of progress."""
    return ", ".join(f"{name} {text}" for name, text in _columns(score) if name != "worst")


def _columns(score: Score) -> list[tuple[str, str]]:
    found = [("psnr", f"{score.psnr:.2f}"), ("worst", f"{score.worst_psnr:.2f}")]
    for name in ("ssim", "lpips", "judge"):
        value = getattr(score, name)
        if value is not None:
            found.append((name, f"{value:.4f}"))
    return found
