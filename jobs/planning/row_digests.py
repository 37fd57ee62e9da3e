"""The digest of what an image asks for: another one means that its row changed since it was made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.manifests.column_types import FIRST_VERSION
from wanbatch.manifests.columns import COLUMNS

FIRST_DIGESTED = sorted([c.name for c in COLUMNS if c.pixels and c.since == FIRST_VERSION] + ["source_area"])
LATER_DIGESTED = [c.name for c in COLUMNS if c.pixels and c.since > FIRST_VERSION]


def row_digests(rows: pa.Table, images: pa.Table, adapters: Sequence[tuple] = (), hearing: str = "") -> list[str]:
    """BLAKE2b over each image's settings and the names and weights of its sources, hex.

    Args:
        rows: of the manifest (`arrow_rows.ROWS_SCHEMA`), blend groups merged.
        images: of the plan, one row each, with everything resolved; `row` is the index of its manifest row.
        adapters: of each image, what tells the files and weights of its adapters from others; empty: none has any.
        hearing: the digest of how sounds are heard; it is part of those of rows with a sound.

    Where a row stands in its manifest plays no part, and neither do the sources' bytes nor what size they give it.
    The columns of `FIRST_VERSION` come first and always; a later one only where it says something, so that it
    leaves the digests of rows that do not use it as they were.
    """
    sources = [[(source["path"], source["weight"]) for source in row or ()] for row in rows["sources"].to_pylist()]
    sounds = [("audio", audio and (audio["path"], hearing)) for audio in rows["audio"].to_pylist()]
    asked = {
        name: pc.if_else(pc.is_null(images["source_area"]), images[name], pa.scalar(None, pa.int32()))
        for name in ("width", "height")
    }
    first = [(asked[name] if name in asked else images[name]).to_pylist() for name in FIRST_DIGESTED]
    later = [[(name, value) for value in images[name].to_pylist()] for name in LATER_DIGESTED]
    later.append([("adapters", used or None) for used in adapters or [()] * len(images)])
    return [
        hashlib.blake2b(
            repr(_said(values[: len(first)], sources[row], [*values[len(first) :], sounds[row]])).encode(),
            digest_size=12,
        ).hexdigest()
        for row, *values in zip(images["row"].to_pylist(), *first, *later, strict=True)
    ]


def _said(first: Sequence[Any], sources: Sequence[tuple], later: Sequence[tuple[str, Any]]) -> tuple:
    return (*first, sources, *((name, value) for name, value in later if value is not None))
