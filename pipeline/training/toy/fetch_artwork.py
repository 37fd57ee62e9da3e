"""Makes `artwork.webp`, the sheet of all sprites, from artwork that two npm packages publish.

    pip install wanbatch[artwork]
    python -m wanbatch.pipeline.training.toy.fetch_artwork

The packages are pinned by version and digest. Noto's emoji are Google's (Apache-2.0), Fluent's flat ones Microsoft's
(MIT); NOTICE says so, too.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image

from wanbatch.errors import UserError
from wanbatch.pipeline.evaluation.attributes import NOUNS
from wanbatch.pipeline.training.toy.artwork import COLUMNS, SHEET, SIDE

REGISTRY = "https://registry.npmjs.org/@iconify-json"
PACKAGES = {  # in the order of `STYLES`: name, version, SHA-256 of the package
    "noto": ("1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "fluent-emoji-flat": ("1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"),
}
ICONS = {
    "dog": "dog-face", "cat": "cat-face", "mouse": "mouse-face", "rabbit": "rabbit-face", "tiger": "tiger-face",
    "cow": "cow-face", "pig": "pig-face", "monkey": "monkey-face", "ladybug": "lady-beetle", "bee": "honeybee",
    "sheep": "ewe", "dinosaur": "sauropod", "apple": "red-apple", "orange": "tangerine", "corn": "ear-of-corn",
    "cheese": "cheese-wedge", "donut": "doughnut", "cake": "birthday-cake", "ice cream": "soft-ice-cream",
    "coffee": "hot-beverage", "tree": "deciduous-tree", "clover": "four-leaf-clover", "car": "automobile",
    "train": "locomotive", "soccer ball": "soccer-ball", "clock": "alarm-clock", "hat": "top-hat",
    "pumpkin": "jack-o-lantern", "snowman": "snowman-without-snow", "diamond": "gem-stone", "heart": "red-heart",
}  # fmt: skip
"""Names of icons where they differ from the noun's."""


def fetch_icons(package: str, version: str, sha256: str) -> dict[str, Any]:
    """The icons of a package as it was released. Raises UserError if the registry sends anything else."""
    url = f"{REGISTRY}/{package}/-/{package}-{version}.tgz"
    with urllib.request.urlopen(url, timeout=60) as response:
        data = response.read(32 << 20)
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise UserError(f"{url}: its SHA-256 is {found}, not {sha256}: this is not the artwork that was released")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.extractfile("package/icons.json")
        assert member is not None
        return json.load(member)


def draw_icon(icons: dict[str, Any], name: str, side: int) -> Image.Image:
    """One icon, RGBA, `side` pixels wide and high."""
    try:
        import resvg_py
    except ImportError as error:
        raise UserError("drawing icons needs resvg: pip install 'wanbatch[artwork]'") from error
    icon = icons["icons"][name]
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{side}" height="{side}">{icon["body"]}</svg>'
    )
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")


def draw_sheet() -> Image.Image:
    """Every noun in every style, row by row."""
    tiles = []
    for package, (version, sha256) in PACKAGES.items():
        icons = fetch_icons(package, version, sha256)
        tiles += [draw_icon(icons, ICONS.get(noun, noun), SIDE) for noun in NOUNS]
    sheet = Image.new("RGBA", (COLUMNS * SIDE, -(-len(tiles) // COLUMNS) * SIDE))
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % COLUMNS * SIDE, index // COLUMNS * SIDE))
    return sheet


def main(arguments: list[str] | None = None) -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(prog="wanbatch.pipeline.training.toy.fetch_artwork", description=__doc__)
    parser.add_argument("--out", type=Path, default=SHEET, help="file to write (default: %(default)s)")
    draw_sheet().save(parser.parse_args(arguments).out, lossless=True, quality=100, method=6)


if __name__ == "__main__":
    main()
