"""An adapter that hears noise alone adds nothing; a row that has only the sound is refused, and then mended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from wanbatch.errors import RowError
from wanbatch.pipeline.sound.hearing import AdapterHearing


def hearing(tokens: np.ndarray) -> AdapterHearing:
    adapter: Any = SimpleNamespace(encoder=SimpleNamespace(rate=16_000), hear=lambda samples: tokens)
    return AdapterHearing(adapter)


def test_noise_alone_needs_a_prompt_or_another_sound():
    sound = np.zeros(16_000, np.float32)
    noise, bell = np.zeros((2, 4), np.float32), np.ones((2, 4), np.float32)
    with pytest.raises(RowError, match="hears noise alone, and the row has no prompt: give the row a prompt, or"):
        hearing(noise).hear(sound, 1.0, " ")
    assert hearing(noise).hear(sound, 1.0, "a bell").tokens is None
    heard = hearing(bell).hear(sound, 0.5, "")
    assert heard.tokens is not None
    assert (heard.tokens == 0.5).all()
