"""The closing summary of a run, in a few lines of text."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.counting import made_and_failed, number_of
from wanbatch.jobs.reporting.summary import CIRCUIT_BREAKER, MAX_FAILURES, Summary
from wanbatch.manifests.dataset.part_files import open_parts
from wanbatch.manifests.sources.notes import WORDS

STOPPED = {MAX_FAILURES: "stopped, too many failed: ", CIRCUIT_BREAKER: "stopped, images fail alike: "}
STAGES = ("load", "text", "encode", "denoise", "decode", "image", "write")
FAILURES_SHOWN = 5


def summary_text(summary: Summary) -> str:
    """Say in a few lines how a run ended, where the output is, where the time went, and what failed.

    What of the folder cannot be read for it is said in its place: the run has ended, and nothing here changes how.
    """
    seconds = summary.seconds
    lines = [_headline(summary), f"  output    {summary.out}"]
    if summary.report is not None:
        lines.append(f"  report    {summary.report}")
    if summary.removed:
        removed = made_and_failed(summary.removed - summary.removed_failed, summary.removed_failed, "pictures")
        lines.append(f"  removed   {removed} that the manifest does not ask for any more")
    if summary.made_now:
        rate = summary.made_now / seconds["make"]
        busy = "" if summary.model_busy is None else f", the model busy {summary.model_busy:.0%} of the time"
        filled = "" if summary.slot_use is None else f", its slots filled to {summary.slot_use:.0%}"
        lines.append(f"  time      {_parts(seconds)}; {rate:.2f} pictures/s{busy}{filled}")
        if summary.moves:
            lines.append(f"  memory    {_moved(summary)}")
        lines += [f"  stages    {line}" for line in _as_far_as_readable(summary.out, _stage_lines(summary))]
    lines += [f"  adapter   {words}" for words in summary.adapters]
    for name, noted in summary.source_notes.items():
        count = number_of(noted.images, "pictures")
        lines.append(f"  sources   {count} made from a source {WORDS[name]}; {_one_line(noted.example)} for one")
    if summary.quarantined:
        lines += ["  failed    " + ", ".join(f"{count} {name}" for name, count in summary.failures.items())]
        shown = _as_far_as_readable(summary.out, _failure_lines(summary.out, summary.quarantined))
        lines += [f"            {line}" for line in shown]
        lines.append(
            f"            wanbatch retry {shlex.quote(summary.out)}  makes them again once the cause is mended"
        )
    if summary.stop_cause is not None:
        lines.append(f"  cause     {_one_line(summary.stop_cause, limit=700)}")
    if summary.drained:
        lines.append(f"  drained   {number_of(summary.drained, 'pictures')} that workers still finished")
    if summary.dropped:
        dropped = number_of(summary.dropped, "pictures")
        lines.append(f"  dropped   {dropped} made and not written; the same command makes them again")
    lines += [f"  warning   {_one_line(message)}" for message in summary.warnings]
    if summary.pending:
        lines.append(f"  left      {number_of(summary.pending, 'pictures')}: run the same command again to go on")
    return "\n".join(lines)


def stage_seconds(out: str | Path, first_unit: int = 0) -> dict[str, float]:
    """Seconds of each stage, summed over the pictures of all units from number `first_unit` on.

    Raises:
        OSError, ArrowException: Their timings cannot be read.
    """
    columns = [f"{stage}_seconds" for stage in STAGES]
    parts = open_parts(out, "timings", first_unit)
    if parts is None:
        return dict.fromkeys(STAGES, 0.0)
    table = parts.to_table(columns=columns)
    return {stage: pc.sum(table[column]).as_py() or 0.0 for stage, column in zip(STAGES, columns, strict=True)}


def _moved(summary: Summary) -> str:
    """What moved for lack of memory on the device."""
    times = "once" if summary.moves == 1 else f"{summary.moves} times"
    return f"parts of the model came to the device {times}, in turns, in {summary.move_seconds:.1f} s"


def _headline(summary: Summary) -> str:
    state = "interrupted: " if summary.interrupted else ""
    if summary.stopped_by is not None:
        state = STOPPED[summary.stopped_by]
    earlier = summary.made - summary.made_now
    before = f" ({earlier} by earlier runs)" if earlier else ""
    return (
        f"{state}{summary.made} of {number_of(summary.rows, 'pictures')} made{before}, {summary.quarantined} failed"
    )


def _parts(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())


def _stage_lines(summary: Summary) -> Iterator[str]:
    yield _stage_text(stage_seconds(summary.out, summary.first_unit))


def _as_far_as_readable(out: str, lines: Iterator[str]) -> Iterator[str]:
    """Lines of what is read from a folder; where reading fails, one that says so takes the place of the rest."""
    try:
        yield from lines
    except (OSError, pa.ArrowException) as error:
        yield f"cannot be read ({_one_line(str(error))}): `wanbatch repair {shlex.quote(out)}` finds what is damaged"


def _stage_text(seconds: dict[str, float]) -> str:
    total = sum(seconds.values()) or 1.0
    return ", ".join(f"{name} {value:.2f} s ({value / total:.0%})" for name, value in seconds.items() if value > 0)


def _failure_lines(out: str, count: int) -> Iterator[str]:
    parts = open_parts(out, "failures")
    for failure in parts.head(FAILURES_SHOWN).to_pylist() if parts is not None else ():
        yield f"{failure['id']}: {failure['stage']}: {_one_line(failure['message'])}"
    if count > FAILURES_SHOWN:
        yield f"... all of them are in {out.rstrip('/')}/failures"


def _one_line(text: str, limit: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
