"""What `quality.py` found, as a table and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from quality_grid import BASE_STEPS, REFERENCE_STEPS, TASKS, TEXT

_BASE = f"unipc, {BASE_STEPS} steps"
_KINDS = {
    "unipc": ("tab:blue", "o"), "other samplers": ("tab:gray", "o"), "other schedules": ("tab:cyan", "D"),
    "DeepCache": ("tab:red", "s"), "extrapolating caches": ("tab:green", "^"), "gate alone": ("tab:purple", "v"),
    "bf16": ("tab:orange", "P"), "fp8": ("tab:brown", "X"),
}  # fmt: skip
TIMES = {
    "core_seconds": "seconds of the processor's cores for a picture",
    "seconds": "seconds of a picture",
    "pass_seconds": "seconds of a picture in one pass",
}


METRICS = ("psnr", "worst_psnr", "ssim", "lpips", "judge", "judge_all")


def times_of(found: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """The best of `TIMES` that all scored configurations have, and its values. Cores say nothing of a GPU."""
    rows = {name: row for name, row in found["results"].items() if "score" in row}
    which = [name for name in TIMES if name != "core_seconds" or found["device"] == "cpu"]
    kind = next(name for name in which if all(name in row for row in rows.values()))
    return kind, {name: row[kind] for name, row in rows.items()}


def table(found: dict[str, Any]) -> list[str]:
    """Markdown, task by task, the fewest blocks first; numbers in brackets are 95 % intervals.

    Times are left out where they were only taken in the pass that scores, in which nothing is done twice.
    """
    results, (kind, times) = found["results"], times_of(found)
    if _BASE not in times:
        return []
    metrics = [name for name in METRICS if results[_BASE]["score"][name] is not None]
    timed = kind != "pass_seconds"
    heads = ["", "task", "blocks", *(["s", "core s", "faster"] if timed else []), *metrics, "distance"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in sorted(times, key=lambda name: (TASKS.index(_task(results[name])), results[name]["blocks"])):
        row = results[name]
        cells = [name.removesuffix(f", {_task(row)}"), _task(row), f"{row['blocks'] / results[_BASE]['blocks']:.3f}"]
        if timed:
            cells += [f"{row['seconds']:.3f}" if "seconds" in row else ""]
            cells += [f"{row['core_seconds']:.3f}" if "core_seconds" in row else ""]
            cells += [f"{times[_BASE] / times[name]:.2f}"]
        cells += [_value(row, metric) for metric in metrics]
        cells += [_distance(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _value(row: dict[str, Any], metric: str) -> str:
    """A mean, with its interval where that is known and the metric is PSNR or all that the judge reads."""
    digits = {"psnr": 1, "worst_psnr": 1, "lpips": 4, "ssim": 4}.get(metric, 3)
    text = f"{row['score'][metric]:.{digits}f}"
    if metric not in ("psnr", "judge_all") or metric not in row.get("intervals", {}):
        return text
    low, high = row["intervals"][metric]
    return f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def _distance(row: dict[str, Any]) -> str:
    if "distance" not in row:
        return ""
    ends = row["intervals"].get("distance")
    return f"{row['distance']:.0f}" + (f" [{ends[0]:.0f}, {ends[1]:.0f}]" if ends else "")


def differences(found: dict[str, Any]) -> list[str]:
    """Markdown of what was compared picture by picture; blocks are those of the first over those of the second."""
    lines = ["| | against | blocks | PSNR | LPIPS | all right (judge) |", "|---" * 6 + "|"]
    for name, values in found["differences"].items():
        first, second = name.split(" against ")
        blocks = found["results"][first]["blocks"] / found["results"][second]["blocks"]
        digits = {"psnr": 2, "lpips": 4, "judge_all": 3}
        cells = [_signed(values[metric], places) if metric in values else "" for metric, places in digits.items()]
        lines.append("| " + " | ".join([first, second, f"{blocks:.2f}", *cells]) + " |")
    return lines


def _signed(values: list[float], digits: int) -> str:
    """A difference with its interval, in bold if that does not hold zero."""
    mean, low, high = values
    text = f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _task(row: dict[str, Any]) -> str:
    return row.get("task", TEXT)


def draw(found: dict[str, Any], path: Path) -> None:
    """Quality of text to image over the cost, with the line of those that nothing beats.

    Left is PSNR over the blocks that ran. Right is PSNR over time, or where times say little, because they are of one
    pass, what the judge reads over the blocks.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kind, times = times_of(found)
    rows = {name: found["results"][name] for name in times if _task(found["results"][name]) == TEXT}
    blocks = {name: row["blocks"] / rows[_BASE]["blocks"] for name, row in rows.items()}
    psnr = {name: row["score"]["psnr"] for name, row in rows.items()}
    read = {name: row["score"]["judge_all"] for name, row in rows.items()}
    of_blocks = f"blocks that ran, of those of {BASE_STEPS} steps"
    in_decibels = f"PSNR in dB against {REFERENCE_STEPS} steps"
    second = (times, psnr, f"{TIMES[kind]} ({found['hardware']})", in_decibels)
    if kind == "pass_seconds" and None not in read.values():
        second = (blocks, read, of_blocks, "part of the pictures that the judge reads right in everything")
    figure, both = pyplot.subplots(1, 2, figsize=(15, 8), layout="constrained")
    panels = list(zip(both, ((blocks, psnr, of_blocks, in_decibels), second), strict=True))
    for axes, (cost, quality, label, side) in panels:
        _scatter(axes, rows, cost, quality)
        axes.set(xlabel=label, ylabel=side)
        if quality is psnr:
            axes.axhline(30, c="0.6", lw=1, ls="--")
    both[1].legend(loc="lower right")
    figure.suptitle(f"{found['model']}, {found['prompts']} pictures from the same noise")
    figure.canvas.draw()  # the layout must be known before there can be room for labels
    figure.set_layout_engine("none")
    order = sorted(rows, key=lambda name: _rank(rows[name]))
    for axes, (cost, quality, *_) in panels:
        _label(axes, {name: (cost[name], quality[name]) for name in order})
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    click.echo(f"drawn on {path}")


