"""What few steps cost on the small model: the student beside its teacher and beside the model as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.evaluation.judge import distance
from wanbatch.pipeline.sampling.schedules import RESPACE
from wanbatch.pipeline.sampling.schedules import levels as schedule_levels
from wanbatch.pipeline.training.few_step.settings import FewStepSettings
from wanbatch.pipeline.training.few_step.teacher import STUDENT
from wanbatch.pipeline.training.low_rank import LowRankAdapters
from wanbatch.pipeline.training.toy import world
from wanbatch.pipeline.training.toy.denoiser import embed
from wanbatch.pipeline.training.toy.scores import Studio, renders, write_prompts

SIZE = (128, 128)
TEACHER_STEPS = 50
STEP_COUNTS = (8, 4, 2, 1)
CREATIVITIES = (0.3, 0.6, 0.9)
SEEDS = 8
CHUNK = 256
BASELINE_FILE = "baseline.json"


@dataclass(frozen=True, slots=True)
class Way:
    """A way to make pictures.

    Attributes:
        steps: Of Euler's method; all of them are made, below the creativity if that is less than 1.
        guidance: 1: none.
        adapter: Active; None: the model as it is.
        creativity: Below 1: it starts from a source.
        blended: The source is a blend of two.
    """

    steps: int
    guidance: float = 1.0
    adapter: str | None = None
    creativity: float = 1.0
    blended: bool = False


class Contest:
    """Measures ways to make pictures of the same prompts from the same noise.

    Args:
        studio: The model, its VAE and the judge.
        settings: Of the student.
        out: Folder in which what does not depend on the student is kept.
    """

    def __init__(self, studio: Studio, settings: FewStepSettings, out: Path):
        self._studio, self._settings, self._file = studio, settings, out / BASELINE_FILE
        self._known: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def teacher(self, count: int) -> dict[str, Any]:
        """The teacher's scores at a look's number of pictures."""
        return self._once(
            f"teacher, {count}", lambda: self._score(Way(TEACHER_STEPS, self._settings.guidance), count)
        )

    def glance(self, adapters: LowRankAdapters, count: int) -> dict[str, Any]:
        """The student's scores with few pictures, as it is now."""
        found = {}
        for steps in (4, 2, 1):
            score = self._score(Way(steps, adapter=STUDENT), count, adapters)
            found[str(steps)] = {key: score[key] for key in ("all", "distance", "diversity") if key in score}
        return found

    def measure(self, adapters: LowRankAdapters, count: int) -> dict[str, dict[str, Any]]:
        """All scores, by the name of the way."""
        guidance, found = self._settings.guidance, {}
        ways: dict[str, Way] = {f"teacher, {TEACHER_STEPS} steps": Way(TEACHER_STEPS, guidance)}
        for steps in STEP_COUNTS:
            ways[f"undistilled, {steps} steps"] = Way(steps, guidance)
            ways[f"undistilled, {steps} steps, no guidance"] = Way(steps)
            ways[f"student, {steps} steps"] = Way(steps, adapter=STUDENT)
        for creativity in CREATIVITIES:
            for blended, kind in ((False, "source"), (True, "blend")):
                said = f"{kind} at creativity {creativity:g}"
                ways[f"teacher, {TEACHER_STEPS} steps, {said}"] = Way(
                    TEACHER_STEPS, guidance, creativity=creativity, blended=blended
                )
                ways[f"student, 4 steps, {said}"] = Way(4, adapter=STUDENT, creativity=creativity, blended=blended)
        for name, way in ways.items():
            if way.adapter is None:
                found[name] = self._once(f"{name}, {count}", lambda way=way: self._score(way, count, diverse=True))  # type: ignore[misc]
            else:
                found[name] = self._score(way, count, adapters, diverse=True)
        return found

    def _once(self, name: str, measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if name not in self._known:
            self._known[name] = measured()
            self._file.write_text(json.dumps(self._known, indent=1) + "\n")
        return self._known[name]

    def _score(
        self, way: Way, count: int, adapters: LowRankAdapters | None = None, *, diverse: bool = False
    ) -> dict[str, Any]:
        """The judge's reading, the distance to real renders, and how far pictures are from their sources and from
        one another."""
        seed, device, judge = self._settings.seed, self._studio.device, self._studio.judge
        attributes = world.sample(count, torch.Generator().manual_seed(seed + 1))
        sources = self._sources(count, way.blended) if way.creativity < 1 else None
        prompts = write_prompts(attributes, seed)
        images = self._make(way, prompts, seed, sources, adapters)
        real = renders(attributes.to(device), *SIZE, seed=seed)
        score: dict[str, Any] = judge.score(images, attributes.to(device))
        score["distance"] = distance(judge.features(images), judge.features(real))
        if sources is not None:
            shown = torch.cat([self._studio.vae.decode(part) for part in sources.split(CHUNK)])
            score["to source"] = (images - shown).square().mean((1, 2, 3)).sqrt().mean().item()
        elif diverse:
            score |= self._diversity(way, prompts[: max(1, count // 16)], adapters)
        return {key: round(value, 4) for key, value in score.items()}

    def _diversity(self, way: Way, prompts: list[str], adapters: LowRankAdapters | None) -> dict[str, float]:
        """The mean distance between two of eight pictures of one prompt: of pixels, and of the judge's features."""
        made = [self._make(way, prompts, 1000 + seed, None, adapters) for seed in range(SEEDS)]
        features = torch.stack([self._studio.judge.features(images) for images in made])
        pixels = torch.stack(made).flatten(2)
        apart = torch.triu_indices(SEEDS, SEEDS, 1)
        by_pixel = (pixels[apart[0]] - pixels[apart[1]]).square().mean(-1).sqrt().mean().item()
        by_feature = (features[apart[0]] - features[apart[1]]).norm(dim=-1).mean().item()
        return {"diversity": by_pixel, "diversity of features": by_feature}

    @torch.no_grad()
    def _sources(self, count: int, blended: bool) -> Tensor:
        """Latents of real renders of other attributes, normalised; blended: means of two."""
        seed, device, vae = self._settings.seed, self._studio.device, self._studio.vae
        both = []
        for number in range(2 if blended else 1):
            attributes = world.sample(count, torch.Generator().manual_seed(seed + 5 + number)).to(device)
            images = renders(attributes, *SIZE, seed=seed + 5 + number)
            both.append(torch.cat([vae.encode(part) for part in images.split(CHUNK)]))
        return torch.stack(both).mean(0)

    @torch.no_grad()
    def _make(
        self, way: Way, prompts: list[str], seed: int, sources: Tensor | None, adapters: LowRankAdapters | None
    ) -> Tensor:
        """Images fp32 `[B, 3, 128, 128]` in [-1, 1]; the noise is drawn on the CPU from one seed."""
        studio, generator = self._studio, torch.Generator().manual_seed(seed)
        shape = (len(prompts), len(studio.vae.mean), SIZE[0] // 16, SIZE[1] // 16)
        start = torch.randn(shape, generator=generator).to(studio.device)
        path = schedule_levels(way.steps, self._settings.shift, way.creativity, creativity_steps=RESPACE)
        if sources is not None:
            start = (1 - way.creativity) * sources + way.creativity * start
        made = []
        for index in range(0, len(prompts), CHUNK):
            part = slice(index, index + CHUNK)
            made.append(self._denoise(way, prompts[part], start[part], path.tolist(), adapters))
        return torch.cat([studio.vae.decode(latents) for latents in made])

    def _denoise(
        self, way: Way, prompts: list[str], latents: Tensor, path: list[float], adapters: LowRankAdapters | None
    ) -> Tensor:
        def through() -> Tensor:
            current, contexts = latents, [self._context(prompts)]
            if way.guidance != 1:
                contexts.append(self._context([""] * len(prompts)))
            for level, lower in pairwise(path):
                times = torch.full((len(prompts),), level * 1000, device=current.device)
                velocity = self._studio.dit(current, times, contexts[0])
                if way.guidance != 1:
                    free = self._studio.dit(current, times, contexts[1])
                    velocity = free + way.guidance * (velocity - free)
                current = current + (lower - level) * velocity
            return current

        if adapters is None:
            return through()
        with adapters.active(way.adapter):
            return through()

    def _context(self, prompts: list[str]):
        batch = self._studio.pipeline.tokenizer(prompts, padding=True, return_tensors="pt").to(self._studio.device)
        lengths = batch.attention_mask.sum(1)
        return self._studio.dit.context(embed(self._studio.encoder, batch.input_ids, lengths), lengths, TEXT_TOKENS)
