"""Mistakes in creativity maps and what their messages offer; as `remedy_cases.py`."""

from __future__ import annotations

from command_line import GOOD
from remedy_cases import A, Case, row

BOXES = [{"box": [0, 0, 8, 8], "creativity": 0}]

MAP_CASES: dict[str, Case] = {
    "boxes without a source": Case(
        [{**GOOD, "creativity_boxes": BOXES}],
        (),
        r"has creativity_boxes but there is no source image: give an image, or drop creativity_boxes",
        [row({**A, "creativity_boxes": BOXES}), row(GOOD)],
    ),
    "boxes and a map": Case(
        [{**A, "creativity_boxes": BOXES, "creativity_map": "a.png"}],
        (),
        r"has both creativity_boxes and creativity_map: draw the boxes into the map, or drop one of the two",
        [row({**A, "creativity_boxes": BOXES}), row({**A, "creativity_map": "a.png"})],
    ),
    "a map and creativity": Case(
        [{**A, "creativity_map": "a.png", "creativity": 0.9}],
        (),
        r"has both creativity_map and creativity: .*; drop creativity",
        [row({**A, "creativity_map": "a.png"})],
    ),
    "kept pixels of nothing": Case(
        [{**A, "keep_pixels": True}],
        (),
        r"neither creativity_boxes nor creativity_map: give one of them, or drop it",
        [
            row({**A, "keep_pixels": True, "creativity_boxes": BOXES}),
            row({**A, "keep_pixels": True, "creativity_map": "a.png"}),
            row(A),
        ],
    ),
    "kept pixels up to some creativity, without keep_pixels": Case(
        [{**A, "creativity_boxes": BOXES, "keep_pixels_up_to": 0.2}],
        (),
        r"has keep_pixels_up_to but keep_pixels is not true: set it, or drop keep_pixels_up_to",
        [
            row({**A, "creativity_boxes": BOXES, "keep_pixels_up_to": 0.2, "keep_pixels": True}),
            row({**A, "creativity_boxes": BOXES}),
        ],
    ),
    "all pixels kept": Case(
        [{**A, "creativity": 0.5, "creativity_boxes": BOXES, "keep_pixels": True, "keep_pixels_up_to": 0.5}],
        (),
        r"so all of it would be the source: lower it, or raise a creativity",
        [
            row({**A, "creativity": 0.5, "creativity_boxes": BOXES, "keep_pixels": True, "keep_pixels_up_to": 0.4}),
            row({**A, "creativity": 0.6, "creativity_boxes": BOXES, "keep_pixels": True, "keep_pixels_up_to": 0.5}),
        ],
    ),
    "a softness of nothing": Case(
        [{**A, "map_softness": 0.2}],
        (),
        r"has map_softness but neither creativity_boxes nor creativity_map: give one of them, or drop it",
        [row({**A, "map_softness": 0.2, "creativity_boxes": BOXES}), row(A)],
    ),
    "a box without a width": Case(
        [{**A, "creativity_boxes": [{"box": [0, 0, 0, 8], "creativity": 0}]}],
        (),
        r"its width and height must be above (0)",
        [lambda match: ([{**A, "creativity_boxes": [{"box": [0, 0, int(match[1]) + 1, 8], "creativity": 0}]}], ())],
    ),
    "a box over the edge": Case(
        [{**A, "creativity_boxes": [{"box": [0.5, 0, 0.75, 1], "creativity": 0}]}],
        (),
        r"shares of the source that reach over its edge; cut it",
        [row({**A, "creativity_boxes": [{"box": [0.5, 0, 0.5, 1], "creativity": 0}]})],
    ),
}