def _scatter(axes: Any, rows: dict[str, Any], cost: dict[str, float], quality: dict[str, float]) -> None:
    """Points by kind, and the line of those that nothing beats, over the logarithm of the cost."""
    from matplotlib.ticker import NullLocator

    for kind, (colour, marker) in _KINDS.items():
        names = [name for name, row in rows.items() if _kind(row) == kind]
        if names:
            axes.scatter([cost[name] for name in names], [quality[name] for name in names],
                         c=colour, marker=marker, s=48, label=kind, zorder=3)  # fmt: skip
    best: list[str] = []
    for name in sorted(rows, key=lambda name: (cost[name], -quality[name])):
        if not best or quality[name] > quality[best[-1]]:
            best.append(name)
    axes.plot([cost[name] for name in best], [quality[name] for name in best], c="0.7", lw=1, zorder=1)
    axes.set(xscale="log")
    ticks = [digit * 10.0**power for power in range(-3, 3) for digit in (1, 1.5, 2, 3, 5, 7)]
    ticks = [tick for tick in ticks if min(cost.values()) * 0.9 < tick < max(cost.values()) * 1.1]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)


def _label(axes: Any, points: dict[str, tuple[float, float]]) -> None:
    """Names beside points, those first that come first, where they hide neither a point nor another name."""
    taken = [axes.transData.transform(point) for point in points.values()]
    boxes: list[Any] = []
    for name, point in points.items():
        for offset, align in (((6, -3), "left"), ((-6, -3), "right"), ((0, 7), "center"), ((0, -14), "center")):
            text = axes.annotate(
                _short(name), point, xytext=offset, textcoords="offset points", ha=align, fontsize=7.5, zorder=4
            )
            box = text.get_window_extent().padded(3)
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            if (
                inside
                and not any(box.overlaps(other) for other in boxes)
                and not any(box.contains(*at) for at in taken)
            ):
                boxes.append(box)
                break
            text.remove()


def _kind(row: dict[str, Any]) -> str:
    if row["precision"] != "fp32":
        return row["precision"]
    cache, _, gate = row["step_cache"].partition("+")
    if cache != "none":
        return "DeepCache" if cache.startswith("deepcache") else "extrapolating caches"
    if gate:
        return "gate alone"
    if row["schedule"] != "linear":
        return "other schedules"
    return "unipc" if row["sampler"] == "unipc" else "other samplers"


def _rank(row: dict[str, Any]) -> int:
    """Whose name is written first where there is not room for all."""
    first = ("DeepCache", "extrapolating caches", "unipc")
    kind = _kind(row)
    return first.index(kind) if kind in first else len(first)


def _short(name: str) -> str:
    """`unipc, 50 steps, taylor:interval=2` as `50 taylor 2`."""
    sampler, steps, *rest = name.replace(" steps", "").split(", ")
    words = [] if sampler == "unipc" else [sampler]
    text = " ".join([*words, steps, *rest])
    for before, after in (("interval=", ""), ("threshold=", ""), ("none+", ""), (",blocks=", "/"), (":", " ")):
        text = text.replace(before, after)
    return text
