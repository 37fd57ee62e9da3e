"""Draws `docs/architecture.svg`: the four folders, their wings, and which wing imports which.

The arrows are read from the source by grimp, so that the picture cannot be wrong; only the places of the boxes are
set by hand, below. `tests/house/test_drawing.py` fails when the picture is no longer what this script draws. To draw
it anew:

    python tests/house/draw_architecture.py
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

import networkx as nx
from cycles import import_graph, wing_graph

PICTURE = Path(__file__).parents[2] / "docs" / "architecture.svg"
WIDTH, HEIGHT = 1240, 676
BOX = (116, 38)  # width and height of a wing's box, in pixels
FOLDERS = {  # left, top, width, height
    "manifests": (20, 64, 290, 592),
    "jobs": (410, 64, 290, 592),
    "engines": (800, 64, 420, 66),
    "pipeline": (800, 146, 420, 510),
}
WINGS = {  # the middle of each box
    "manifests.sharing": (230, 150),
    "manifests.reading": (95, 190),
    "manifests.dataset": (230, 242),
    "manifests.sources": (95, 330),
    "manifests.adapter_words": (248, 370),
    "manifests.storage": (165, 440),
    "manifests.records": (230, 510),
    "manifests.columns": (100, 548),
    "manifests.column_table": (100, 588),
    "manifests.column_types": (100, 630),
    "manifests.sound_columns": (240, 551),
    "manifests.map_columns": (240, 591),
    "manifests.digital_source": (245, 634),
    "jobs.cli": (555, 112),
    "jobs.tuning": (485, 166),
    "jobs.benchmark": (625, 166),
    "jobs.doctor": (485, 214),
    "jobs.augment": (625, 214),
    "jobs.cluster": (485, 262),
    "jobs.schedule": (625, 262),
    "jobs.comparison": (485, 316),
    "jobs.driver": (625, 316),
    "jobs.training": (485, 440),
    "jobs.reporting": (485, 392),
    "jobs.worker": (625, 392),
    "jobs.planning": (555, 490),
    "jobs.config": (555, 596),
    "engines.engines": (1010, 98),
    "pipeline.training": (1140, 204),
    "pipeline.generate": (880, 204),
    "pipeline.first_uses": (1010, 222),
    "pipeline.evaluation": (1012, 286),
    "pipeline.adapters": (870, 286),
    "pipeline.sound": (1150, 286),
    "pipeline.loading": (870, 366),
    "pipeline.batching": (1000, 408),
    "pipeline.text": (1140, 366),
    "pipeline.core": (920, 490),
    "pipeline.sampling": (870, 596),
    "pipeline.models": (1120, 560),
}
NOTES = (
    "Each box is a wing: a folder, or a file that stands alone. An arrow goes from a wing to one that it imports;",
    "it is dashed where other arrows lead there as well. Files that are in wanbatch itself are left out.",
)
LEFT_OUT = {
    "wanbatch",
    "errors",
    "machine",
    "suggestions",
    "counting",
    *FOLDERS,
}  # every wing may use these; folders: no code
STYLE = """
  .page { fill: #ffffff } .folder { fill: #f3f4f6; stroke: #c3c7cf } .wing { fill: #ffffff; stroke-width: 1.5 }
  text { font: 14px system-ui, sans-serif; fill: #16181d; text-anchor: middle }
  .name { font-weight: 600; text-anchor: start } .note { font-size: 13px; fill: #565c69; text-anchor: start }
  path { fill: none; stroke: currentColor; stroke-width: 1.7 } marker path { fill: currentColor; stroke: none }
  .follows { stroke-width: 1; stroke-dasharray: 3 4; opacity: .55 }
  .manifests { color: #0b7a53; stroke: #0b7a53 } .jobs { color: #2457c5; stroke: #2457c5 }
  .pipeline { color: #b1480b; stroke: #b1480b } .engines { color: #7a3fb0; stroke: #7a3fb0 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #14171c } .folder { fill: #1d2128; stroke: #434a56 } .wing { fill: #14171c }
    text { fill: #eceef2 } .note { fill: #a5adba }
    .manifests { color: #4fd0a0; stroke: #4fd0a0 } .jobs { color: #86acff; stroke: #86acff }
    .pipeline { color: #ffa366; stroke: #ffa366 } .engines { color: #cda0f5; stroke: #cda0f5 }
  }
"""


def drawing(wings: nx.DiGraph) -> str:
    """Return the picture as SVG.

    Args:
        wings: The imports between wings by their short names, such as `jobs.driver`.

    Raises:
        ValueError: A wing has no place in `WINGS` yet.
    """
    if unplaced := sorted(set(wings) - set(WINGS)):
        raise ValueError(f"{', '.join(unplaced)}: give it a place in WINGS, in {Path(__file__).name}")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" aria-label="Which wing of wanbatch imports which">',
        "<!-- Drawn by tests/house/draw_architecture.py from the imports in the code. Do not edit. -->",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
        *(folder(name, wings) for name in FOLDERS),
        *(marker(name) for name in FOLDERS),
        *(
            arrow(importer, imported, follows(wings, importer, imported))
            for importer, imported in sorted(wings.edges)
        ),
        *(box(name) for name in sorted(wings)),
        *(f'<text class="note" x="20" y="{26 + 20 * line}">{text}</text>' for line, text in enumerate(NOTES)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def follows(wings: nx.DiGraph, importer: str, imported: str) -> bool:
    """Return whether other imports lead from the one wing to the other as well."""
    without = nx.restricted_view(wings, [], [(importer, imported)])
    return nx.has_path(without, importer, imported)


def folder(name: str, wings: nx.DiGraph) -> str:
    """Return the frame of a top-level folder with its name."""
    left, top, width, height = FOLDERS[name]
    empty = "" if any(wing.startswith(f"{name}.") for wing in wings) else ": no code yet"
    return (
        f'<rect class="folder" x="{left}" y="{top}" width="{width}" height="{height}" rx="10"/>'
        f'<text class="name" x="{left + 14}" y="{top + 26}">{name}/{empty}</text>'
    )


def box(wing: str) -> str:
    """Return the box of a wing."""
    (x, y), (width, height) = WINGS[wing], BOX
    folder, name = wing.split(".")
    left, top = x - width // 2, y - height // 2
    return (
        f'<rect class="wing {folder}" x="{left}" y="{top}" width="{width}" height="{height}" rx="7"/>'
        f'<text x="{x}" y="{y + 5}">{name}</text>'
    )


def marker(name: str) -> str:
    """Return the head of the arrows that come from a folder."""
    return (
        f'<marker id="{name}" class="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 8 4 0 8z"/></marker>'
    )


def arrow(importer: str, imported: str, follows: bool) -> str:
    """Return the arrow from a wing to one that it imports."""
    top = importer.split(".")[0]
    same = top == imported.split(".")[0]
    line = (downward if same else sideways)(WINGS[importer], WINGS[imported])
    kind = f"{top} follows" if follows else top
    title = escape(f"{importer} imports {imported}")
    return f'<path class="{kind}" d="{line}" marker-end="url(#{top})"><title>{title}</title></path>'


def sideways(start: tuple[int, int], end: tuple[int, int]) -> str:
    """Return a curve from the side of one box to the near side of another, in another folder."""
    (x, y), (to_x, to_y) = start, end
    way = 1 if to_x > x else -1
    x, to_x = x + way * BOX[0] // 2, to_x - way * BOX[0] // 2
    bend = (to_x - x) // 2
    return f"M{x} {y}C{x + bend} {y} {to_x - bend} {to_y} {to_x} {to_y}"


def downward(start: tuple[int, int], end: tuple[int, int]) -> str:
    """Return a curve from the lower edge of one box to the upper edge of another; upward, if the other is above."""
    (x, y), (to_x, to_y) = start, end
    way = 1 if to_y > y else -1
    y, to_y = y + way * BOX[1] // 2, to_y - way * BOX[1] // 2
    shift = (to_x - x) // 12
    x, to_x = x + shift, to_x - shift
    bend = (to_y - y) // 2
    return f"M{x} {y}C{x} {y + bend} {to_x} {to_y - bend} {to_x} {to_y}"


def wings_of_wanbatch() -> nx.DiGraph:
    """Return the imports between the wings by their short names, without what the picture leaves out."""
    wings = wing_graph(import_graph())
    short = nx.relabel_nodes(wings, {wing: short_name(wing) for wing in wings})
    short.remove_edges_from(list(nx.selfloop_edges(short)))
    return short.subgraph(set(short) - LEFT_OUT).copy()


def short_name(wing: str) -> str:
    """Return a wing's name in the picture. The files of `engines/`, which has no folders, are one box."""
    name = wing.removeprefix("wanbatch.")
    return "engines.engines" if name.startswith("engines.") else name


def main() -> int:
    """Draw the picture of the code as it is."""
    PICTURE.write_text(drawing(wings_of_wanbatch()), encoding="utf-8")
    print(f"Drawn: {PICTURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
