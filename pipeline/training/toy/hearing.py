"""Trains the small model's own sound adapter, and judges what it makes of sounds.

    python -m wanbatch.pipeline.training.toy.hearing --out DIR --minutes 3           on one GPU
    python -m wanbatch.pipeline.training.toy.hearing --out DIR --minutes 30 --stop-after 2.5    on a CPU, in pieces

The same command goes on where an earlier one ended. DIR gets `adapter.safetensors`, and `scores.json` once the
training is done: of held-out combinations, the share of pictures from sound alone in which the judge reads the
attributes, beside the same of captions as text. `--score-only` judges an adapter that is there.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanbatch.pipeline.sound.adapter import SoundAdapter
from wanbatch.pipeline.training.loop import Budget
from wanbatch.pipeline.training.sound.distillation import Plan, distill
from wanbatch.pipeline.training.sound.noises import with_noises
from wanbatch.pipeline.training.sound.teacher import Lessons, Teacher
from wanbatch.pipeline.training.toy import sounds
from wanbatch.pipeline.training.toy.denoiser import embed
from wanbatch.pipeline.training.toy.hearing_scores import changed_objects, score
from wanbatch.pipeline.training.toy.scores import Studio

TINY = Path(__file__).resolve().parents[2] / "tiny"
SIZE = 128
NOISE, CLEAN, PAIRS = (-1.0, 30.0), 0.15, 0.1  # decibels; shares of the sounds without any, and with another one
GPU_PLAN = Plan(batch=512, velocity_batch=256)
CPU_PLAN = Plan(batch=64, velocity_batch=16, velocity_share=0.3)


class Readout(nn.Module):
    """Reads the four attributes from an encoder's frames; it keeps the encoder honest and is thrown away."""

    def __init__(self, dim: int):
        super().__init__()
        self.hidden = nn.Linear(4 * dim, 2 * dim)
        self.heads = nn.ModuleList(nn.Linear(2 * dim, len(names)) for names in sounds.NAMES.values())

    def forward(self, frames: Tensor, indices: Tensor) -> Tensor:
        """The cross-entropy of all four."""
        quarters = frames.unflatten(1, (4, -1)).mean(2).flatten(1)
        hidden = F.gelu(self.hidden(quarters))
        loss = frames.new_zeros(())
        for head, names in zip(self.heads, sounds.NAMES.values(), strict=True):
            loss = loss + F.cross_entropy(head(hidden), indices % len(names))
            indices = indices // len(names)
        return loss / len(self.heads)


@torch.no_grad()
def teacher_of(studio: Studio) -> Teacher:
    """The small model as a teacher of all combinations' captions."""
    texts = [sounds.caption(index) for index in range(sounds.COMBINATIONS)]
    return Teacher(studio.dit, embeddings_of(studio, texts), embeddings_of(studio, [""])[0])


@torch.no_grad()
def embeddings_of(studio: Studio, texts: list[str]) -> list[Tensor]:
    """Text embeddings [tokens, dim], without padding."""
    batch = studio.pipeline.tokenizer(texts, padding=True, return_tensors="pt").to(studio.device)
    lengths = batch.attention_mask.sum(1)
    states = embed(studio.encoder, batch.input_ids, lengths)
    return [state[:length].clone() for state, length in zip(states, lengths.tolist(), strict=True)]


