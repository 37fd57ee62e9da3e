"""Makes sound files, and taggers with random weights in the layout of transformers, for tests."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import soundfile

TOKENIZER = Path(__file__).parents[2] / "pipeline" / "tiny" / "tokenizer"


def tone(seconds: float = 1.0, rate: int = 16_000, hertz: float = 440.0, channels: int = 1) -> np.ndarray:
    """A sine of half the full scale, float32 [samples, channels]."""
    time = np.arange(round(seconds * rate)) / rate
    return np.repeat(np.sin(2 * np.pi * hertz * time)[:, None] / 2, channels, axis=1).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = 16_000, form: str = "WAV", subtype: str | None = None) -> bytes:
    """A sound file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def save_clap(folder: Path, seed: int = 0) -> Path:
    """A CLAP of a few thousand random weights, with its feature extractor and a tokenizer."""
    import torch
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    torch.manual_seed(seed)
    text = {"vocab_size": 1024, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 32, "max_position_embeddings": 130, "projection_dim": 16}
    audio = {"spec_size": 64, "num_mel_bins": 16, "patch_size": 4, "patch_stride": [4, 4], "window_size": 4}
    audio |= {"patch_embeds_hidden_size": 8, "hidden_size": 16, "depths": [1, 1], "num_attention_heads": [1, 2]}
    audio |= {"num_hidden_layers": 2, "projection_dim": 16, "num_classes": 4}
    ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16)).save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=8_000,
        max_length_s=10,
        fft_window_size=256,
        hop_length=313,
        frequency_max=4_000,
    ).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)
    return folder


def save_ast(folder: Path) -> Path:
    """An AST of a few thousand random weights that knows three labels, with its feature extractor."""
    import torch
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    torch.manual_seed(0)
    labels = dict(enumerate(("Bird", "Dog", "Speech")))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ASTConfig(**sizes, max_length=128, num_mel_bins=32, id2label=labels)
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor(num_mel_bins=32, max_length=128, sampling_rate=16_000).save_pretrained(folder)
    return folder
