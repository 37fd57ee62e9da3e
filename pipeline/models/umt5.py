"""The UMT5 text encoder as transformers runs it, in the form that the pipeline's text encoder asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class PlainUMT5(nn.Module):
    """A `UMT5EncoderModel` that returns its last hidden states alone.

    Args:
        model: The `UMT5EncoderModel`, whose parameters are shared.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        return self.model.device

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The last hidden states of a batch of tokens.

        Args:
            tokens: int64 [batch, length].
            mask: int64 [batch, length], 1 for tokens and 0 for padding.

        Returns:
            [batch, length, dim].
        """
        return self.model(tokens, mask).last_hidden_state