def lessons_of(teacher: Teacher, studio: Studio, folder: Path) -> Lessons:
    """Of all combinations, in their order; kept in a file, for the next piece of the training."""
    file = folder / "lessons.pt"
    if file.exists():
        return Lessons(*(part.to(studio.device) for part in torch.load(file, weights_only=True)))
    stride = studio.pipeline.vae_scale_factor_spatial
    shape = (len(studio.vae.mean), SIZE // stride, SIZE // stride)
    generator = torch.Generator().manual_seed(7)
    parts = []
    for first in range(0, sounds.COMBINATIONS, 60):
        indices = range(first, min(first + 60, sounds.COMBINATIONS))
        made = teacher.record(list(indices), shape, generator)
        parts.append((made.queries, made.latents, made.velocities))
    joined = [torch.cat(part) for part in zip(*parts, strict=True)]
    torch.save([part.cpu() for part in joined], file)
    return Lessons(*joined)


def sound_source(device: torch.device, seed: int):
    """Draws sounds of the combinations that are trained on: noisy, clean, with a quieter one beside, noise alone."""
    trained = torch.tensor([i for i in range(sounds.COMBINATIONS) if not sounds.held_out(i)], device=device)
    generator = torch.Generator(device).manual_seed(seed)

    def some(count: int) -> Tensor:
        return trained[torch.randint(len(trained), (count,), generator=generator, device=device)]

    def draw(count: int) -> tuple[Tensor, Tensor]:
        chosen = some(count)
        given = sounds.synthesise(chosen, generator, noise=NOISE, clean=CLEAN)
        pairs = round(PAIRS * count)
        if pairs:
            other = sounds.synthesise(some(pairs), generator)
            louder = torch.rand(pairs, 1, generator=generator, device=device) * 9 + 6
            given = torch.cat([sounds.mixed(given[:pairs], other, louder), given[pairs:]])
        return given, chosen

    return with_noises(draw, sounds.RATE, generator)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="wanbatch.pipeline.training.toy.hearing", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the result, and of what is needed to go on"
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="of training in all")
    parser.add_argument("--stop-after", type=float, default=math.inf, help="minutes after which this piece ends")
    parser.add_argument("--max-steps", type=int, default=1_000_000)
    parser.add_argument("--count", type=int, default=256, help="pictures that each score is of")
    parser.add_argument("--threads", type=int, default=0, help="of torch on a CPU; 0: its own number")
    parser.add_argument("--score-only", action="store_true", help="judge the adapter that is there")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(3)
    studio = Studio(TINY, device)
    teacher = teacher_of(studio)
    file = given.out / "adapter.safetensors"
    if not given.score_only:
        finished = _train(studio, teacher, given, device)
        if not finished:
            return
    adapter = SoundAdapter.load(file).to(device)
    scores = score(studio, teacher, adapter, given.count)
    scores |= changed_objects(studio, teacher, adapter, min(given.count, 64))
    record = given.out / "training.json"
    training = json.loads(record.read_text()) if record.exists() else {}
    (given.out / "scores.json").write_text(json.dumps({"training": training, "scores": scores}, indent=1) + "\n")
    print(json.dumps(scores, indent=1))


def _train(studio: Studio, teacher: Teacher, given: argparse.Namespace, device: torch.device) -> bool:
    """Train until the budget or this piece ends, and write the adapter. Returns whether the budget is spent."""
    lessons = lessons_of(teacher, studio, given.out)
    adapter = SoundAdapter.new(teacher.empty.shape[1], scale=teacher.scale, resampler={"gate": True}).to(device)
    readout = Readout(adapter.encoder.dim).to(device)
    adapter.encoder.readout = readout  # trained, kept in the state, and left out of the file
    gpu = device.type == "cuda"
    plan = GPU_PLAN if gpu else CPU_PLAN
    budget = Budget(given.minutes, given.max_steps, given.stop_after)
    state = given.out / "state.pt"
    seed = 1000 + (state.stat().st_mtime_ns % 1_000_000 if state.exists() else 0)
    result = distill(adapter, teacher, lessons, sound_source(device, seed), budget, plan, state, readout)
    del adapter.encoder.readout
    adapter.save(given.out / "adapter.safetensors")
    where = torch.cuda.get_device_name(device) if gpu else "cpu"
    record = {**result, "device": where, "torch": torch.__version__}
    (given.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record), flush=True)
    return budget.progress >= 1


if __name__ == "__main__":
    main()
