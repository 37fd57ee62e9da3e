"""Remedies for recipes that keep objects of their pictures, and for datasets that have too little of them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from job_making import picture
from remedy_scenes import At, scene
from scenes_recipes import mistakes, recipe

SIZES = "[settings]\nwidth = 64\nheight = 64\n"
TRIANGLE = [[10, 10, 40, 10, 10, 40]]
RUNS = {"size": [64, 64], "counts": [640, 20, 64 * 64 - 660]}
START = 'dataset = "set"\ntemplate = "a disc"\n'


def coco(at: At, segmentation: object = None) -> None:
    """A dataset in COCO's form with one picture and one object."""
    picture(at.write("set/0.png", b""), 64, 64)
    one = {"image_id": 0, "category_id": 1, "bbox": [8, 16, 32, 24]}
    table = {
        "images": [{"id": 0, "file_name": "0.png"}],
        "categories": [{"id": 1, "name": "disc"}],
        "annotations": [one if segmentation is None else {**one, "segmentation": segmentation}],
    }
    at.write("set/annotations.json", json.dumps(table))


def objects(keys: str, start: str = START, more: str = SIZES) -> str:
    """A recipe with these keys in its [objects]."""
    return f"{start}[objects]\n{keys}\n{more}"


@scene
def keys_of_objects(at: At) -> Iterator[str]:
    coco(at)
    good = objects('keep = "boxes"\naround = 0.7')
    yield from mistakes(
        at,
        {
            objects('keep = "boxes"\naround = 0.2\ninside = 0.2\nkeep_pixels = true'): [
                objects('keep = "boxes"\naround = 0.2\ninside = 0.1\nkeep_pixels = true'),
                objects('keep = "boxes"\naround = 0.7\ninside = 0.2\nkeep_pixels = true'),
                objects('keep = "boxes"\naround = 0.2\ninside = 0.2\nkeep_pixels = false'),
            ],
            f'{START}creativity = 0.7\nkeep = "boxes"\n{SIZES}': [good],
            objects('keep = "boxes"\naround = 0.7', START + "creativity = 0.5\n"): [
                good,
                objects('keep = "boxes"', START + "creativity = 0.5\n"),
            ],
            objects('keep = "boxes"\naround = 0.7', more=SIZES + "[blend]\nshare = 0.5\n"): [
                good,
                f"{START}creativity = 0.7\nannotations_below = 0\n[blend]\nshare = 0.5\n",
            ],
            f"{START}creativity = 0.7\n{SIZES}map_softness = 0.1\n": [
                objects('keep = "boxes"\naround = 0.7\nsoftness = 0.1')
            ],
            objects('keep = "masks"\naround = 0.7'): [good],
        },
    )


@scene
def masks_of_objects(at: At) -> Iterator[str]:
    masks = objects('keep = "masks"\naround = 0.7')
    at.write("recipe.toml", masks)
    for wrong in ([[1, 2]], {**RUNS, "size": [32, 32], "counts": [1024]}):
        coco(at, wrong)
        yield at.refused("augment", "recipe.toml")
    for good in (TRIANGLE, RUNS):
        coco(at, good)
        recipe(at, masks)


@scene
def columns_of_objects(at: At) -> Iterator[str]:
    picture(at.write("set/m/right.png", b""), 64, 64)
    picture(at.write("set/m/small.png", b""), 32, 32)
    picture(at.write("set/0.png", b""), 64, 64)
    row = {"image": "0.png", "label": "disc", "found": [[8, 16, 32, 24]]}
    start = START.replace('"set"', '"set/rows.jsonl"')
    for keep, column in (("boxes", "found"), ("masks", "shape")):
        at.rows({**row, "shape": "m/right.png"}, name="set/rows.jsonl")
        at.write("recipe.toml", objects(f'keep = "{keep}"\naround = 0.7', start))
        yield at.refused("augment", "recipe.toml")
        named = f'columns = {{ {keep.removesuffix("s") if keep == "masks" else keep} = "{column}" }}\n'
        recipe(at, objects(f'keep = "{keep}"\naround = 0.7', start + named))
    at.rows({**row, "shape": "m/small.png"}, name="set/rows.jsonl")
    yield at.refused("augment", "recipe.toml", "--out", "other.jsonl")
    at.rows({**row, "shape": "m/right.png"}, name="set/rows.jsonl")
    at.works("augment", "recipe.toml", "--out", "other.jsonl")


@scene
def maps_of_a_blend_group(at: At) -> Iterator[str]:
    grey = (at.folder / "a.png").read_bytes()
    two = [
        {"image": name, "blend_group": "g", "creativity_map": {"bytes": grey, "path": None}}
        for name in ("a.png", "b.png")
    ]
    pq.write_table(pa.Table.from_pylist(two), "m.parquet")
    yield at.refused("plan", "m.parquet")
    two[1]["creativity_map"] = None
    pq.write_table(pa.Table.from_pylist(two), "m.parquet")
    at.works("plan", "m.parquet")
