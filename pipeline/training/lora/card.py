"""The model card of an adapter, and the header of its file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from wanbatch.counting import number_of
from wanbatch.pipeline.adapters.files import LOW
from wanbatch.pipeline.training.adapter_header import front_matter, origin_header
from wanbatch.pipeline.training.experts import file_names as names_of_files
from wanbatch.pipeline.training.lora.measures import Measures
from wanbatch.pipeline.training.lora.settings import EXPERTS, LoraSettings
from wanbatch.pipeline.training.read_back import FAR, words_of_base


@dataclass(frozen=True, slots=True)
class About:
    """What the user says of an adapter.

    Attributes:
        name: Of the adapter, and of its file.
        base: The model that it was trained on, as the user gave it.
        images: Where the pictures are.
        pictures: How many there are.
        template: What captions were put into.
        trigger: The word that calls for it; None: it acts on every prompt while it is active.
        license: Of the adapter.
        rights: Whose the pictures are and under what terms.
        author: Who made it.
        masks: Which parts of the pictures counted, in words; empty: all.
        prior: What kept the model as it was for other prompts, in words; empty: nothing.
        start: What it began with, in words; empty: with no change.
    """

    name: str
    base: str
    images: str
    pictures: int
    template: str = "{caption}"
    trigger: str | None = None
    license: str = "apache-2.0"
    rights: str = "not said: whoever passes the adapter on has to know them"
    author: str = ""
    prior: str = ""
    masks: str = ""
    start: str = ""


def header(about: About, settings: LoraSettings, size: tuple[int, int], shift: float, steps: int) -> dict[str, Any]:
    """What the file's header says, by the names of kohya's scripts and of modelspec.

    Args:
        about: The adapter.
        settings: Of its training.
        size: (width, height) of a square picture of the training's area.
        shift: Of the noise levels.
        steps: That were made.
    """
    said: dict[str, Any] = {
        "ss_network_module": "networks.lora",
        "ss_output_name": about.name,
        "ss_learning_rate": settings.rate,
        "ss_steps": steps,
        "ss_seed": settings.seed,
        "ss_num_train_images": about.pictures,
        "ss_discrete_flow_shift": shift,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.usage_hint": f"prompts such as {about.template!r}",
    }
    if about.trigger:
        said["modelspec.trigger_phrase"] = about.trigger
    return {key: value for key, value in (origin_header(about, size) | said).items() if value != ""}


def write(about: About, settings: LoraSettings, measures: Measures, seconds: float) -> str:
    """The README.md of an adapter.

    Args:
        about: The adapter.
        settings: Of its training.
        measures: Of what came out.
        seconds: Of training.
    """
    front = {"license": about.license, "base_model": about.base, "library_name": "diffusers"}
    if about.trigger:
        front["instance_prompt"] = about.trigger
    lines = ["---", *front_matter(front), "tags:", "- lora", "- text-to-image"]
    own = measures.held_out_pictures
    shown = (
        f"{number_of(own, 'pictures', 'that was', 'that were')} held out"
        if own
        else "the training's own pictures, since none was held out"
    )
    said = "on every prompt while it is active" if not about.trigger else f"where the prompt has `{about.trigger}`"
    file, *second = file_names(about.name, settings)
    lines += [
        "---", "", f"# {about.name}", "",
        f"An adapter (LoRA, rank {settings.rank}) for `{about.base}`, trained with `wanbatch train lora`. "
        f"It acts {said}.", "",
        "## Use", "", "```", f"wanbatch run manifest.jsonl --lora {about.name}={file}", "```", "",
        *([f"`{second[0]}` beside it is for the low noise levels; a run finds it.", ""] if second else []),
        f"Prompts were written as `{about.template}`. In diffusers: " + "; ".join(map(_of_diffusers, (file, *second)))
        + ".", "",
        "## What it brings and what it breaks", "",
        f"Losses with the same noise and levels, on {shown}:", "", "| | without | with | |", "|---|---|---|---|",
        f"| its own pictures | {measures.loss_without:.4f} | {measures.loss_with:.4f} | {-measures.gain:+.1%} |",
        f"| the model's own pictures of unrelated prompts | {measures.unrelated_loss_without:.4f} | "
        f"{measures.unrelated_loss_with:.4f} | {measures.damage:+.1%} |", "",
        f"Pictures of unrelated prompts differ from those without it by {measures.unrelated_psnr:.1f} dB (PSNR). "
        f"The file changes {measures.coverage}. Pictures without it and, below, with it: of its own prompts, then of "
        "unrelated ones.", "", "![pictures without it and with it](samples/end.png)", "",
        "## Training", "",
        f"{number_of(about.pictures, 'pictures')} from `{about.images}`. Rights in them: {about.rights}."
        + (f" Masks: {about.masks}." if about.masks else "")
        + (f" Beside them {about.prior}." if about.prior else "")
        + (f" It began with {about.start}." if about.start else ""), "",
        *_paragraph(words_of_base(measures.base_difference, measures.change_difference)),
        "| setting | value |", "|---|---|",
        *(f"| {key} | {value} |" for key, value in asdict(settings).items()),
        f"| minutes | {seconds / 60:.1f} |", "", "![losses](loss.svg)", "",
        "## Known failures", "", _failures(measures), "",
    ]  # fmt: skip
    return "\n".join(lines)


def file_names(name: str, settings: LoraSettings) -> list[str]:
    """The files of an adapter: one, or one for each transformer of A14B that is trained.

    Args:
        name: Of the adapter.
        settings: Of its training.
    """
    return names_of_files(name, ("",) if settings.expert is None else EXPERTS[settings.expert])


def _of_diffusers(file: str) -> str:
    into = ", load_into_transformer_2=True" if f"_{LOW}." in file else ""
    return f'`pipeline.load_lora_weights(".", weight_name="{file}"{into})`'


def _paragraph(text: str) -> list[str]:
    return [text, ""] if text else []


def _failures(measures: Measures) -> str:
    found = []
    if measures.gain < 0.02:
        found.append("- Its pictures are hardly likelier with it than without: it may show no effect.")
    if measures.damage > 0.25:
        found.append("- It changes pictures of prompts that have nothing to do with it.")
    if (measures.change_difference or 0) > FAR:
        found.append("- On the model as a run loads it, it changes other things than it learned on FP8 layers.")
    if not measures.held_out_pictures:
        found.append("- No picture was held out, so the numbers do not tell learning from learning by heart.")
    return "\n".join(found) or "None were found by these numbers; nothing else was looked for."
