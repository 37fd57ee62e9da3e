"""The losses of a training as a picture that needs no other file."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT, MARGIN = 640, 260, 44


def loss_plot(losses: Sequence[float], title: str) -> str:
    """An SVG of losses, those of each step pale and their running mean over a fiftieth of them dark.

    Args:
        losses: Of each step; at least one.
        title: Above the picture.
    """
    smooth = _running_mean(losses, max(1, len(losses) // 50))
    low, high = min(smooth) * 0.9, max(smooth) * 1.1 + 1e-9
    across, down = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN

    def line(values: Sequence[float], colour: str, width: float) -> str:
        points = " ".join(
            f"{MARGIN + across * index / max(1, len(values) - 1):.1f},"
            f"{MARGIN + down * (1 - (min(max(value, low), high) - low) / (high - low)):.1f}"
            for index, value in enumerate(values)
        )
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>'

    step = max(1, len(losses) // across)
    frame = f'<rect x="{MARGIN}" y="{MARGIN}" width="{across}" height="{down}" fill="none" stroke="#999"/>'
    words = [
        (MARGIN, MARGIN - 12, "start", title),
        (MARGIN - 6, MARGIN + 10, "end", f"{high:.3g}"),
        (MARGIN - 6, HEIGHT - MARGIN, "end", f"{low:.3g}"),
        (MARGIN, HEIGHT - MARGIN + 18, "start", "step 1"),
        (WIDTH - MARGIN, HEIGHT - MARGIN + 18, "end", f"step {len(losses)}"),
    ]
    texts = "".join(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{said}</text>' for x, y, anchor, said in words)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{frame}'
        f"{line(losses[::step], '#bcd', 1)}{line(smooth[::step], '#036', 2)}{texts}</svg>\n"
    )


def _running_mean(values: Sequence[float], span: int) -> list[float]:
    means, total = [], 0.0
    for index, value in enumerate(values):
        total += value
        if index >= span:
            total -= values[index - span]
        means.append(total / min(index + 1, span))
    return means
