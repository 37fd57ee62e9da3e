"""The objects' artwork: sprites of each noun in each style, out of one picture that ships with the package.

`fetch_artwork.py` makes that picture from the published artwork; NOTICE names the authors and licences.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from wanbatch.pipeline.evaluation.attributes import NOUNS, STYLES

SHEET = Path(__file__).with_name("artwork.webp")
SIDE = 88  # pixels of a sprite on the sheet
COLUMNS = 16


@lru_cache(maxsize=8)
def sprites(side: int, device: str = "cpu") -> Tensor:
    """All sprites at a size, fp32 `[styles, nouns, 4, side, side]` in [0, 1]: RGB multiplied by alpha, and alpha."""
    sheet = torch.from_numpy(np.asarray(Image.open(SHEET).convert("RGBA")).copy()).float() / 255
    rows = sheet.shape[0] // SIDE
    tiles = sheet.reshape(rows, SIDE, COLUMNS, SIDE, 4).permute(0, 2, 4, 1, 3).reshape(-1, 4, SIDE, SIDE)
    tiles = tiles[: len(STYLES) * len(NOUNS)]
    tiles = torch.cat([tiles[:, :3] * tiles[:, 3:], tiles[:, 3:]], 1)
    if side != SIDE:
        tiles = F.interpolate(tiles, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return tiles.reshape(len(STYLES), len(NOUNS), 4, side, side).to(device)
