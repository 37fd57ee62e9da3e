"""What a loaded model consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Modules:
    """The parts of a loaded model: `weights.load` gives the first kind of each, `reference.load_reference` the last.

    Attributes:
        tokenizer: Of the text encoder: a `PromptTokenizer`, or one of transformers.
        text_encoder: A `UMT5Encoder` or a `UMT5EncoderModel`.
        transformer: A `WanParts`, or a `FrameTransformer` if it was made ready; or a `WanTransformer3DModel`.
        low_noise_transformer: The second expert of A14B, for noise levels below `boundary`; else None.
        boundary: A noise level; None for a model of one transformer.
        vae: A `FrameVAE` or an `AutoencoderKLWan`.
    """

    tokenizer: Any
    text_encoder: Any
    transformer: Any
    low_noise_transformer: Any
    boundary: float | None
    vae: Any

    @property
    def transformers(self) -> list[Any]:
        """One, or the two experts."""
        return [part for part in (self.transformer, self.low_noise_transformer) if part is not None]
