"""The whole of a distillation of any model: from prompts to a file, its numbers, its pictures and its card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from wanbatch.counting import number_of
from wanbatch.pipeline.training.adapter_header import origin_header
from wanbatch.pipeline.training.few_step import card
from wanbatch.pipeline.training.few_step.distillation import Distillation
from wanbatch.pipeline.training.few_step.losses import Prompts
from wanbatch.pipeline.training.few_step.measures import Measures, measure, sheet
from wanbatch.pipeline.training.few_step.settings import FewStepSettings
from wanbatch.pipeline.training.few_step.teacher import STUDENT, PromptBank, with_latents
from wanbatch.pipeline.training.loop import Budget
from wanbatch.pipeline.training.lora.model import TrainingModel, padded
from wanbatch.pipeline.training.low_rank import IMAGE_LAYERS, LowRankAdapters
from wanbatch.pipeline.training.processes import ALONE, Processes
from wanbatch.pipeline.training.same_training import ensure_same_training

MEASURES_FILE, CARD_FILE, SHEET_FILE = "measures.json", "README.md", "samples.png"
ENCODED_TOGETHER = 256  # prompts


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears of a distillation's progress.

    Attributes:
        say: Takes a line of text.
        stepped: Takes how many steps are made, and the phase.
    """

    say: Callable[[str], None] = print
    stepped: Callable[[int, str], None] = lambda made, phase: None


def train_few_step(
    model: TrainingModel,
    prompts: Sequence[str],
    about: card.About,
    settings: FewStepSettings,
    budget: Budget,
    out: Path,
    *,
    size: tuple[int, int],
    shown: Sequence[str],
    minutes_between: float = 10.0,
    processes: Processes = ALONE,
    listener: Listener = Listener(),
) -> tuple[Path, Measures]:
    """Distil a model into a folder, from which the same call goes on if it did not end.

    Args:
        model: The teacher; it is frozen and gets adapters.
        prompts: That are learned from; there are no pictures.
        about: What there is to say of the adapter.
        settings: Of the distillation.
        budget: How long.
        out: The folder; made if it is not there.
        size: (width, height) of a picture in pixels.
        shown: Prompts of the sample pictures, and of what is measured.
        minutes_between: Of training, from one kept state to the next.
        processes: That train it together; the first one writes. The budget of several ends with its steps.
        listener: Hears of the progress.

    Returns:
        The adapter's file, and what was measured.

    Raises:
        UserError: If the folder is of another training, or a loss is not a number any more.
    """
    out.mkdir(parents=True, exist_ok=True)
    with processes.first_one_first():
        said = _identity(model, prompts, settings, size, about.name)
        ensure_same_training(out, said, _WORDS, asdict(FewStepSettings()))
    torch.manual_seed(settings.seed)
    adapters = LowRankAdapters((experts := model.by_level).by_name, IMAGE_LAYERS)
    begin = number_of(min(settings.teacher_latents, len(prompts)), "pictures")
    listener.say(f"the teacher makes {begin} to begin with")
    bank = with_latents(experts, adapters, encode_bank(model, prompts, size), settings, out, processes)
    training = Distillation(experts, adapters, bank, settings, budget, out, listener.say, about.name, processes)
    done = training.run(dict, minutes_between, listener.stepped)
    if processes.first:
        return _finish(training, model, about, done, size, shown)
    processes.wait()
    return training.files[0], Measures.read(out / MEASURES_FILE)


def _finish(
    training: Distillation,
    model: TrainingModel,
    about: card.About,
    done: dict[str, Any],
    size: tuple[int, int],
    shown: Sequence[str],
) -> tuple[Path, Measures]:
    """Write the adapter, its numbers, its pictures and its card."""
    out, settings, files = training.out, training.settings, training.files
    training.learners[STUDENT].average.adopt()
    training.save_adapter(origin_header(about, size))
    found, pictures = measure(model, training.adapters, files[0], settings, size, shown)
    sheet(model, pictures).save(out / SHEET_FILE)
    (out / MEASURES_FILE).write_text(json.dumps(found.as_dict() | done, indent=1) + "\n")
    (out / CARD_FILE).write_text(card.write(about, settings, found, done, size, [file.name for file in files]))
    training.processes.wait()
    return files[0], found


def encode_bank(model: TrainingModel, prompts: Sequence[str], size: tuple[int, int]) -> PromptBank:
    """Text states of prompts as one batch on the model's device, and no latents yet.

    Args:
        model: With its text encoder.
        prompts: Of all rows.
        size: (width, height) of a picture in pixels.
    """
    states = []
    for first in range(0, len(prompts), ENCODED_TOGETHER):
        part = prompts[first : first + ENCODED_TOGETHER]
        known = model.embeddings(part)
        states += [known[prompt] for prompt in part]
    negative = model.info.negative_prompt
    embeds, lengths = padded([*states, model.embeddings([negative])[negative]])
    shape = (0, len(model.vae.mean), size[1] // model.stride, size[0] // model.stride)
    latents = torch.zeros(shape, device=model.device)
    return PromptBank(Prompts(embeds[:-1], lengths[:-1]), Prompts(embeds[-1:], lengths[-1:]), latents)


_WORDS = {"prompts": "other prompts", "model": "another model"}


def _identity(
    model: TrainingModel, prompts: Sequence[str], settings: FewStepSettings, size: tuple[int, int], name: str
) -> dict[str, Any]:
    """By what a training is told from others; learning rates may change, so that one that diverged can go on."""
    said = {key: value for key, value in asdict(settings).items() if not key.endswith("_rate")}
    texts = hashlib.sha256("\0".join(prompts).encode()).hexdigest()[:32]
    return said | {"name": name, "model": model.info.digest, "prompts": texts, "width": size[0], "height": size[1]}
