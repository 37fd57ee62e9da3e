"""Adapters: a sound becomes a few tokens of the model's text width, which stand after those of the prompt.

A sound goes through an encoder (log-mel and convolutions of the adapter's own, or a frozen CLAP), whose frames a
resampler sums up in a fixed number of tokens. How one is trained is in `training/sound/`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from wanbatch.errors import UserError
from wanbatch.pipeline.core.tensor_files import save_tensors
from wanbatch.pipeline.sound.adapter_file import SMALL, AdapterHeader, read_header
from wanbatch.pipeline.sound.clap_encoder import ClapEncoder
from wanbatch.pipeline.sound.config import CLAP
from wanbatch.pipeline.sound.windows import windows


class SoundEncoder(Protocol):
    """Turns sounds of one length into frames."""

    rate: int
    seconds: float
    dim: int

    def __call__(self, samples: Tensor) -> Tensor:
        """Frames [batch, frames, dim] of samples, float32 [batch, rate * seconds]."""


class LogMelEncoder(nn.Module):
    """Log-mel energies through a few convolutions.

    Args:
        rate: Samples a second.
        seconds: Length of a sound.
        mels: Mel bands.
        widths: Channels after each halving of bands and time.
        dim: Width of a frame.
    """

    filters: Tensor
    hann: Tensor

    def __init__(
        self,
        rate: int = 16_000,
        seconds: float = 2.0,
        mels: int = 64,
        widths: tuple[int, ...] = (24, 48, 64),
        dim: int = 128,
    ):
        super().__init__()
        self.rate, self.seconds, self.mels, self.widths, self.dim = rate, seconds, mels, tuple(widths), dim
        self.window, self.hop = rate // 25, rate // 62
        self.register_buffer("filters", mel_filters(rate, self.window, mels), persistent=False)
        self.register_buffer("hann", torch.hann_window(self.window), persistent=False)
        layers: list[nn.Module] = []
        for inner, outer in zip((1, *widths), widths, strict=False):
            layers += [nn.Conv2d(inner, outer, 3, stride=2, padding=1), nn.GroupNorm(8, outer), nn.GELU()]
        self.trunk = nn.Sequential(*layers)
        self.frame = nn.Linear(widths[-1] * math.ceil(mels / 2 ** len(widths)), dim)

    @property
    def config(self) -> dict[str, Any]:
        """What it is made with."""
        return {"rate": self.rate, "seconds": self.seconds, "mels": self.mels, "widths": self.widths, "dim": self.dim}

    def log_mel(self, samples: Tensor) -> Tensor:
        """Log-mel energies of samples [batch, samples]: [batch, mels, frames], loudness taken out."""
        spectrum = torch.stft(samples, self.window, self.hop, window=self.hann, return_complex=True).abs()
        energies = (self.filters @ spectrum.square()).clamp_min(1e-10).log10()
        energies = energies.clamp_min(energies.amax((1, 2), keepdim=True) - 8)
        return (energies - energies.mean((1, 2), keepdim=True)) / 2

    def forward(self, samples: Tensor) -> Tensor:
        """Frames [batch, frames, dim] of samples [batch, rate * seconds]."""
        return self.frames(self.log_mel(samples))

    def frames(self, energies: Tensor) -> Tensor:
        """The same of what `log_mel` gives."""
        return self.frame(self.trunk(energies[:, None]).flatten(1, 2).transpose(1, 2))


class Resampler(nn.Module):
    """Sums frames up in a fixed number of tokens, as a perceiver does: queries that look at the frames in layers.

    Args:
        inner: Width of a frame.
        width: Of a token.
        tokens: How many.
        dim: Width inside.
        layers: How many times the queries look.
        heads: Of each attention.
        frames: The most frames that there are.
        scale: Root mean square of the model's own text embeddings, with which tokens begin.
        gate: Whether it says for each sound if there is anything to be heard; tokens of the others are zeros, which
            are padding to the model.
    """

    def __init__(
        self,
        inner: int,
        width: int,
        tokens: int = 8,
        dim: int = 128,
        layers: int = 2,
        heads: int = 4,
        frames: int = 64,
        scale: float = 1.0,
        gate: bool = False,
    ):
        super().__init__()
        self.config = {"dim": dim, "layers": layers, "heads": heads, "frames": frames}
        self.config |= {"gate": True} if gate else {}  # files of before do not name it
        self.queries = nn.Parameter(torch.randn(tokens, dim) * 0.5)
        self.places = nn.Parameter(torch.randn(frames, dim) * 0.1)
        self.inside = nn.Linear(inner, dim)
        self.looks = nn.ModuleList(_Look(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.outside = nn.Linear(dim, width)
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.gate = nn.Linear(dim, 1) if gate else None

    def forward(self, frames: Tensor) -> Tensor:
        """Tokens [batch, tokens, width] of frames [batch, frames, inner]; zeros where nothing is to be heard."""
        tokens, heard = self.tokens_and_gate(frames)
        return tokens if heard is None else tokens * (heard > 0)[:, None, None]

    def tokens_and_gate(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens as if there were something to be heard, and the log odds [batch] that there is; None: no gate."""
        seen = self.inside(frames) + self.places[: frames.shape[1]]
        hidden = self.queries.expand(len(frames), -1, -1)
        for look in self.looks:
            hidden = look(hidden, seen)
        hidden = self.norm(hidden)
        heard = None if self.gate is None else self.gate(hidden.mean(1))[:, 0]
        return self.outside(hidden) * self.scale, heard


