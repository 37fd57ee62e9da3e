"""The columns of creativity maps, a part of the one table of columns (`column_table.py`)."""

from __future__ import annotations

import pyarrow as pa

from wanbatch.manifests.column_types import BOXES, CREATIVITY, FLAG, IMAGE, SOFTNESS, Column, Given

MAP_COLUMNS: tuple[Column, ...] = (
    Column(
        "creativity_boxes",
        "boxes of the first source in which another creativity holds than `creativity`, which holds everywhere else; "
        "where boxes overlap the last one counts",
        Given(BOXES, "none"),
        pa.list_(pa.struct([("box", pa.list_(pa.float64())), ("creativity", pa.float64())])),
        pixels=True,
        since=5,
    ),
    Column(
        "creativity_map",
        "a picture in grey that says how much each place may change, from 0 (black) to 1 (white), instead of "
        "`creativity`; it has the shape of the first source",
        Given(IMAGE, "none"),
        pa.string(),
        pixels=True,
        since=5,
    ),
    Column(
        "keep_pixels",
        "whether the source's own pixels come back where the creativity of a box or a map is 0, or at most "
        "`keep_pixels_up_to`",
        Given(FLAG, "false"),
        pa.bool_(),
        pixels=True,
        since=5,
    ),
    Column(
        "map_softness",
        "by how many noise levels above its own creativity a place of a box or a map begins to follow what is around "
        "it, against visible edges; a creativity of 0 stays as it is",
        Given(SOFTNESS, "0"),
        pa.float64(),
        pixels=True,
        since=6,
    ),
    Column(
        "keep_pixels_up_to",
        "the creativity up to which `keep_pixels` puts the source's own pixels back",
        Given(CREATIVITY, "0"),
        pa.float64(),
        pixels=True,
        since=7,
    ),
)
