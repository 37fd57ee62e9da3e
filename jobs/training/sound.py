"""`wanbatch train sound`: from a manifest of sounds with captions to an adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from wanbatch.counting import number_of
from wanbatch.errors import RowError, UserError
from wanbatch.jobs.training.asked import training_device
from wanbatch.manifests.dataset.status import committed_rows
from wanbatch.manifests.reading.manifest import Manifest, read_manifest
from wanbatch.manifests.sources.loader import SourceLoader
from wanbatch.manifests.sources.sounds import load_sound
from wanbatch.manifests.storage.user_files import require_place
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading.registry import ModelInfo, find
from wanbatch.pipeline.sound.adapter import LogMelEncoder, SoundAdapter, SoundEncoder, loudest
from wanbatch.pipeline.sound.clap_encoder import ClapEncoder
from wanbatch.pipeline.sound.config import find_clap
from wanbatch.pipeline.training.loop import Budget
from wanbatch.pipeline.training.same_training import ensure_same_training
from wanbatch.pipeline.training.sound.distillation import Draw, Plan, distill
from wanbatch.pipeline.training.sound.noises import with_noises
from wanbatch.pipeline.training.sound.teacher import Lessons, Teacher

AT_ONCE = 16  # captions that are recorded together
SHOWN = 5  # sounds that cannot be used, of which more are only counted


@dataclass(frozen=True, slots=True)
class SoundRequest:
    """What is asked for.

    Attributes:
        manifest: Its rows have `audio` and `prompt`.
        out: The adapter's file.
        model: See `registry.find`.
        revision: Of a hub model.
        minutes: Of training in all.
        steps: Of training, at most.
        batch: Sounds a step.
        tokens: How many the model gets of each sound.
        encoder: A folder or a hub id of a CLAP that hears, frozen; None: a small encoder that is trained, too.
        device: `cpu` or `cuda`; None: a GPU if there is one.
        seed: Of everything random.
        renames: Columns of the manifest that are read as others.
    """

    manifest: str | Path
    out: Path
    model: str
    revision: str | None = None
    minutes: float = 30.0
    steps: int = 100_000
    batch: int = 32
    tokens: int = 8
    encoder: str | None = None
    device: str | None = None
    seed: int = 0
    renames: Mapping[str, str] = field(default_factory=dict)


def train(request: SoundRequest, say: Callable[[str], None]) -> dict[str, Any]:
    """Train an adapter; the same command goes on where an earlier one ended.

    Args:
        request: What is asked for.
        say: Takes lines of text.

    Returns:
        The file, the number of sounds and captions, and the losses.

    Raises:
        UserError: If something is wrong with what was given.
    """
    if request.out.suffix != ".safetensors":
        raise UserError(f"--out {request.out}: must end in .safetensors: it is the file of the adapter")
    require_place(request.out)
    manifest = read_manifest(request.manifest, committed_rows=committed_rows, renames=request.renames)
    info = find(request.model, request.revision)
    device = training_device(request.device).type
    torch.manual_seed(request.seed)
    clap = _clap(request.encoder, device)
    ears: SoundEncoder = LogMelEncoder() if clap is None else clap  # for the rate and the length that it takes
    sounds, prompts = _pairs(manifest, ears.rate, ears.seconds, say)
    captions = list(dict.fromkeys(prompts))
    request.out.parent.mkdir(parents=True, exist_ok=True)
    _ensure_same(request, info, sounds, prompts, None if clap is None else clap.digest)
    say(
        f"{number_of(len(sounds), 'sounds')} with {number_of(len(captions), 'captions')}, {info.name}, {device}, "
        f"{number_of(request.minutes, 'minutes')}"
    )
    teacher, lessons = _lessons(Wan.load(info, device, "float32", slots=1), captions, info.height, info.width)
    width = teacher.empty.shape[1]
    adapter = (
        SoundAdapter.new(width, request.tokens, teacher.scale, resampler={"gate": True})
        if clap is None
        else SoundAdapter.hearing_by(clap, width, request.tokens, teacher.scale, {"gate": True})
    ).to(device)
    budget = Budget(request.minutes, request.steps)
    plan = Plan(batch=request.batch, velocity_batch=min(request.batch, 8))
    place = {caption: index for index, caption in enumerate(captions)}
    generators = [torch.Generator(device).manual_seed(request.seed + number) for number in range(2)]
    draw = _drawing(sounds, [place[prompt] for prompt in prompts], torch.device(device), generators[0])
    draw = with_noises(draw, adapter.encoder.rate, generators[1])
    state = request.out.with_suffix(".state.pt")
    losses = distill(adapter, teacher, lessons, draw, budget, plan, state, generators=generators)
    adapter.save(request.out)
    return {"file": str(request.out), "sounds": len(sounds), "captions": len(captions), **losses}


def _ensure_same(
    request: SoundRequest, info: ModelInfo, sounds: Sequence[np.ndarray], prompts: Sequence[str], encoder: str | None
) -> None:
    """Check that what lies beside the adapter is of the training that is asked for; minutes and steps may grow."""
    content = hashlib.sha256()
    for samples, prompt in zip(sounds, prompts, strict=True):
        content.update(samples.tobytes() + prompt.encode() + b"\0")
    said = {key: getattr(request, key) for key in ("batch", "tokens", "seed")}
    said |= {"model": info.digest, "encoder": encoder, "content": content.hexdigest()[:32]}
    words = {"model": "another model", "encoder": "another encoder", "content": "other sounds or captions"}
    ensure_same_training(request.out, said, words, file=request.out.with_suffix(".training.json"))


def _clap(model: str | None, device: str) -> ClapEncoder | None:
    """The CLAP that is asked for, on the device of the training."""
    if model is None:
        return None
    folder, _, digest = find_clap(model)
    return ClapEncoder(folder, digest, device)


def _pairs(
    manifest: Manifest, rate: int, seconds: float, say: Callable[[str], None]
) -> tuple[list[np.ndarray], list[str]]:
    """The sounds of one length that can be read, and the prompt of each."""
    sounds, prompts, left_out = [], [], []
    indices = pa.array(np.arange(len(manifest)), pa.int64())
    with SourceLoader(manifest.source_root, fence=manifest.source_fence) as loader:
        for sound, prompt in zip(manifest.sounds(indices), manifest.rows["prompt"].to_pylist(), strict=True):
            if sound is None or not (prompt or "").strip():
                continue
            try:
                samples = load_sound(loader, sound, rate).samples
            except RowError as error:
                left_out.append(error.message)
                continue
            sounds.append(loudest(samples, rate, seconds))
            prompts.append(prompt)
    for message in left_out[:SHOWN]:
        say(f"warning: left out: {message}")
    if len(left_out) > SHOWN:
        say(f"warning: left out: {len(left_out) - SHOWN} more")
    if not sounds:
        raise UserError(f"{manifest.path}: no row has a sound that can be read and a prompt: give both, as examples")
    return sounds, prompts


def _lessons(wan: Wan, captions: Sequence[str], height: int, width: int) -> tuple[Teacher, Lessons]:
    """The model as a teacher, and what it was heard to make of the captions."""
    states = wan.text.encode([*captions, ""])
    embeddings = [states[caption].clone() for caption in captions]
    teacher = Teacher(wan.experts[0], embeddings, states[""].clone())
    shape = (wan.channels, height // wan.stride, width // wan.stride)
    generator = torch.Generator().manual_seed(7)
    groups = [range(first, min(first + AT_ONCE, len(captions))) for first in range(0, len(captions), AT_ONCE)]
    made = [teacher.record(list(group), shape, generator) for group in groups]
    parts = zip(*((one.queries, one.latents, one.velocities) for one in made), strict=True)
    return teacher, Lessons(*(torch.cat(part) for part in parts))


def _drawing(
    sounds: Sequence[np.ndarray], captions: Sequence[int], device: torch.device, generator: torch.Generator
) -> Draw:
    """Draws sounds, each shifted in time, quieter or louder, and with noise of 10 to 40 dB below it."""
    every, belongs = torch.from_numpy(np.stack(sounds)).to(device), torch.tensor(captions, device=device)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        def play(low: float, high: float) -> Tensor:
            return torch.rand(count, 1, generator=generator, device=device) * (high - low) + low

        chosen = torch.randint(len(every), (count,), generator=generator, device=device)
        given = every[chosen]
        shift = (play(0, 1) * given.shape[1] / 8).long()
        places = (torch.arange(given.shape[1], device=device)[None] - shift) % given.shape[1]
        given = given.gather(1, places)
        loud = given.square().mean(1, keepdim=True).sqrt()
        noise = torch.randn(given.shape, generator=generator, device=device)
        return (given + noise * loud * 10 ** (-play(10, 40) / 20)) * play(0.3, 1), belongs[chosen]

    return draw
