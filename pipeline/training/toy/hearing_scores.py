"""What the judge reads in pictures of the small model that were made from sounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wanbatch.pipeline.core.conditioning import to_pixels
from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.core.requests import Failed, Request, Result, SourceImage
from wanbatch.pipeline.evaluation.attributes import FIELDS
from wanbatch.pipeline.evaluation.attributes import NAMES as ATTRIBUTES
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import find
from wanbatch.pipeline.sound.adapter import SoundAdapter
from wanbatch.pipeline.training.sound.noises import noises
from wanbatch.pipeline.training.sound.teacher import Teacher
from wanbatch.pipeline.training.toy import sounds
from wanbatch.pipeline.training.toy.scores import Scores, Studio

STEPS, GUIDANCE, SIZE, AT_ONCE = 20, 2.0, 128, 64
CREATIVITIES = (0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """Who makes pictures, and of which held-out combinations."""

    studio: Studio
    teacher: Teacher
    adapter: SoundAdapter
    indices: list[int]

    @property
    def chosen(self) -> Tensor:
        return torch.tensor(self.indices, device=self.studio.device)

    def sounds(self, rows: Tensor, decibels: float, seed: int = 5) -> Tensor:
        generator = torch.Generator(self.studio.device).manual_seed(seed)
        return sounds.synthesise(rows, generator, noise=(decibels, decibels))

    def texts(self, given: Tensor) -> list[Tensor]:
        """The empty prompt and the tokens of each sound."""
        return [torch.cat([self.teacher.empty, one]) for one in self.adapter(given)]

    def pictures(self, texts: list[Tensor]) -> Tensor:
        parts = range(0, len(texts), AT_ONCE)
        return torch.cat([generate(self.studio, self.teacher, texts[at : at + AT_ONCE], 100 + at) for at in parts])

    def judged(self, texts: list[Tensor]) -> Scores:
        return judged(self.studio, self.pictures(texts), self.indices)


@torch.no_grad()
def generate(studio: Studio, teacher: Teacher, texts: list[Tensor], seed: int) -> Tensor:
    """Pictures [batch, 3, SIZE, SIZE] in [-1, 1] of what the text attention is given, [tokens, dim] each."""
    longest = max(len(text) for text in texts)
    padded = torch.stack([F.pad(text, (0, 0, 0, longest - len(text))) for text in texts])
    lengths = torch.tensor([len(text) for text in texts], device=studio.device)
    asked = studio.dit.context(padded, lengths, TEXT_TOKENS)
    empty = teacher.empty.expand(len(texts), -1, -1)
    unasked = studio.dit.context(empty, torch.full((len(texts),), empty.shape[1], device=studio.device), TEXT_TOKENS)
    generator = torch.Generator().manual_seed(seed)
    stride = studio.pipeline.vae_scale_factor_spatial
    shape = (len(texts), len(studio.vae.mean), SIZE // stride, SIZE // stride)
    latents = torch.randn(shape, generator=generator).to(studio.device)
    scheduler = type(studio.pipeline.scheduler).from_config(studio.pipeline.scheduler.config)
    scheduler.set_timesteps(STEPS, device=studio.device)
    for time in scheduler.timesteps:
        times = time.float().expand(len(texts))
        free = studio.dit(latents, times, unasked)
        velocity = free + GUIDANCE * (studio.dit(latents, times, asked) - free)
        latents = scheduler.step(velocity, time, latents, return_dict=False)[0]
    return studio.vae.decode(latents)


@torch.no_grad()
def judged(studio: Studio, images: Tensor, indices: list[int]) -> Scores:
    """The share of pictures in which each of the four attributes, and all, are those of the combinations."""
    read = studio.judge.read(images)
    right = {}
    for field, names in sounds.NAMES.items():
        column = read[:, FIELDS.index(field)]
        wanted = torch.tensor(
            [ATTRIBUTES[field].index(sounds.names_of(i)[field]) for i in indices], device=read.device
        )
        right[field] = column == wanted
        assert set(names) <= set(ATTRIBUTES[field])
    everything = torch.stack(list(right.values())).all(0)
    return {name: round(float(one.float().mean()), 4) for name, one in {**right, "all": everything}.items()}


def held_out(count: int) -> list[int]:
    """Some of the combinations that no adapter is trained on, always the same ones."""
    order = torch.randperm(sounds.COMBINATIONS, generator=torch.Generator().manual_seed(11)).tolist()
    return [index for index in order if sounds.held_out(index)][:count]


@torch.no_grad()
def score(studio: Studio, teacher: Teacher, adapter: SoundAdapter, count: int) -> dict[str, Scores]:
    """What the judge reads: of captions, of sounds at several noise levels, of swapped and mixed sounds, of noise."""
    asked = _Asked(studio, teacher, adapter, held_out(count))
    captions = [teacher.embeddings[index] for index in asked.indices]
    result = {"captions": asked.judged(captions)}
    for decibels in (math.inf, 20.0, 10.0, 0.0):
        name = "clean" if math.isinf(decibels) else f"{decibels:.0f} dB"
        result[f"sound, {name}"] = asked.judged(asked.texts(asked.sounds(asked.chosen, decibels)))
    result["another row's sound"] = asked.judged(asked.texts(asked.sounds(asked.chosen.roll(1), 20.0)))
    other = asked.sounds(asked.chosen.roll(1), 20.0, seed=6)
    for decibels in (12.0, 6.0, 0.0):
        both = sounds.mixed(asked.sounds(asked.chosen, 20.0), other, decibels)
        pictures = asked.pictures(asked.texts(both))
        result[f"the louder of two sounds, {decibels:.0f} dB"] = judged(studio, pictures, asked.indices)
        result[f"the quieter of two sounds, {decibels:.0f} dB"] = judged(
            studio, pictures, asked.chosen.roll(1).tolist()
        )
    noise = _noise(len(captions), studio.device)
    result["caption with noise as its sound"] = asked.judged(
        [torch.cat([text, one]) for text, one in zip(captions, adapter(noise), strict=True)]
    )
    return {**result, "something is heard": _something_heard(asked, noise)}


def _noise(count: int, device: torch.device) -> Tensor:
    generator = torch.Generator(device).manual_seed(3)
    return noises(count, round(sounds.RATE * sounds.SECONDS), sounds.RATE, generator)


def _something_heard(asked: _Asked, noise: Tensor) -> Scores:
    """The share of sounds of each kind that the adapter takes for more than noise."""
    kinds = {f"sound, {decibels:.0f} dB": asked.sounds(asked.chosen, decibels) for decibels in (20.0, 10.0, 0.0)}
    kinds |= {"sound, clean": asked.sounds(asked.chosen, math.inf), "noise": noise}
    return {
        kind: round(float(asked.adapter(given).abs().amax((1, 2)).gt(0).float().mean()), 4)
        for kind, given in kinds.items()
    }


@torch.no_grad()
def changed_objects(studio: Studio, teacher: Teacher, adapter: SoundAdapter, count: int) -> dict[str, Scores]:
    """What a sound changes in a picture, at several creativities, as a run makes it.

    The picture shows a held-out combination, and the sound says the same but for its object: `first` is the share of
    pictures that show the sound's object, the others of those that kept the picture's colour, size and place.
    """
    indices = held_out(count)
    wanted = [_other_object(index) for index in indices]
    asked = _Asked(studio, teacher, adapter, wanted)
    shown = asked.pictures([teacher.embeddings[index] for index in indices])
    info = find()
    wan = Wan.load(info, studio.device.type, "float32", slots=8)
    tokens = adapter(asked.sounds(asked.chosen, 20.0)).cpu().numpy()
    plain = Request(
        id="", prompt="", negative_prompt="", sources=(), creativity=1.0, seed=0, width=SIZE, height=SIZE,
        steps=STEPS, guidance=GUIDANCE, shift=info.shift, sampler=info.sampler,
    )  # fmt: skip
    result = {}
    for creativity in CREATIVITIES:
        requests = [
            replace(
                plain,
                id=str(number),
                seed=number,
                creativity=creativity,
                sources=(SourceImage(str(number), to_pixels(image)),),
                sound_tokens=tokens[number],
            )
            for number, image in enumerate(shown)
        ]
        made = {one.request.id: one for one in wan.generate(requests)}
        pictures = [_picture(made[str(number)]) for number in range(len(requests))]
        read = judged(studio, torch.stack(pictures).to(studio.device), wanted)
        result[f"another object's sound, creativity {creativity:g}"] = read
    return result


def _other_object(index: int) -> int:
    """The same combination with another object, that of half the list further on."""
    names = sounds.names_of(index)
    kinds = sounds.TIMBRES
    return sounds.index_of({**names, "first": kinds[(kinds.index(names["first"]) + len(kinds) // 2) % len(kinds)]})


def _picture(made: Result | Failed) -> Tensor:
    """A picture [3, SIZE, SIZE] in [-1, 1]."""
    if isinstance(made, Failed):
        raise made.error
    return torch.from_numpy(made.pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)
