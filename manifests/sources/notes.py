"""Notes on source images: what was done to one, or left out of it, that its user should know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FIRST_FRAME = "first_frame"
CONVERTED = "colours_converted"
PROFILE_UNUSED = "profile_not_used"
METADATA_SKIPPED = "metadata_skipped"
CLIPPED = "values_clipped"
MAP_PART_SMALL = "map_part_small"

WORDS = {
    FIRST_FRAME: "with several frames or pages, of which the first is used",
    CONVERTED: "with a colour profile, by which its colours are converted to sRGB",
    PROFILE_UNUSED: "whose colour profile or colour tags cannot be used, so that it is taken for sRGB",
    METADATA_SKIPPED: "with metadata that is damaged or too large, and is left out",
    CLIPPED: "with values outside 0 to 1, which are clipped",
    MAP_PART_SMALL: "whose part of the highest creativity holds no whole place of the latent (8 to 16 pixels), "
    "so that it changed less: make it larger",
}
"""Each note's name, and what is said of such a source."""


@dataclass(frozen=True, slots=True)
class NotedImages:
    """The images that a note concerns.

    Attributes:
        images: how many there are.
        example: the name of a source that it is about.
    """

    images: int
    example: str


def noted_sources(notes: Mapping[str, frozenset[str]]) -> dict[str, tuple[int, str]]:
    """How many sources each note concerns, and the first of them.

    Args:
        notes: of each source, by its name.
    """
    found: dict[str, tuple[int, str]] = {}
    for source, its in notes.items():
        for name in its:
            count, first = found.get(name, (0, source))
            found[name] = count + 1, first
    return {name: found[name] for name in WORDS if name in found}


def added(notes: Mapping[str, NotedImages], more: Mapping[str, NotedImages]) -> dict[str, NotedImages]:
    """The sum of notes, by name; the first example of each stays."""
    total = dict(notes)
    for name, noted in more.items():
        known = total.get(name)
        total[name] = noted if known is None else NotedImages(known.images + noted.images, known.example)
    return total
