"""A small world of pictures: one shape on a patterned background, drawn with signed distance functions.

Small enough that a network of a few million parameters learns it in minutes and that a judge can read a picture
back without error; rich enough that prompts have something to say. A picture is six attributes and some free
play (place, size, angle, tint), drawn on any device, many at once.

Attributes are an int64 tensor `[B, 6]`; `evaluation/attributes.py` says what each column means.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wanbatch.pipeline.evaluation.attributes import COLOURS, FIELDS, NAMES

# sRGB in [0, 1]: vivid for the shape, softer for the background, and the pattern's tone.
_VIVID = ((222, 40, 48), (247, 134, 22), (252, 211, 30), (30, 160, 75), (30, 96, 225),
          (126, 58, 190), (245, 105, 168), (250, 250, 250), (28, 28, 34))  # fmt: skip
_SOFT = ((226, 112, 104), (250, 182, 116), (250, 232, 148), (150, 210, 152), (142, 192, 240),
         (178, 148, 224), (250, 202, 220), (242, 242, 244), (62, 62, 72))  # fmt: skip
_TONE = ((198, 82, 78), (236, 152, 76), (238, 208, 100), (112, 184, 120), (102, 160, 222),
         (146, 112, 202), (238, 168, 196), (208, 210, 218), (92, 92, 106))  # fmt: skip

_RADII = (0.155, 0.215, 0.29)  # of the shorter side
_PERIOD = 32.0  # pixels between two stripes, or two dots, or two dark checks of a row


def sample(count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Random attributes, int64 `[count, 6]`; the background never has the shape's colour."""
    columns = [
        torch.randint(len(names), (count,), generator=generator, device=generator.device) for names in NAMES.values()
    ]
    shift = torch.randint(1, len(COLOURS), (count,), generator=generator, device=generator.device)
    columns[4] = (columns[1] + shift) % len(COLOURS)
    return torch.stack(columns, dim=1).to(device)


def held_out(attributes: Tensor) -> Tensor:
    """Marks one combination in twenty, bool `[B]`: those that the denoiser is never trained on."""
    index = torch.zeros_like(attributes[:, 0])
    for column, names in enumerate(NAMES.values()):
        index = index * len(names) + attributes[:, column]
    return (index * 2654435761 % 2**32) // 65536 % 20 == 0


def describe(attributes: Tensor) -> list[dict[str, str]]:
    """Names for indices: `[B, 6]` to a list of `{field: name}`."""
    return [
        {field: NAMES[field][index] for field, index in zip(FIELDS, row, strict=True)} for row in attributes.tolist()
    ]


def render(attributes: Tensor, height: int = 128, width: int = 128, *, generator: torch.Generator) -> Tensor:
    """Draws pictures: attributes int64 `[B, 6]` to fp32 `[B, 3, height, width]` in [-1, 1].

    `generator` lives on the attributes' device; the free play of each picture comes from it.
    """
    device, count = attributes.device, len(attributes)
    jitter = torch.rand(count, 10, generator=generator, device=device) * 2 - 1
    shape, colour, size, place, background, texture = attributes.unbind(1)
    unit = min(height, width)

    y, x = torch.meshgrid(
        torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5, indexing="ij"
    )
    radius = torch.tensor(_RADII, device=device)[size] * unit * (1 + 0.04 * jitter[:, 0])
    centre_x, centre_y = _centres(place, radius, height, width, jitter)
    across, down = x - centre_x[:, None, None], y - centre_y[:, None, None]
    angle = 0.14 * jitter[:, 3]

    palette = torch.tensor([_VIVID, _SOFT, _TONE], device=device) / 255
    tint = 0.02 * jitter[:, 4:7, None, None]
    pattern = _pattern(texture, x, y)[:, None]
    soft, tone = (palette[row][background][:, :, None, None] for row in (1, 2))
    picture = (soft + (tone - soft) * pattern + 0.5 * tint) * (1.04 - 0.10 * y / height)

    # A soft shadow down right, then the shape with light from above.
    offset = 0.05 * unit
    shadow = _distance(shape, across - offset, down - offset, radius, angle)
    picture = picture * (1 - 0.32 * torch.sigmoid(-shadow / (0.014 * unit)))[:, None]
    inside = (0.5 - _distance(shape, across, down, radius, angle)).clamp(0, 1)[:, None]
    light = -0.10 * (down / radius[:, None, None]).clamp(-1, 1)[:, None]
    fill = palette[0][colour][:, :, None, None] + tint
    fill = torch.where(light > 0, fill + (1 - fill) * light, fill * (1 + light))
    fill = fill + 0.05 * light * (colour == COLOURS.index("black"))[:, None, None, None]
    return (picture + (fill - picture) * inside).clamp(0, 1) * 2 - 1


