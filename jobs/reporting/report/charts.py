"""Figures as drawings and as text: curves for inline SVG, shares that add up to 100, durations, bytes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 120
"""Units of a curve's drawing, which is scaled to the page."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve to draw.

    Attributes:
        line: its path.
        area: the path of what is under it.
        top: the value at the upper edge.
        starts: where, from the left, runs begin; the first one is left out.
        width, height: of the drawing.
    """

    line: str
    area: str
    top: float
    starts: Sequence[float]
    width: int = WIDTH
    height: int = HEIGHT


def curve(values: Sequence[float], starts: Sequence[float] = (), stepped: bool = False) -> Curve:
    """A curve from 0 upwards.

    Args:
        values: at equal distances.
        starts: where runs begin, as shares of the whole.
        stepped: values hold until the next one, as counts do.
    """
    top = max(values) or 1.0
    step = WIDTH / len(values)
    points: list[tuple[float, float]] = []
    for index, value in enumerate(values):
        height = HEIGHT - value / top * (HEIGHT - 4)
        points += (
            [(index * step, height), ((index + 1) * step, height)] if stepped else [((index + 0.5) * step, height)]
        )
    line = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    area = f"{line} L{points[-1][0]:.1f} {HEIGHT} L{points[0][0]:.1f} {HEIGHT} Z"
    return Curve(line, area, top, [round(start * WIDTH, 1) for start in starts[1:]])


def shares(values: Mapping[str, float], digits: int = 0) -> dict[str, float]:
    """Percentages that add up to 100: the largest remainders are rounded up."""
    total = sum(values.values())
    if total <= 0:
        return dict.fromkeys(values, 0.0)
    scale = 10**digits
    exact = {name: value / total * 100 * scale for name, value in values.items()}
    floored = {name: int(value) for name, value in exact.items()}
    left = 100 * scale - sum(floored.values())
    for name in sorted(exact, key=lambda name: floored[name] - exact[name])[:left]:
        floored[name] += 1
    return {name: value / scale for name, value in floored.items()}


def duration(seconds: float) -> str:
    """Seconds as people say them: `42.1 s`, `3 min 20 s`, `5 h 12 min`, `2 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def number(value: float | int | None) -> str:
    """A number with thousands apart, and no more digits than say something."""
    if value is None:
        return "–"
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
