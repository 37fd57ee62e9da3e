"""A small world of pictures: one to three objects out of everyday nouns, on colours, textures and simple scenes.

Small enough that a network of a few million parameters learns it in half an hour and that a judge can read a picture
back without error; rich enough that prompts have something to say and that few steps show.

Attributes are an int64 tensor `[B, 9]`; `evaluation/attributes.py` says what each column means. Objects keep their
size in pixels whatever the picture's, and stand on a grid of 8 pixels: an autoencoder of stride 16 has then four
codes for an object of a size, which a small denoiser can learn sharply.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wanbatch.pipeline.evaluation.attributes import ALONE, COLOURS, FIELDS, LAYOUTS, NAMES, NOUNS, SCENES, SIZES
from wanbatch.pipeline.training.toy.artwork import sprites
from wanbatch.pipeline.training.toy.backdrops import draw_backdrops

OBJECT_SIZES = (40, 56, 88)  # pixels, of small, medium and large
GRID = 8
_COUNTS = (0.55, 0.37, 0.08)  # how often a picture has one, two, three objects
_SCENE_SHARE = 0.35
_NONE = len(NOUNS)
_SIDE, _STACK, _ROW = (LAYOUTS.index(name) for name in ("side by side", "stacked", "row"))
_SHADOW = 0.3


def sample(count: int, generator: torch.Generator, device: torch.device | str = "cpu", style: int = 0) -> Tensor:
    """Random attributes, int64 `[count, 9]`; the objects of a picture differ.

    Args:
        count: how many.
        generator: lives on the CPU.
        device: where the result is.
        style: index into `STYLES`; below 0: either.
    """

    def draw(high: int) -> Tensor:
        return torch.randint(high, (count,), generator=generator)

    objects = torch.multinomial(torch.tensor(_COUNTS), count, replacement=True, generator=generator) + 1
    first = draw(len(NOUNS))
    second = (first + 1 + draw(len(NOUNS) - 1)) % len(NOUNS)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    third = draw(len(NOUNS) - 2)
    third = third + (third >= low)
    third = third + (third >= high)
    two = torch.where(draw(2) > 0, _SIDE, _STACK)
    layout = torch.where(objects == 1, draw(len(ALONE)), torch.where(objects == 2, two, _ROW))
    size = torch.where(objects == 1, draw(3), torch.where(objects == 2, draw(2), 0))
    second_size = torch.where(objects == 1, len(SIZES), torch.where(objects == 2, draw(2), 0))
    scenic = torch.rand(count, generator=generator) < _SCENE_SHARE
    background = torch.where(scenic, len(COLOURS) + draw(len(SCENES)), draw(len(COLOURS)))
    columns = [
        first,
        torch.where(objects > 1, second, _NONE),
        torch.where(objects > 2, third, _NONE),
        layout,
        size,
        second_size,
        background,
        torch.where(scenic, 0, draw(len(NAMES["texture"]))),
        torch.full((count,), style) if style >= 0 else draw(len(NAMES["style"])),
    ]
    return torch.stack(columns, dim=1).to(device)


def held_out(attributes: Tensor) -> Tensor:
    """Marks one combination in twenty, bool `[B]`: those that the denoiser is never trained on."""
    index = torch.zeros_like(attributes[:, 0])
    for column, names in enumerate(NAMES.values()):
        index = (index * len(names) + attributes[:, column]) % 2**40
    return (index * 2654435761 % 2**32) // 65536 % 20 == 0


def describe(attributes: Tensor) -> list[dict[str, str]]:
    """Names for indices: `[B, 9]` to a list of `{field: name}`; what the judge could not read is "unreadable"."""
    return [
        {field: NAMES[field][index] if index >= 0 else "unreadable" for field, index in zip(FIELDS, row, strict=True)}
        for row in attributes.tolist()
    ]


def attributes_of(**names: str) -> Tensor:
    """One picture's attributes, int64 `[1, 9]`, by name; what is not named is plain, `emoji`, or not there."""
    given = {"second": "none", "third": "none", "second_size": "none", "texture": "plain", "style": "emoji"} | names
    return torch.tensor([[NAMES[field].index(given[field]) for field in FIELDS]])


