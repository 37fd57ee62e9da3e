"""A Wan model as an adapter is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from wanbatch.pipeline.loading.reference import load_reference
from wanbatch.pipeline.loading.registry import ModelInfo
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.models.umt5 import PlainUMT5
from wanbatch.pipeline.models.vae import FrameVAE
from wanbatch.pipeline.sampling.schedules import levels as schedule_levels
from wanbatch.pipeline.text.encoder import GPU_TOKENS, TextEncoder
from wanbatch.pipeline.training.experts import Experts
from wanbatch.pipeline.training.float8_base import BF16, FP8, to_float8_base

PICTURES_TOGETHER = 32


@dataclass(frozen=True, slots=True)
class TrainingModel:
    """The parts of a model, on the device of the training.

    Attributes:
        info: What it is.
        dit: Its transformer, with separate query, key and value.
        vae: Turns pictures into latents and back.
        text: Turns prompts into embeddings.
        device: Where all of it is.
        low: The transformer of the low noise levels (A14B), where `dit` is that of the high ones; None: there is one.
        boundary: The noise level below which it is `low`.
        parked: The text encoder, if it waits in the host's memory while it has nothing to encode.
    """

    info: ModelInfo
    dit: FrameTransformer
    vae: FrameVAE
    text: TextEncoder
    device: torch.device
    low: FrameTransformer | None = None
    boundary: float = 0.0
    parked: PlainUMT5 | None = None

    @classmethod
    def load(cls, info: ModelInfo, device: torch.device, dtype: torch.dtype, base: str = BF16) -> TrainingModel:
        """Load a model.

        Args:
            info: What it is.
            device: Where it goes.
            dtype: Of its weights.
            base: `fp8`: the linear layers of the transformer's blocks are kept in FP8; `bf16`: they are as the rest.

        Raises:
            UserError: If its files are no model.
        """
        # Where memory is short, a transformer is moved to the device layer by layer, since all of it in bf16 may not
        # fit, and the text encoder is there only while it encodes.
        modules = load_reference(info, torch.device("cpu") if base == FP8 else device, dtype)
        dit, low = (
            None if module is None else _placed(FrameTransformer(module), device, base)
            for module in (modules.transformer, modules.low_noise_transformer)
        )
        assert dit is not None
        tokens = GPU_TOKENS if device.type == "cuda" else 0
        encoder = PlainUMT5(modules.text_encoder)

        def fetch() -> None:
            encoder.to(device)

        text = TextEncoder(modules.tokenizer, encoder, tokens, device=device, before_encoding=fetch)
        vae = FrameVAE.from_video(modules.vae).to(device).eval().requires_grad_(False)
        parked = encoder if base == FP8 else None
        return cls(info, dit, vae, text, device, low, modules.boundary or 0.0, parked)

    def embeddings(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Text states `[tokens, text_dim]` of prompts, in the model's type."""
        found = {prompt: states.clone() for prompt, states in self.text.encode(prompts).items()}
        if self.parked is not None:
            self.parked.to("cpu")
        return found

    def velocity(self, noisy: Tensor, level: Tensor, embeds: Tensor, lengths: Tensor) -> Tensor:
        """What its transformers predict; arguments and result are those of `Experts.velocity`."""
        return self.by_level.velocity(noisy, level, embeds, lengths)

    @property
    def by_level(self) -> Experts:
        """Its transformers."""
        return Experts(self.dit, self.low, self.boundary)

    @property
    def experts(self) -> dict[str, FrameTransformer]:
        """The transformers by name, as files of adapters name them; the only one has none."""
        return self.by_level.by_name

    def guidance_at(self, level: float) -> float:
        """The model's own guidance scale at a noise level."""
        second = self.info.guidance_2
        return self.info.guidance if second is None or level >= self.boundary else second

    def _scale(self, level: float, guidance: float | None, guidance_2: float | None) -> float:
        if guidance is None:
            return self.guidance_at(level)
        return guidance if guidance_2 is None or level >= self.boundary else guidance_2

    @torch.no_grad()
    def latents_of(
        self,
        prompts: Sequence[Tensor],
        negative: Tensor,
        size: tuple[int, int],
        steps: int,
        *,
        shift: float | None = None,
        guidance: float | None = None,
        guidance_2: float | None = None,
        seed: int = 1000,
    ) -> Tensor:
        """What the model makes of prompts by Euler's method: latents `[B, z, h, w]`.

        The noise of each picture is drawn on the CPU and depends on its place alone.

        Args:
            prompts: Text states of each.
            negative: Text states of the negative prompt.
            size: (width, height) in pixels.
            steps: Of the schedule.
            shift: Of the noise levels; None: the model's own.
            guidance: The scale; None: the model's own.
            guidance_2: Of the low noise levels, where `guidance` is given; None: as that.
            seed: Of the first picture's noise; the others' follow.
        """
        made = []
        path = schedule_levels(steps, self.info.shift if shift is None else shift).tolist()
        shape = (len(self.vae.mean), size[1] // self.stride, size[0] // self.stride)
        for first in range(0, len(prompts), PICTURES_TOGETHER):
            part = prompts[first : first + PICTURES_TOGETHER]
            generators = [torch.Generator().manual_seed(seed + first + place) for place in range(len(part))]
            noisy = torch.stack([torch.randn(shape, generator=each) for each in generators]).to(self.device)
            embeds, lengths = padded([*part, *[negative] * len(part)])
            for level, lower in pairwise(path):
                levels = torch.full((2 * len(part),), level, device=self.device)
                scale = self._scale(level, guidance, guidance_2)
                positive, free = self.velocity(noisy.repeat(2, 1, 1, 1), levels, embeds, lengths).chunk(2)
                noisy = noisy + (lower - level) * (free + scale * (positive - free))
            made.append(noisy)
        return torch.cat(made)

    @property
    def stride(self) -> int:
        """Pixels of a picture in one step of a latent."""
        return self.info.multiple // self.dit.patch[0]


def _placed(dit: FrameTransformer, device: torch.device, base: str) -> FrameTransformer:
    return to_float8_base(dit, device) if base == FP8 else dit.to(device)


def padded(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Text states as one batch: `[B, L, text_dim]`, zero past each row's length, and lengths int64 `[B]`."""
    lengths = torch.tensor([len(each) for each in states], device=states[0].device)
    return torch.nn.utils.rnn.pad_sequence(list(states), batch_first=True), lengths
