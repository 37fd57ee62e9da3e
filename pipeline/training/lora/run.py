"""The whole of an adapter's training: from pictures to a file, its numbers, its samples and its card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wanbatch.counting import number_of
from wanbatch.pipeline.models.dit import FrameTransformer
from wanbatch.pipeline.training.lora import card
from wanbatch.pipeline.training.lora.buckets import bucket
from wanbatch.pipeline.training.lora.examples import UNMASKED_WEIGHT, Examples, Picture, encode_examples
from wanbatch.pipeline.training.lora.measures import Comparison, Measures, compare, measure, sheet
from wanbatch.pipeline.training.lora.model import TrainingModel
from wanbatch.pipeline.training.lora.plot import loss_plot
from wanbatch.pipeline.training.lora.settings import EXPERTS, LoraSettings
from wanbatch.pipeline.training.lora.start import AT_NO_CHANGE, Start
from wanbatch.pipeline.training.lora.training import LoraTraining, Prior
from wanbatch.pipeline.training.low_rank import LowRankAdapters
from wanbatch.pipeline.training.processes import ALONE, Processes
from wanbatch.pipeline.training.same_training import ensure_same_training

UNRELATED = (
    "a dog on the beach", "a red car in the snow", "a house in a meadow", "an apple on a blue background",
)  # fmt: skip
"""Prompts by which damage is measured if no others are given."""

MEASURES_FILE, PLOT_FILE, CARD_FILE = "measures.json", "loss.svg", "README.md"
SAMPLED = 4  # prompts of each kind


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears of a training's progress.

    Attributes:
        say: Takes a line of text.
        encoded: Takes how many pictures are encoded.
        stepped: Takes how many steps are made, and the last one's loss.
    """

    say: Callable[[str], None] = print
    encoded: Callable[[int], None] = lambda number: None
    stepped: Callable[[int, float], None] = lambda number, loss: None


def train_lora(
    model: TrainingModel,
    pictures: Iterable[Picture],
    about: card.About,
    settings: LoraSettings,
    out: Path,
    *,
    area: int | None = None,
    prompts: Sequence[str] = (), unrelated: Sequence[str] = UNRELATED,
    prior: Iterable[Picture] = (), prior_weight: float = 1.0,
    unmasked_weight: float = UNMASKED_WEIGHT,
    cache: Path | None = None,
    start: Start = AT_NO_CHANGE,
    processes: Processes = ALONE,
    listener: Listener = Listener(),
) -> tuple[Path, Measures]:  # fmt: skip
    """Train an adapter into a folder, from which the same call goes on if it did not end.

    Args:
        model: What it is trained on; it is frozen and gets adapters.
        pictures: Of the training; read one at a time.
        about: What there is to say of the adapter.
        settings: Of the training.
        out: The folder; made if it is not there.
        area: Of a picture, in pixels; None: the model's own.
        prompts: Of the sample pictures; none: some captions of the training.
        unrelated: Prompts that have nothing to do with the adapter.
        unmasked_weight: Of the loss where the pictures' masks are black.
        cache: Folder of latents, which trainings may share; None: one in `out`.
        start: What the adapter begins with.
        processes: That train it together; the first one writes.
        prior, prior_weight: Pictures of what the model shall go on making, and the weight of their loss.
        listener: Hears of the progress.

    Returns:
        The adapter's file, and what was measured.

    Raises:
        UserError: If the folder is of another training, or the loss is not a number any more.
    """
    area = area or model.info.width * model.info.height
    encode = partial(encode_examples, model=model, area=area, cache=cache or out / "cache")
    with processes.first_one_first():
        examples = encode(pictures, told=listener.encoded, unmasked_weight=unmasked_weight)
        beside = Prior.of(encode(prior, told=lambda number: None), prior_weight)
        _ensure_same_training(out, settings, examples, model, about, beside, start)
    training, held = examples.split(settings.held_out, settings.seed)
    adapters = LowRankAdapters(_trained_experts(model, settings))
    loop = LoraTraining(model, adapters, about.name, training, settings, out, listener.say, beside, processes, start)
    return _trained(loop, about, held, area, (prompts, unrelated), listener)