def _centres(place: Tensor, radius: Tensor, height: int, width: int, jitter: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel coordinates of the shapes' centres: as far out as the place says and the frame allows."""
    direction = torch.tensor([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)], device=place.device)[place]
    margin = 0.06 * min(height, width)
    coordinates = []
    for axis, length in enumerate((width, height)):
        reach = (length / 2 - radius - margin).clamp(max=0.27 * length)
        coordinates.append(length / 2 + direction[:, axis] * reach + 0.025 * min(height, width) * jitter[:, 1 + axis])
    return coordinates[0], coordinates[1]


def _pattern(texture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """How much of the second tone each pixel takes, `[B, H, W]` in [0, 1]."""
    half = _PERIOD / 2

    def wave(t: Tensor) -> Tensor:  # triangle wave: distance in pixels to the nearest edge, signed
        return (t.remainder(_PERIOD) - half).abs() - half / 2

    stripes = (0.5 + wave((x + y) / math.sqrt(2))).clamp(0, 1)
    column, row = (wave(t - half / 2).clamp(-0.5, 0.5) for t in (x, y))
    checks = 0.5 + 2 * column * row
    odd = ((y / half).floor() % 2) * half  # every other row of dots is shifted by half a period
    dot_x, dot_y = (x + odd).remainder(_PERIOD) - half, y.remainder(half) - half / 2
    dots = (0.5 + 4.6 - torch.hypot(dot_x, dot_y)).clamp(0, 1)
    return torch.stack([torch.zeros_like(x), stripes, dots, checks])[texture]


def _distance(shape: Tensor, across: Tensor, down: Tensor, radius: Tensor, angle: Tensor) -> Tensor:
    """Signed distance in pixels to each row's shape, negative inside, `[B, H, W]`."""
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    scale = radius[:, None, None]
    x, y = (cosine * across + sine * down) / scale, (sine * across - cosine * down) / scale  # y points up
    result = torch.empty_like(x)
    for index, function in enumerate(_FUNCTIONS):
        rows = (shape == index).nonzero()[:, 0]
        result[rows] = function(x[rows], y[rows])
    return result * scale


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float, corner: float = 0.0) -> Tensor:
    right, above = x.abs() - half_width + corner, y.abs() - half_height + corner
    outside = torch.hypot(right.clamp(min=0), above.clamp(min=0))
    return outside + torch.maximum(right, above).clamp(max=0) - corner


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.95


def _square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.84, 0.84, 0.08)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    """Equilateral, point up: the deepest of three half-planes."""
    y = y + 0.12
    return torch.maximum(math.sqrt(0.75) * x.abs() + 0.5 * y, -y) - 0.56


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Five points: folded into one tenth, where its outline is one straight edge."""
    outer, inner, tenth = 1.12, 0.52, math.pi / 5
    angle = torch.atan2(x, y).abs().remainder(2 * tenth)
    angle = torch.minimum(angle, 2 * tenth - angle)
    length = torch.hypot(x, y)
    edge_x, edge_y = inner * math.cos(tenth) - outer, inner * math.sin(tenth)
    normal = math.hypot(edge_x, edge_y)
    return ((length * angle.cos() - outer) * edge_y - length * angle.sin() * edge_x) / normal


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """A square on its corner with a half disc on each upper side."""
    half = 0.86
    x, y = x.abs(), y + 0.06
    corner = (x + y.abs() - half) / math.sqrt(2)
    return torch.minimum(corner, torch.hypot(x - half / 2, y - half / 2) - half / math.sqrt(2))


def _diamond(x: Tensor, y: Tensor) -> Tensor:
    """A rhombus, taller than wide, so that a turned square is not one."""
    wide, tall = 0.70, 1.10
    return (tall * x.abs() + wide * y.abs() - wide * tall) / math.hypot(wide, tall)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 0.95, 0.33, 0.05), _box(x, y, 0.33, 0.95, 0.05))


def _moon(x: Tensor, y: Tensor) -> Tensor:
    """A disc that another disc has bitten."""
    x = x - 0.12
    return torch.maximum(torch.hypot(x, y) - 1.0, 0.82 - torch.hypot(x - 0.52, y - 0.20))


_FUNCTIONS = (_circle, _square, _triangle, _star, _heart, _diamond, _cross, _moon)
