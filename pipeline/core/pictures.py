"""Pictures and latents: what the VAE is asked for, and what is there once the device has done it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wanbatch.errors import RowError
from wanbatch.pipeline.core import conditioning
from wanbatch.pipeline.core.backends import VAE
from wanbatch.pipeline.core.device import Moment, PendingRead, Span


class PendingPicture:
    """A latent on its way to being a picture. On a GPU nobody waits for it until its pixels are asked for.

    Args:
        vae: What decodes it.
        latent: Float [channels, height, width], normalised, where the VAE works.
        dtype: Of the VAE.
    """

    @torch.inference_mode()
    def __init__(self, vae: VAE, latent: Tensor, dtype: torch.dtype):
        begin = Moment(latent.device)
        image = vae.decode(as_convolved(latent[None].to(dtype)))[0]
        self._finite = PendingRead(torch.isfinite(image).all())
        self._pixels = PendingRead(conditioning.to_bytes(image))
        self.span = Span(begin, Moment(latent.device))

    @property
    def here(self) -> bool:
        """Whether the pixels can be had without waiting."""
        return self._pixels.here

    def pixels(self) -> np.ndarray:
        """The picture, uint8 [height * stride, width * stride, 3], once it is here.

        Raises:
            RowError: If the picture contains NaN or infinity.
        """
        if not bool(self._finite.numbers()):
            raise RowError("decode", "nan", "the picture contains NaN or infinity")
        return self._pixels.numbers()


@torch.inference_mode()
def encode(vae: VAE, pixels: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """uint8 [rows, columns, 3] -> normalised latent, float32 [channels, rows / stride, columns / stride]."""
    image = as_convolved(conditioning.to_model(pixels, device).to(dtype))
    return vae.encode(image)[0].float()


def as_convolved(batch: Tensor) -> Tensor:
    """A batch of pictures or latents as the VAE's convolutions want it where it is: channels last on a GPU."""
    return batch.contiguous(memory_format=torch.channels_last) if batch.is_cuda else batch
