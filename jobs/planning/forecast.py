"""What a planned run will take, by the best that is known: its own folder, another one, or the benchmark table."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from wanbatch.errors import UserError
from wanbatch.jobs.config.settings import Settings
from wanbatch.jobs.planning.estimates import Estimate, estimate
from wanbatch.jobs.planning.plan import Plan
from wanbatch.jobs.planning.rates import Rates, benchmark_table, rates_of_folder, rates_of_gpu
from wanbatch.manifests.dataset.committed_parts import CommittedParts
from wanbatch.manifests.dataset.status import recorded_fingerprint


def forecast(
    plan: Plan,
    settings: Settings,
    model: str,
    out: str | Path,
    like: str | Path | None = None,
    gpu: str | None = None,
    precision: str = "bf16",
    transformer: Sequence[int] | None = None,
    again: Collection[str] = (),
    parts: CommittedParts | None = None,
) -> Estimate:
    """Estimate what a run takes.

    Args:
        plan: what it makes.
        settings: with the preset applied.
        model: as a fingerprint names it.
        out: its output folder; it need not exist. A run goes on with what it has.
        like: a folder whose timing records are taken; None: those of `out`.
        gpu: a key of the benchmark table, instead; None: none.
        precision: of the run on that GPU.
        transformer: what the table knows the model by, see `rates.rates_of_gpu`.
        again: ids that `out` has and that are made again.
        parts: of `out`, as they were found already; None: they are looked for.

    Raises:
        UserError: `like` has no timing records, or the folder is of another model; the table has no such precision.
        MachineryError: A folder cannot be read.
    """
    done: frozenset[str] = frozenset()
    rates: Rates | None = None
    if recorded_fingerprint(out) is not None:
        parts = parts or CommittedParts.open(out)
        done = parts.finished.difference(again)
        if like is None and gpu is None:
            rates = rates_of_folder(out, model, parts)
    if like is not None and (rates := rates_of_folder(like, model)) is None:
        raise UserError(f"{like}: has no timing records: name the output folder of an earlier run")
    if gpu is not None:
        rates = rates_of_gpu(gpu, _timed(precision), transformer)
    return estimate(plan, rates, settings, done)


def _timed(precision: str) -> str:
    """A precision that the table has. Raises UserError if it has it not."""
    known = sorted({name for gpu in benchmark_table()["gpus"].values() for name in gpu["denoising"]})
    if precision not in known:
        raise UserError(f"setting precision: {precision} is not in the table of GPUs; with --gpu: {', '.join(known)}")
    return precision
