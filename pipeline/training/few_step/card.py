"""The model card of an adapter for few steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wanbatch.counting import number_of
from wanbatch.pipeline.training.adapter_header import front_matter
from wanbatch.pipeline.training.few_step.measures import Measures
from wanbatch.pipeline.training.few_step.settings import FewStepSettings
from wanbatch.pipeline.training.read_back import FAR, words_of_base

FALLS_SHORT = 0.9  # of what the model as it was does
NARROWER = 0.8  # of the teacher's diversity


@dataclass(frozen=True, slots=True)
class About:
    """What the user says of an adapter for few steps.

    Attributes:
        name: Of the adapter, and of its file.
        base: The model that it was distilled from, as the user gave it.
        prompts: Where the prompts are from.
        count: How many there are.
        license: Of the adapter.
        author: Who made it.
    """

    name: str
    base: str
    prompts: str
    count: int
    license: str = "apache-2.0"
    author: str = ""


def write(
    about: About,
    settings: FewStepSettings,
    measures: Measures,
    done: Mapping[str, Any],
    size: tuple[int, int],
    files: Sequence[str],
) -> str:
    """The README.md of an adapter.

    Args:
        about: The adapter.
        settings: Of the distillation.
        measures: Of what came out.
        done: What `Distillation.run` returned.
        size: (width, height) of a training picture in pixels.
        files: Names of the adapter's files, one for each transformer.
    """
    (file, *second), steps = files, number_of(settings.main_steps, "steps")
    guidance = f"{settings.guidance:g}" + (f" and {settings.guidance_2:g}" if settings.guidance_2 else "")
    front = {"license": about.license, "base_model": about.base, "library_name": "diffusers"}
    lines = [
        "---", *front_matter(front), "tags:", "- lora", "- text-to-image", "---", "",
        f"# {about.name}", "",
        f"An adapter (LoRA, rank {settings.rank}) for `{about.base}`, with which it makes pictures in "
        f"{steps} of `euler` without guidance, distilled with `wanbatch train few-step`.", "",
        "## Use", "", "```",
        f"wanbatch run manifest.jsonl --lora {about.name}={file} --merge {about.name} --preset fast",
        "```", "",
        *([f"`{second[0]}` beside it is for the low noise levels; a run finds it.", ""] if second else []),
        f"In other tools: {steps} of Euler's method, shift {settings.shift:g}, guidance 1.", "",
        "## What it does", "",
        f"{number_of(measures.pictures, 'pictures')} of the same prompts from the same noise; latents are "
        f"compared, the norm of their difference over that of the teacher's.", "",
        "| | from the teacher's pictures | between two pictures of one prompt |", "|---|---|---|",
        f"| the teacher, {number_of(settings.teacher_steps, 'steps')}, guidance {guidance} | 0 | "
        f"{measures.diversity_of_teacher:.3f} |",
        f"| as it was, {steps}, no guidance | {measures.distance_without:.3f} | |",
        f"| with the adapter, {steps} | {measures.distance_with:.3f} | "
        f"{measures.diversity_with:.3f} |", "",
        f"The file changes {measures.coverage}. Below are the three ways, one below the other.", "",
        "![pictures of the teacher, without the adapter, and with it](samples.png)", "",
        "## Training", "",
        f"{number_of(about.count, 'prompts')} from `{about.prompts}`, no pictures; {size[0]}x{size[1]} pixels; "
        f"{number_of(done['steps'], 'steps')} in {done['seconds'] / 60:.1f} minutes.", "",
        *_paragraph(words_of_base(measures.base_difference, measures.change_difference)),
        "| setting | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in asdict(settings).items()), "",
        "## Known failures", "", _failures(measures, str(done["phase"])), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _paragraph(text: str) -> list[str]:
    return [text, ""] if text else []


def _failures(measures: Measures, phase: str) -> str:
    found = []
    if measures.distance_with > FALLS_SHORT * measures.distance_without:
        found.append("- It is hardly nearer to the teacher than the model as it was: it may need more training.")
    if measures.diversity_with < NARROWER * measures.diversity_of_teacher:
        found.append("- Its pictures of one prompt are more alike than the teacher's.")
    if (measures.change_difference or 0) > FAR:
        found.append("- On the model as a run loads it, it changes other things than it learned on FP8 layers.")
    if phase == "consistency":
        found.append("- Its training ended before the matching of distributions began.")
    return "\n".join(found) or "None were found by these numbers; nothing else was looked for."
