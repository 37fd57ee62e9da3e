"""The settings file that `wanbatch tune` writes, and the table that it shows; text only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanbatch.errors import UserError
from wanbatch.jobs.tuning.search import Candidate

if TYPE_CHECKING:
    from wanbatch.jobs.tuning.tune import Tuned
    from wanbatch.pipeline.evaluation.quality import Score


def table(tuned: Tuned) -> list[str]:
    """The frontier, the default among it, a line each; the chosen one is marked."""
    rows = list(tuned.shown)
    if all(trial.candidate != tuned.default.candidate for trial in rows):
        rows = sorted([*rows, tuned.default], key=lambda trial: trial.seconds)
    lines = ["  s/picture  speed  " + "  ".join(f"{name:>6}" for name, _ in _columns(tuned.default.score))]
    for trial in rows:
        mark = "*" if trial.candidate == tuned.chosen.candidate else " "
        cells = "  ".join(f"{text:>6}" for _, text in _columns(trial.score))
        note = "  (default)" if trial.candidate == tuned.default.candidate else ""
        lines.append(f"{mark} {trial.seconds:9.3f} {tuned.speedup(trial):5.2f}x  {cells}  {trial.candidate}{note}")
    return lines


def summary(tuned: Tuned) -> list[str]:
    """What was measured, in a few lines."""
    sample = tuned.sample
    lines = [
        f"{len(sample.requests)} pictures of {sample.images}, against {tuned.reference} from the same noise; "
        f"{tuned.tried} candidates tried"
    ]
    if tuned.fewest_steps > 1:
        lines.append(
            f"not with fewer than {tuned.fewest_steps} steps: rows of low creativity would start below the last level"
        )
    if sample.unaffected:
        lines.append(
            f"{sample.unaffected} images keep their rows' own steps, sampler, schedule or sigmas, or have creativity "
            "0, and were not measured; only a step cache applies to them too"
        )
    if sample.passed_over:
        lines.append(f"{sample.passed_over} images were passed over: their sources cannot be read")
    return lines


def scores(score: Score) -> str:
    """Short, for a line of progress."""
    return ", ".join(f"{name} {text}" for name, text in _columns(score) if name != "worst")


def _columns(score: Score) -> list[tuple[str, str]]:
    found = [("psnr", f"{score.psnr:.2f}"), ("worst", f"{score.worst_psnr:.2f}")]
    for name in ("ssim", "lpips", "judge"):
        value = getattr(score, name)
        if value is not None:
            found.append((name, f"{value:.4f}"))
    return found


def chosen_settings(candidate: Candidate) -> dict[str, Any]:
    """The settings fields that make a run use a candidate."""
    return asdict(candidate)


def toml(tuned: Tuned, given: Mapping[str, Any]) -> str:
    """The whole file. given: settings that were measured with and that a run has to repeat."""
    evidence = tuned.evidence
    lines = [
        "# Written by `wanbatch tune`. Rows with steps, sampler, schedule or sigmas of their own keep them.",
        f"# goal       {tuned.goal}",
        f"# measured   {evidence['time']} on {evidence['hardware']}",
        f"# versions   {evidence['versions']}",
        f"# model      {evidence['model']}, digest {evidence['model_digest'][:16]}",
        f"# manifest   {evidence['manifest']}, digest {evidence['manifest_digest'][:16]}",
        *(f"# {line}" for line in summary(tuned)),
        "#",
        *(f"# {line}" for line in table(tuned)),
        "",
    ]
    fields = {**given, **chosen_settings(tuned.chosen.candidate)}
    return "\n".join(lines + [f"{name} = {_value(value)}" for name, value in fields.items()]) + "\n"


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises UserError if it cannot be written."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def _value(value: Any) -> str:
    """A TOML value. JSON's strings are TOML's, but for DEL."""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
