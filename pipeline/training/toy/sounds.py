"""Sounds of the small world, synthesised: what is heard says what is seen.

The timbre is a kind of object, the pitch the colour of the background, the rhythm the size (small things are quick),
and the contour where the object is: falling is left, rising right, up and down the top, down and up the bottom.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wanbatch.pipeline.evaluation.attributes import ALONE, SIZES

RATE = 16_000
SECONDS = 2.0
TIMBRES = ("bird", "bee", "bell", "drum", "guitar", "cow", "frog", "train")
PITCHES = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
"""From low to high, three semitones apart."""

RHYTHMS = {"small": 8, "medium": 4, "large": 2}
"""How often a sound strikes in its two seconds."""

CONTOURS = ALONE
_LOWEST, _STEP, _GLIDE = 160.0, 3.0, 3.0  # hertz, semitones, semitones
NAMES = {"first": TIMBRES, "background": PITCHES, "size": SIZES, "layout": CONTOURS}
COMBINATIONS = len(TIMBRES) * len(PITCHES) * len(SIZES) * len(CONTOURS)


def names_of(index: int) -> dict[str, str]:
    """What a combination, from 0 to `COMBINATIONS` - 1, is a sound of."""
    names = {}
    for field, values in NAMES.items():
        index, rest = divmod(index, len(values))
        names[field] = values[rest]
    return names


def index_of(names: dict[str, str]) -> int:
    """The combination of some names; the inverse of `names_of`."""
    index = 0
    for field, values in reversed(NAMES.items()):
        index = index * len(values) + values.index(names[field])
    return index


def held_out(index: int) -> bool:
    """Whether a combination is one of the fifth that an adapter is never trained on."""
    return index * 2654435761 % 2**32 // 65536 % 5 == 0


def caption(index: int) -> str:
    """What a combination looks like, in words that the small model knows."""
    names = names_of(index)
    place = {"center": "in the center", "left": "on the left", "right": "on the right"}
    where = place.get(names["layout"], f"at the {names['layout']}")
    return f"a {names['size']} {names['first']} {where} on a plain {names['background']} background"


def synthesise(
    indices: Tensor,
    generator: torch.Generator,
    detuning: float = 0.5,
    noise: tuple[float, float] = (5.0, 30.0),
    clean: float = 0.0,
) -> Tensor:
    """Sounds of combinations: float32 [batch, RATE * SECONDS], the largest sample of each 0.9.

    Args:
        indices: int64 [batch], on the generator's device.
        generator: of the free play of each sound.
        detuning: by how many semitones a sound may be off, up or down.
        noise: the least and the most decibels of signal over noise; infinite for none.
        clean: share of the sounds that have none.
    """
    device, count = generator.device, len(indices)
    chosen, rest = {}, indices
    for field, values in NAMES.items():
        chosen[field], rest = rest % len(values), rest // len(values)

    def play(low: float = -1.0, high: float = 1.0) -> Tensor:
        return torch.rand(count, 1, generator=generator, device=device) * (high - low) + low

    time = torch.arange(round(RATE * SECONDS), device=device)[None] / RATE
    rate = torch.tensor(list(RHYTHMS.values()), device=device)[chosen["size"]][:, None] / SECONDS
    beat = (time + play(0, 0.25) / rate) * rate * (1 + 0.03 * play())
    within = beat - beat.floor()
    octaves = (chosen["background"][:, None] * _STEP + _contour(chosen["layout"], time) + detuning * play()) / 12
    frequency = _LOWEST * 2**octaves
    hiss = torch.randn(count, time.shape[1], generator=generator, device=device)
    sound = torch.zeros(count, time.shape[1], device=device)
    for number, timbre in enumerate(TIMBRES):
        rows = (chosen["first"] == number).nonzero()[:, 0]
        if len(rows):
            sound[rows] = _voice(timbre, frequency[rows], within[rows], time, hiss[rows])
    sound = sound / sound.square().mean(1, keepdim=True).sqrt()
    if math.isfinite(noise[0]):
        decibels = torch.where(play(0, 1) < clean, math.inf, play(*noise)) if clean else play(*noise)
        sound = sound + torch.randn(sound.shape, generator=generator, device=device) * 10 ** (-decibels / 20)
    return 0.9 * sound / sound.abs().amax(1, keepdim=True)


def mixed(louder: Tensor, quieter: Tensor, decibels: float | Tensor) -> Tensor:
    """Pairs of sounds at once: float32 [batch, samples], the largest sample of each 0.9.

    Args:
        louder, quieter: float32 [batch, samples] each.
        decibels: by how much the first is louder, one number or [batch, 1].
    """
    first, second = (sound / sound.square().mean(1, keepdim=True).sqrt() for sound in (louder, quieter))
    sound = first + second * 10 ** (torch.as_tensor(-decibels / 20, device=first.device))
    return 0.9 * sound / sound.abs().amax(1, keepdim=True)


def _contour(places: Tensor, time: Tensor) -> Tensor:
    """Semitones above the middle, [batch, samples]."""
    way = time / SECONDS
    arch = 1 - 2 * (2 * way - 1).abs()
    shapes = torch.cat([0 * way, 1 - 2 * way, 2 * way - 1, arch, -arch])
    return _GLIDE * shapes[places]


def _voice(timbre: str, frequency: Tensor, within: Tensor, time: Tensor, hiss: Tensor) -> Tensor:
    """A sound of one timbre. within: how far each moment is from a strike to the next, from 0 to 1."""
    phase = 2 * math.pi * torch.cumsum(frequency, 1) / RATE
    soft = torch.sin(math.pi * within).clamp_min(0)

    def harmonics(count: int, fall: float = 1.0, damp: float = 0.0) -> Tensor:
        parts = (torch.sin(k * phase) / k**fall * torch.exp(-damp * k * within) for k in range(1, count + 1))
        return torch.stack(list(parts)).sum(0)

    if timbre == "bird":
        swept = 2 * math.pi * torch.cumsum(4 * frequency * (1 + 0.4 * within), 1) / RATE
        return torch.sin(swept) * soft**2
    if timbre == "bee":
        return harmonics(12, 0.7) * (1 + 0.7 * torch.sin(2 * math.pi * 30 * time)) * (0.1 + soft)
    if timbre == "bell":
        parts = (torch.sin(ratio * phase) / ratio**0.5 for ratio in (1.0, 2.76, 5.4, 8.93))
        return torch.stack(list(parts)).sum(0) * torch.exp(-4 * within)
    if timbre == "drum":
        return torch.sin(phase / 2) * torch.exp(-6 * within) + 0.5 * hiss * torch.exp(-30 * within)
    if timbre == "guitar":
        return harmonics(8, 1.0, 0.8) * torch.exp(-2 * within)
    if timbre == "cow":
        return torch.tanh(3 * torch.sin(phase / 2) + torch.sin(phase)) * soft.sqrt()
    if timbre == "frog":
        return torch.tanh(4 * torch.sin(phase)) * (torch.sin(2 * math.pi * 18 * time) > 0) * (within < 0.6)
    chord = torch.sin(phase) + torch.sin(1.189 * phase) + torch.sin(1.498 * phase)
    return (chord + 0.3 * hiss) * (0.15 + (within < 0.7).float())
