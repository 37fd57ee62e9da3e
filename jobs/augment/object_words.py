"""How large the one object of a picture is and where it stands, as words for templates. Pure."""

from __future__ import annotations

from wanbatch.jobs.augment.originals import Box, Original

OBJECT_NAMES = ("object_size", "object_place")
"""What templates may name of pictures with one box."""

SMALL, LARGE = 0.36, 0.56  # of the picture's shorter side, that the box's longer one is below, or from
CENTRED = 0.08  # of the picture's width or height, that the middle of the box is at most off


def object_words(original: Original) -> dict[str, str]:
    """The words for a picture's one object; none if it has no box or several."""
    if original.boxes is None or len(original.boxes) != 1:
        return {}
    (box,) = original.boxes
    return words_of(box, original.width, original.height)


def words_of(box: Box, width: int, height: int) -> dict[str, str]:
    """The words for one object.

    Args:
        box: of the object.
        width, height: of its picture, in pixels.
    """
    longer = max(box.width * width, box.height * height) / min(width, height)
    size = "small" if longer < SMALL else "medium" if longer < LARGE else "large"
    right, down = box.left + box.width / 2 - 0.5, box.top + box.height / 2 - 0.5
    if max(abs(right), abs(down)) <= CENTRED:
        place = "in the center"
    elif abs(right) >= abs(down):
        place = "on the left" if right < 0 else "on the right"
    else:
        place = "at the top" if down < 0 else "at the bottom"
    return {"object_size": size, "object_place": place}
