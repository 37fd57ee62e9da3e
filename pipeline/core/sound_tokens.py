"""Sounds among the tokens of a prompt."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wanbatch.pipeline.core.prompts import TEXT_TOKENS


def with_sound(prompt: Tensor, tokens: np.ndarray) -> Tensor:
    """A prompt's embedding with the tokens of a sound after its own.

    They take places that the model would pad with zeros: the text attention has no positions, so that nothing else
    changes. A prompt that leaves no room loses its last tokens. A sound whose tokens are all zeros, as those of
    weight 0 are, leaves the prompt as it is.

    Args:
        prompt: [tokens, dim].
        tokens: Float32 [sound tokens, dim].

    Returns:
        [at most `TEXT_TOKENS`, dim], as the prompt's dtype and device.
    """
    if not tokens.any():
        return prompt
    sound = torch.from_numpy(tokens).to(prompt.device, prompt.dtype)
    return torch.cat([prompt[: TEXT_TOKENS - len(sound)], sound])