def _trained(
    loop: LoraTraining,
    about: card.About,
    held: Examples,
    area: int,
    prompts: tuple[Sequence[str], Sequence[str]],
    listener: Listener,
) -> tuple[Path, Measures]:
    """Train to the last step, with pictures of some prompts on the way, and in the end of unrelated ones, too."""
    if not loop.processes.first:
        loop.run(lambda made: None, listener.stepped)
        loop.processes.wait()
        return _left_by_the_first(loop, about)
    out, size = loop.out, bucket(1, 1, loop.model.info.multiple, area)
    samples, shown = _Samples(loop, size), tuple(prompts[0]) or _some_captions(held, loop.examples)
    loop.run(lambda made: samples.write(out / f"samples/step-{made:06d}.png", shown), listener.stepped)
    files = _save(loop, about, size)
    count = number_of(len(shown) + len(prompts[1]), "prompts")
    listener.say(f"{files[0]} is written; now pictures of {count} without it and with it, which are measured")
    _, other = samples.write(out / "samples/end.png", shown, prompts[1])
    return _finish(loop, about, files[0], (held, len(held)) if len(held) else (loop.examples, 0), other)


def _save(loop: LoraTraining, about: card.About, size: tuple[int, int]) -> list[Path]:
    """Write the adapter, of A14B for each expert that is trained."""
    settings, out = loop.settings, loop.out
    shift = loop.model.info.shift if settings.shift is None else settings.shift
    header = card.header(about, settings, size, shift, settings.steps)
    files = [out / name for name in card.file_names(about.name, settings)]
    for expert, file in zip(loop.adapters.experts, files, strict=True):
        loop.adapters.save(about.name, file, header | {"ss_output_name": file.stem}, expert=expert)
    return files


def _finish(
    loop: LoraTraining, about: card.About, file: Path, own: tuple[Examples, int], other: Comparison
) -> tuple[Path, Measures]:
    """Write the adapter's numbers and its card."""
    measured = measure(loop.model, loop.adapters, about.name, own, other, file)
    _describe(loop.out, about, loop.settings, measured, loop)
    loop.processes.wait()
    return file, measured


def _left_by_the_first(loop: LoraTraining, about: card.About) -> tuple[Path, Measures]:
    found = json.loads((loop.out / MEASURES_FILE).read_text())
    return loop.out / card.file_names(about.name, loop.settings)[0], Measures(**found)


def _trained_experts(model: TrainingModel, settings: LoraSettings) -> dict[str, FrameTransformer]:
    """The transformers that are trained, by name."""
    names = EXPERTS[settings.expert] if settings.expert is not None else ("",)
    return {name: model.experts[name] for name in names}


def _describe(out: Path, about: card.About, settings: LoraSettings, measured: Measures, loop: LoraTraining) -> None:
    """Write numbers, losses and card."""
    (out / MEASURES_FILE).write_text(json.dumps(measured.as_dict(), indent=1) + "\n")
    (out / PLOT_FILE).write_text(loss_plot(loop.losses, f"{about.name}: loss of each step"))
    (out / CARD_FILE).write_text(card.write(about, settings, measured, loop.budget.elapsed))


@dataclass(frozen=True, slots=True)
class _Samples:
    """Makes pictures without and with an adapter, always of the same noise; see `measures.compare`."""

    loop: LoraTraining
    size: tuple[int, int]

    def write(self, path: Path, *prompts: Sequence[str]) -> list[Comparison]:
        """Write a sheet with the pictures of each set of prompts, and return these."""
        path.parent.mkdir(exist_ok=True)
        loop, steps = self.loop, self.loop.settings.sample_steps
        made = [compare(loop.model, loop.adapters, loop.name, each, self.size, steps) for each in prompts]
        sheet(loop.model, made).save(path)
        return made


def _some_captions(held: Examples, training: Examples) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_captions(held) + _captions(training)))[:SAMPLED]


def _captions(examples: Examples) -> list[str]:
    return [caption for captions in examples.captions for caption in captions]


def _ensure_same_training(
    out: Path,
    settings: LoraSettings,
    examples: Examples,
    model: TrainingModel,
    about: card.About,
    prior: Prior | None,
    start: Start,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    said: dict[str, Any] = asdict(settings) | {
        "name": about.name,
        "model": model.info.digest,
        "pictures": len(examples),
        "content": _digest(examples),
        "captions": list(dict.fromkeys(_captions(examples)))[:SAMPLED],
    }
    said |= {"prior": prior and _digest(prior.examples), "prior_weight": prior and prior.weight}
    said["start"] = start.digest
    others = "other pictures or captions" + (" or masks" if examples.weights else "")
    words = {"content": others, "captions": others, "model": "another model", "prior": "another --prior or none"}
    words["start"] = "another --start-from or none"
    ensure_same_training(out, said, words, asdict(LoraSettings()))


def _digest(examples: Examples) -> str:
    total = hashlib.sha256()
    for latents, captions in zip(examples.latents, examples.captions, strict=True):
        total.update(latents.numpy().tobytes())
        total.update("\0".join(captions).encode())
    for weights in examples.weights:
        total.update(weights.numpy().tobytes())
    return total.hexdigest()[:32]