def render(attributes: Tensor, height: int = 128, width: int = 128, *, generator: torch.Generator) -> Tensor:
    """Draws pictures: attributes int64 `[B, 9]` to fp32 `[B, 3, height, width]` in [-1, 1].

    `generator` lives on the attributes' device; the free play of each picture comes from it. A picture has at least
    128 pixels on each side.
    """
    device, count = attributes.device, len(attributes)
    jitter = torch.rand(count, 12, generator=generator, device=device) * 2 - 1
    background, texture = attributes[:, 6], attributes[:, 7]
    picture = draw_backdrops(background, texture, height, width, jitter[:, 8:])
    centres = _centres(attributes, height, width, jitter)
    present = torch.stack([torch.ones(count, dtype=torch.bool, device=device),
                           attributes[:, 1] != _NONE, attributes[:, 2] != _NONE], 1)  # fmt: skip
    sizes = torch.stack([attributes[:, 4], attributes[:, 5].clamp(max=2), torch.zeros_like(attributes[:, 4])], 1)
    for slot in range(3):
        for number, side in enumerate(OBJECT_SIZES):
            rows = (present[:, slot] & (sizes[:, slot] == number)).nonzero()[:, 0]
            if len(rows):
                pictures = sprites(side, str(device))[attributes[rows, 8], attributes[rows, slot]]
                _paste(picture, pictures, rows, centres[rows, slot], side)
    return picture.clamp(0, 1) * 2 - 1


def _paste(picture: Tensor, objects: Tensor, rows: Tensor, centres: Tensor, side: int) -> None:
    """Lays objects `[b, 4, side, side]` (premultiplied) with their soft shadows over some rows of a picture."""
    height, width = picture.shape[2:]
    margin = 8  # around an object, for its shadow
    corner = [((centres[:, axis] - side / 2) / GRID).round() * GRID for axis in (0, 1)]
    left, top = (c.clamp(0, (length - side) // GRID * GRID).long() for c, length in zip(corner, (width, height),
                                                                                      strict=True))  # fmt: skip
    padded = F.pad(objects, (margin, margin, margin, margin))
    shadow = F.avg_pool2d(padded[:, 3:].roll((3, 2), (2, 3)), 7, stride=1, padding=3)
    shade = F.avg_pool2d(shadow, 5, stride=1, padding=2) * _SHADOW
    span = torch.arange(side + 2 * margin, device=picture.device) - margin
    y, x = top[:, None] + span, left[:, None] + span
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    batch = rows[:, None, None]
    under = picture[batch, :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)
    over = under * (1 - shade)
    over = over * (1 - padded[:, 3:]) + padded[:, :3]
    where = inside.nonzero(as_tuple=True)
    picture[rows[where[0]], :, y[where[0], where[1]], x[where[0], where[2]]] = over.permute(0, 2, 3, 1)[where]


def _centres(attributes: Tensor, height: int, width: int, jitter: Tensor) -> Tensor:
    """Pixel coordinates (x, y) of the three objects' centres, fp32 `[B, 3, 2]`."""
    device = attributes.device
    sides = torch.tensor([*OBJECT_SIZES, 0], device=device, dtype=torch.float32)
    first, second = sides[attributes[:, 4]], sides[attributes[:, 5]]
    layout = attributes[:, 3]
    middle = torch.tensor([width / 2, height / 2], device=device)
    lengths = torch.tensor([width, height], device=device, dtype=torch.float32)
    centres = middle.expand(len(attributes), 3, 2).clone()

    direction = torch.tensor([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (0, 0), (0, 0), (0, 0)], device=device)[
        layout
    ]
    reach = torch.minimum((lengths - first[:, None]) / 2 - 4, 0.27 * lengths).clamp(min=0)
    centres[:, 0] += direction * reach
    alone = (layout < len(ALONE))[:, None]
    play = torch.where(first[:, None] > 80, 4.0, torch.where(direction == 0, 8.0, 6.0))
    centres[:, 0] += torch.where(alone, play * jitter[:, 0:2], 0)

    for number, axis in ((_SIDE, 0), (_STACK, 1)):
        rows = (layout == number).nonzero()[:, 0]
        gap = torch.maximum((first + second)[rows] / 2 + 8, torch.tensor(0.46 * lengths[axis].item(), device=device))
        across = (lengths[1 - axis].item() - 56) / 2
        for slot, sign in ((0, -1), (1, 1)):
            centres[rows, slot, axis] += sign * gap / 2 + 4 * jitter[rows, 2]
            centres[rows, slot, 1 - axis] += min(14.0, across) * jitter[rows, 3 + slot]
    rows = (layout == _ROW).nonzero()[:, 0]
    for slot, sign in enumerate((-1, 0, 1)):
        centres[rows, slot, 0] += sign * max(43.0, 0.28 * width)
        centres[rows, slot, 1] += 16 * jitter[rows, 5 + slot]
    return centres
