"""What `quality.py` found, as a table and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from quality_grid import BASE_STEPS, REFERENCE_STEPS

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


def times_of(found: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """The best of `TIMES` that all scored configurations have, and its values. Cores say nothing of a GPU."""
    rows = {name: row for name, row in found["results"].items() if "score" in row}
    which = [name for name in TIMES if name != "core_seconds" or found["device"] == "cpu"]
    kind = next(name for name in which if all(name in row for row in rows.values()))
    return kind, {name: row[kind] for name, row in rows.items()}


def table(found: dict[str, Any]) -> list[str]:
    """Markdown, the fewest blocks first."""
    results, (_, times) = found["results"], times_of(found)
    if _BASE not in times:
        return []
    base = results[_BASE]
    names = [name for name in ("psnr", "worst_psnr", "ssim", "lpips", "judge", "judge_all")
             if base["score"][name] is not None]  # fmt: skip
    lines = ["| | blocks | s | core s | faster | " + " | ".join(names) + " |", "|---" * (5 + len(names)) + "|"]
    for name in sorted(times, key=lambda name: results[name]["blocks"]):
        row = results[name]
        cells = [f"{row['score'][metric]:.4g}" for metric in names]
        blocks = f"{row['blocks'] / base['blocks']:.3f}"
        seconds = f"{row.get('seconds', row['pass_seconds']):.3f}"
        cores = f"{row['core_seconds']:.3f}" if "core_seconds" in row else ""
        faster = f"{times[_BASE] / times[name]:.2f}"
        lines.append(f"| {name} | {blocks} | {seconds} | {cores} | {faster} | " + " | ".join(cells) + " |")
    return lines


def draw(found: dict[str, Any], path: Path) -> None:
    """Quality over the blocks that ran and over time, each with the line of those that nothing beats."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullLocator

    kind, times = times_of(found)
    rows = {name: found["results"][name] for name in times}
    blocks = {name: row["blocks"] / rows[_BASE]["blocks"] for name, row in rows.items()}
    psnr = {name: row["score"]["psnr"] for name, row in rows.items()}
    figure, both = pyplot.subplots(1, 2, figsize=(15, 8), layout="constrained", sharey=True)
    labels = (f"blocks that ran, of those of {BASE_STEPS} steps", f"{TIMES[kind]} ({found['hardware']})")
    for axes, cost, label in zip(both, (blocks, times), labels, strict=True):
        for kind, (colour, marker) in _KINDS.items():
            names = [name for name, row in rows.items() if _kind(row) == kind]
            if names:
                axes.scatter([cost[name] for name in names], [psnr[name] for name in names],
                             c=colour, marker=marker, s=48, label=kind, zorder=3)  # fmt: skip
        best: list[str] = []
        for name in sorted(rows, key=lambda name: (cost[name], -psnr[name])):
            if not best or psnr[name] > psnr[best[-1]]:
                best.append(name)
        axes.plot([cost[name] for name in best], [psnr[name] for name in best], c="0.7", lw=1, zorder=1)
        axes.axhline(30, c="0.6", lw=1, ls="--")
        axes.set(xscale="log", xlabel=label)
        ticks = [digit * 10.0**power for power in range(-3, 3) for digit in (1, 1.5, 2, 3, 5, 7)]
        ticks = [tick for tick in ticks if min(cost.values()) * 0.9 < tick < max(cost.values()) * 1.1]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    both[0].set(ylabel=f"PSNR in dB against {REFERENCE_STEPS} steps")
    both[1].legend(loc="lower right")
    figure.suptitle(f"{found['model']}, {found['prompts']} pictures from the same noise")
    figure.canvas.draw()  # the layout must be known before there can be room for labels
    figure.set_layout_engine("none")
    for axes, cost in zip(both, (blocks, times), strict=True):
        _label(axes, {name: (cost[name], psnr[name]) for name in sorted(rows, key=lambda name: _rank(rows[name]))})
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    click.echo(f"drawn on {path}")


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
