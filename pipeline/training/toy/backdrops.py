"""What stands behind the objects of the small world: coloured textures, and five simple scenes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wanbatch.pipeline.evaluation.attributes import COLOURS, SCENES

RGB = tuple[int, int, int]

# sRGB: a background's colour, and its pattern's tone.
_SOFT = ((226, 100, 94), (250, 176, 104), (250, 228, 130), (146, 208, 148), (128, 184, 240), (172, 140, 222),
         (250, 192, 214), (246, 246, 248), (168, 172, 180), (58, 58, 68))  # fmt: skip
_TONE = ((196, 70, 68), (236, 146, 64), (236, 202, 84), (104, 180, 112), (88, 150, 220), (138, 102, 200),
         (236, 154, 188), (214, 216, 224), (138, 142, 152), (92, 92, 106))  # fmt: skip
_PERIOD = 32.0  # pixels between two stripes, or two dots, or two dark checks of a row


def draw_backdrops(background: Tensor, texture: Tensor, height: int, width: int, jitter: Tensor) -> Tensor:
    """Backdrops, fp32 `[B, 3, height, width]` in [0, 1].

    Args:
        background: int64 `[B]`, indices into `NAMES["background"]`.
        texture: int64 `[B]`, indices into `TEXTURES`; scenes are plain.
        height, width: pixels.
        jitter: `[B, 4]` in [-1, 1], the free play.
    """
    device = background.device
    y, x = torch.meshgrid(
        torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5, indexing="ij"
    )
    picture = torch.empty(len(background), 3, height, width, device=device)
    rows = (background < len(COLOURS)).nonzero()[:, 0]
    if len(rows):
        picture[rows] = _textures(background[rows], texture[rows], x, y, jitter[rows])
    for number, scene in enumerate(_SCENES.values(), len(COLOURS)):
        rows = (background == number).nonzero()[:, 0]
        if len(rows):
            picture[rows] = scene(x, y, jitter[rows][:, :, None, None])
    return picture


def _textures(background: Tensor, texture: Tensor, x: Tensor, y: Tensor, jitter: Tensor) -> Tensor:
    palette = torch.tensor([_SOFT, _TONE], device=x.device) / 255
    soft, tone = (palette[row][background][:, :, None, None] for row in (0, 1))
    moves = ((jitter[:, :2] + 1) * 2).floor().clamp(max=3) * 8  # patterns begin at multiples of 8 pixels
    return (soft + (tone - soft) * _patterns(texture, x, y, moves)[:, None]) * (1.03 - 0.08 * y / y.shape[0])


def _patterns(texture: Tensor, x: Tensor, y: Tensor, moves: Tensor) -> Tensor:
    """The pattern of each picture, `[B, H, W]`; every pattern at every beginning is drawn once."""
    starts = [(8.0 * i, 8.0 * j) for i in range(4) for j in range(4)]
    drawn = torch.stack([torch.stack([_pattern(kind, x + dx, y + dy) for dx, dy in starts]) for kind in range(4)])
    return drawn[texture, (moves[:, 0] / 8 * 4 + moves[:, 1] / 8).long()]


def _pattern(kind: int, x: Tensor, y: Tensor) -> Tensor:
    """How much of the second tone each pixel takes, `[H, W]` in [0, 1]."""
    half = _PERIOD / 2
    if kind == 0:
        return torch.zeros_like(x)
    if kind == 1:
        return (0.5 + _wave((x + y) / math.sqrt(2), _PERIOD / math.sqrt(2))).clamp(0, 1)
    if kind == 2:
        odd = ((y / half).floor() % 2) * half  # every other row of dots is shifted by half a period
        dot_x, dot_y = (x + odd).remainder(_PERIOD) - half, y.remainder(half) - half / 2
        return (0.5 + 4.6 - torch.hypot(dot_x, dot_y)).clamp(0, 1)
    column, row = (_wave(t - half / 2, _PERIOD).clamp(-0.5, 0.5) for t in (x, y))
    return 0.5 + 2 * column * row


def _wave(t: Tensor, period: float) -> Tensor:
    """A triangle wave: the signed distance in pixels to the nearest edge."""
    return (t.remainder(period) - period / 2).abs() - period / 4


def _mix(share: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return first + (second - first) * share


def _rgb(*values: int) -> Tensor:
    return torch.tensor(values)[:, None, None] / 255


def _gradient(share: Tensor, first: RGB, second: RGB) -> Tensor:
    """`[..., H, W]` in [0, 1] to colours `[..., 3, H, W]` between two."""
    return _mix(share.clamp(0, 1), *(_rgb(*colour).to(share.device) for colour in (first, second)))


def _hills(x: Tensor, y: Tensor, level: Tensor, swing: float, length: float, phase: Tensor) -> Tensor:
    """Soft mask `[B, 1, H, W]` of what is below a wavy line; level: `[B, 1, 1, 1]`, a share of the height."""
    line = level * y.shape[0] + swing * torch.sin(x / length + phase * math.pi)
    return (y - line + 0.5).clamp(0, 1)


def _sky(y: Tensor, top: RGB, bottom: RGB) -> Tensor:
    return _gradient((y / (0.7 * y.shape[0]))[None, None], top, bottom)


@dataclass(frozen=True, slots=True)
class _Ridges:
    """A landscape of a sky and two ridges.

    Attributes:
        sky, far, near: the colours of each, from top to bottom.
        lift: how much higher the far ridge is, a share of the height.
        swings: pixels of the far and the near ridge's waves.
        lengths: pixels, for a phase of 1, of the same.
    """

    sky: tuple[RGB, RGB]
    far: tuple[RGB, RGB]
    near: tuple[RGB, RGB]
    lift: float
    swings: tuple[float, float]
    lengths: tuple[float, float]

    def __call__(self, x: Tensor, y: Tensor, jitter: Tensor) -> Tensor:
        level = 0.60 + 0.06 * jitter[:, :1]
        share = (y / y.shape[0])[None, None]
        far, near = (_gradient(share, *colours) for colours in (self.far, self.near))
        behind = _hills(x, y, level - self.lift, self.swings[0], self.lengths[0], jitter[:, 1:2])
        before = _hills(x, y, level, self.swings[1], self.lengths[1], jitter[:, 2:3])
        return _mix(before, _mix(behind, _sky(y, *self.sky), far), near)


_MEADOW = _Ridges(
    sky=((126, 196, 246), (214, 238, 252)),
    far=((150, 214, 120), (120, 196, 96)),
    near=((128, 200, 88), (78, 164, 62)),
    lift=0.08,
    swings=(5, 4),
    lengths=(19, 27),
)
_SNOW = _Ridges(
    sky=((150, 178, 214), (206, 222, 240)),
    far=((206, 222, 240), (214, 228, 244)),
    near=((250, 252, 255), (228, 238, 250)),
    lift=0.10,
    swings=(6, 4),
    lengths=(17, 29),
)
_DESERT = _Ridges(
    sky=((250, 176, 110), (254, 226, 170)),
    far=((236, 170, 96), (226, 152, 80)),
    near=((224, 146, 70), (196, 112, 52)),
    lift=0.09,
    swings=(7, 6),
    lengths=(23, 31),
)


def _beach(x: Tensor, y: Tensor, jitter: Tensor) -> Tensor:
    level = 0.66 + 0.05 * jitter[:, :1]
    share = (y / y.shape[0])[None, None]
    sea = _gradient((share - 0.4) * 3, (58, 150, 206), (88, 200, 214))
    sand = _gradient((share - 0.6) * 2.5, (246, 224, 172), (232, 200, 138))
    flat = torch.zeros_like(level)
    picture = _mix(_hills(x, y, flat + 0.42, 0, 1, flat), _sky(y, (134, 206, 250), (232, 246, 252)), sea)
    foam = _mix(_hills(x, y, level - 0.03, 2.5, 11, jitter[:, 1:2]), picture, _rgb(250, 252, 252).to(x.device))
    return _mix(_hills(x, y, level, 2.5, 11, jitter[:, 1:2]), foam, sand)


def _night(x: Tensor, y: Tensor, jitter: Tensor) -> Tensor:
    """Stars stand at fixed places of a pattern that begins at multiples of 8 pixels, as textures do."""
    share = (y / y.shape[0])[None, None]
    picture = _gradient(share * 1.1, (14, 18, 58), (62, 58, 124))
    moves = ((jitter[:, :2] + 1) * 4).floor().clamp(max=7) * 8
    stars = torch.zeros_like(jitter[:, :1] * x)
    for number, (left, top) in enumerate(((7, 11), (38, 27), (21, 52), (55, 45), (50, 6))):
        dx = (x - left - moves[:, :1] + 32).remainder(64) - 32
        dy = (y - top - moves[:, 1:2] + 32).remainder(64) - 32
        radius = 1.9 if number % 2 else 1.3
        stars = torch.maximum(stars, (0.5 + radius - torch.hypot(dx, dy)).clamp(0, 1))
    sky = _mix(stars, picture, _rgb(255, 250, 220).to(x.device))
    level = 0.80 + 0.04 * jitter[:, 2:3]
    return _mix(_hills(x, y, level, 4, 23, jitter[:, 3:4]), sky, _gradient(share, (24, 26, 54), (18, 20, 44)))


_DRAWINGS: tuple[Callable[[Tensor, Tensor, Tensor], Tensor], ...] = (_MEADOW, _beach, _SNOW, _DESERT, _night)
_SCENES = dict(zip(SCENES, _DRAWINGS, strict=True))
