"""Notes on source images: what was done to one, or left out of it, that its user should know."""

from __future__ import annotations

FIRST_FRAME = "first_frame"
CONVERTED = "colours_converted"
PROFILE_UNUSED = "profile_not_used"
METADATA_SKIPPED = "metadata_skipped"
CLIPPED = "values_clipped"

WORDS = {
    FIRST_FRAME: "start from a source with several frames or pages: its first one is used",
    CONVERTED: "start from a source with a colour profile: its colours are converted to sRGB",
    PROFILE_UNUSED: "start from a source whose colour profile or colour tags cannot be used: it is taken for sRGB",
    METADATA_SKIPPED: "start from a source with metadata that is damaged or too large: it is left out",
    CLIPPED: "start from a source with values outside 0 to 1: they are clipped",
}
"""Each note's name, and what is said of the pictures that it concerns, after their number."""
