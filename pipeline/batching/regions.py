"""Rows whose places start at noise levels of their own: what a creativity map is for the denoiser.

The idea is that of differential diffusion (Levin and Fried 2023, arXiv:2306.00950): a place whose level is not
reached yet is set, after each step, to what it would be if the row started at the new level. Where two levels of the
schedule enclose a place's own one, the step between them starts from the place's own start: with `x0` predicted at
the higher level, `x' = (s' / c) x_c + (1 - s' / c) x0`, which is every solver's first step
(`exponential.first_order`). So no level is rounded, and a place takes up smoothly what it is allowed to change.

A place that has just started has no history: its earlier predictions are set to the present one, so that multistep
solvers take their first step of order one there. UniPC's corrector is of its usual order in the second step, where a
row of its own would have one less.

With a softness a place is released over so many levels above its own: at the level s it is held to the share
`(s - own level) / softness`, and the rest of it follows the solver, so that it fits what is made around it. A place
of level 0 is never released. At a softness of 0 all of this is as above, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wanbatch.pipeline.core.samples import Region


@dataclass(frozen=True, slots=True, eq=False)
class StepLevels:
    """Noise levels of one step, float32 [rows] each.

    Attributes:
        before: At which the evaluation before this one was made; at the first step this one's.
        now: At which the model was evaluated.
        reached: Of the corrected sample, see `Solution`.
        after: Of the next sample.
    """

    before: Tensor
    now: Tensor
    reached: Tensor
    after: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """The regions of the slots.

    Attributes:
        latents: Of the sources, float32 [slots, channels, height, width].
        noises: Of the rows' starts, as `latents`.
        levels: Float32 [slots, 1, height, width], see `Region`.
        softness: Float32 [slots, 1, 1, 1].
    """

    latents: Tensor
    noises: Tensor
    levels: Tensor
    softness: Tensor

    @classmethod
    def empty(cls, shape: tuple[int, ...], device: torch.device) -> Regions:
        """Room for `[slots, channels, height, width]`."""
        latents, noises = (torch.zeros(shape, device=device) for _ in range(2))
        levels, softness = (torch.zeros((shape[0], 1, *size), device=device) for size in (shape[2:], (1, 1)))
        return cls(latents, noises, levels, softness)

    def enter(self, slot: int, region: Region) -> None:
        """Put the region of a row that begins into its slot."""
        self.latents[slot], self.noises[slot], self.levels[slot, 0] = region.latent, region.noise, region.levels
        self.softness[slot].fill_(region.softness)

    def views(self, slot: int) -> list[Tensor]:
        """Views of all that is held of a slot."""
        return [self.latents[slot], self.noises[slot], self.levels[slot], self.softness[slot]]

    def started(
        self, corrected: Tensor, denoised: Tensor, history: Tensor, before: Tensor, at: StepLevels
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a solver predicts from, where places had not started when the model was evaluated.

        Args:
            corrected: [rows, 1, channels, height, width], the corrected samples.
            denoised: As `corrected`, x0 as predicted now.
            history: [rows, HISTORY, channels, height, width], x0 as predicted before.
            before: As `corrected`, the samples before.
            at: The step's levels.

        Returns:
            `corrected`, `history` and `before` as if such a place had been on a straight line to `denoised` all
            along that leads through its own start.
        """
        waiting = self._share_held(at.now) >= 1
        level = torch.where(self.levels > 0, self.levels, 1.0)  # places that never start are set in `held`
        level = torch.where(self._soft, _per_place(at.reached).clamp(min=torch.finfo(torch.float32).tiny), level)
        own = (1 - level) * self.latents + level * self.noises
        ratio = _per_place(at.reached) / level
        x0 = denoised[:, 0]
        line = ratio * own + (1 - ratio) * x0
        reached, earlier = _per_place(at.reached), _per_place(at.before)
        noise = (line - (1 - reached) * x0) / reached.clamp(min=torch.finfo(torch.float32).tiny)
        back = (1 - earlier) * x0 + earlier * noise
        return (
            torch.where(waiting, line[:, None], corrected),
            torch.where(waiting, denoised, history),
            torch.where(waiting, back[:, None], before),
        )

    def held(self, following: Tensor, at: StepLevels) -> Tensor:
        """The next samples, [rows, 1, channels, height, width], with the start of their level at places that wait."""
        after = _per_place(at.after)
        own = (1 - after) * self.latents + after * self.noises
        share = self._share_held(at.after)
        mean = share * own[:, None] + (1 - share) * following
        return torch.where(share >= 1, own[:, None], torch.where(share > 0, mean, following))

    @property
    def _soft(self) -> Tensor:
        """Which places are released over several levels, [rows, 1, height, width]."""
        return (self.softness > 0) & (self.levels > 0)

    def _share_held(self, level: Tensor) -> Tensor:
        """How far each place is held at its own start at a level, [rows, 1, 1, height, width], from 0 to 1."""
        above = _per_place(level) - self.levels
        ramp = (above / torch.where(self.softness > 0, self.softness, 1.0)).clamp(0, 1)
        return torch.where(self._soft, ramp, (above >= 0).to(ramp.dtype))[:, None]


def _per_place(levels: Tensor) -> Tensor:
    return levels[:, None, None, None]