class _Look(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_queries, self.norm_seen, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, hidden: Tensor, seen: Tensor) -> Tensor:
        asked = self.norm_queries(hidden)
        everything = torch.cat([self.norm_seen(seen), asked], dim=1)
        keys, values = (self._split(part) for part in self.key_value(everything).chunk(2, dim=-1))
        attended = F.scaled_dot_product_attention(self._split(self.query(asked)), keys, values)
        hidden = hidden + self.out(attended.transpose(1, 2).flatten(2))
        return hidden + self.mlp(self.norm(hidden))

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(2, (self.heads, -1)).transpose(1, 2)


class SoundAdapter(nn.Module):
    """An encoder and a resampler, and what its file says of them.

    Args:
        encoder: Turns sounds into frames.
        resampler: Sums these up.
        header: Of the file.
    """

    def __init__(self, encoder: Any, resampler: Resampler, header: AdapterHeader):
        super().__init__()
        self.encoder, self.resampler, self.header = encoder, resampler, header

    @classmethod
    def new(
        cls,
        width: int,
        tokens: int = 8,
        scale: float = 1.0,
        encoder: dict | None = None,
        resampler: dict | None = None,
    ) -> SoundAdapter:
        """An untrained adapter with an encoder of its own.

        Args:
            width: The model's text width.
            tokens: How many it gives the model.
            scale: Root mean square of the model's own text embeddings.
            encoder: Numbers of `LogMelEncoder`.
            resampler: Numbers of `Resampler`.
        """
        own = LogMelEncoder(**(encoder or {}))
        made = Resampler(own.dim, width, tokens, scale=scale, **(resampler or {}))
        return cls(own, made, AdapterHeader(SMALL, own.config, "", tokens, width, made.config))

    @classmethod
    def hearing_by(
        cls, clap: ClapEncoder, width: int, tokens: int = 8, scale: float = 1.0, resampler: dict | None = None
    ) -> SoundAdapter:
        """An untrained adapter that hears by a frozen CLAP, which is no part of its file; the rest as of `new`."""
        numbers = dict(resampler or {})
        if "frames" not in numbers:
            numbers["frames"] = clap(torch.zeros(1, round(clap.rate * clap.seconds))).shape[1]
        made = Resampler(clap.dim, width, tokens, scale=scale, **numbers)
        return cls(clap, made, AdapterHeader(CLAP, clap.config, clap.digest, tokens, width, made.config))

    @classmethod
    def load(cls, path: str | Path, clap: str | None = None) -> SoundAdapter:
        """The adapter of a file, fp32, in evaluation mode.

        Args:
            path: The file.
            clap: Folder of the CLAP that it hears by, if it does.

        Raises:
            UserError: if the file is no adapter, or its weights do not fit what it says.
        """
        header = read_header(path)
        try:
            if header.encoder == SMALL:
                own = header.encoder_config
                adapter = cls.new(header.width, header.tokens, encoder=own, resampler=header.resampler)
            else:
                ears = ClapEncoder(clap or "", header.encoder_digest)
                adapter = cls.hearing_by(ears, header.width, header.tokens, resampler=header.resampler)
            weights = {name: value.float() for name, value in load_file(path).items()}
            adapter.load_state_dict(weights)
        except (RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"setting sound: {path}: is damaged ({reason}): train it again") from error
        adapter.header = header
        return adapter.eval().requires_grad_(False)

    def save(self, path: str | Path) -> None:
        """Write weights in fp16, with metadata, whole or not at all."""
        weights = {name: value.detach().half().cpu().contiguous() for name, value in self.state_dict().items()}
        save_tensors(weights, path, replace(self.header, digest="").metadata())

    def forward(self, samples: Tensor) -> Tensor:
        """Tokens [batch, tokens, width] of sounds [batch, samples]."""
        return self.resampler(self.encoder(samples))

    @torch.inference_mode()
    def hear(self, samples: np.ndarray) -> np.ndarray:
        """The tokens of one sound, float32 [tokens, width].

        Args:
            samples: float32 [samples], mono, at the encoder's rate; of a longer one its loudest part is heard.
        """
        part = loudest(samples, self.encoder.rate, self.encoder.seconds)
        return self(torch.from_numpy(part)[None])[0].numpy()


def loudest(samples: np.ndarray, rate: int, seconds: float) -> np.ndarray:
    """The part of a sound of some length with the most energy; a shorter sound is followed by silence."""
    length = round(rate * seconds)
    if len(samples) <= length:
        return np.pad(samples, (0, length - len(samples)))
    parts = windows(samples, rate, seconds, seconds / 2)
    energies = [float(np.square(part.samples, dtype=np.float64).sum()) for part in parts]
    return parts[int(np.argmax(energies))].samples


def mel_filters(rate: int, window: int, mels: int) -> Tensor:
    """Triangular filters from 50 Hz to half the rate, evenly spaced in mel: float32 [mels, window // 2 + 1]."""

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    edges = torch.linspace(mel(50), mel(rate / 2), mels + 2, dtype=torch.float64)
    edges = 700 * (10 ** (edges / 2595) - 1)
    bins = torch.linspace(0, rate / 2, window // 2 + 1, dtype=torch.float64)
    up = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    filters = torch.minimum(up, down).clamp_min(0)
    nearest = (bins - edges[1:-1, None]).abs().argmin(1)
    filters[torch.arange(mels), nearest] = filters[torch.arange(mels), nearest].clamp_min(0.3)  # narrower than a bin
    return filters.float()
