"""From what a tagger heard to a prompt: which labels count, what they look like, how they join it. No torch."""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from wanbatch.errors import UserError

OTHERS = "*"
"""The label that stands for all that a table does not name."""

TEMPLATE = "{prompt}, {sounds}"


@dataclass(frozen=True, slots=True)
class Tag:
    """A label that was heard.

    Attributes:
        label: as the tagger calls it.
        phrase: what stands for it in the prompt; empty: nothing does.
        score: the highest of all windows, from 0 to 1.
        start: where the window with this score begins, in seconds.
        end: where it ends.
    """

    label: str
    phrase: str
    score: float
    start: float
    end: float


def known_phrases(kind: str) -> dict[str, str]:
    """The table that comes with the package for a kind of tagger: label -> what is seen where that is heard."""
    text = resources.files("wanbatch.pipeline.sound").joinpath("phrases.toml").read_text("utf-8")
    return tomllib.loads(text)[kind]


def read_phrases(path: str | Path) -> dict[str, str]:
    """A user's table of phrases, which goes before the one that comes with the package.

    Raises:
        UserError: if the file is not a TOML table of texts.
    """
    try:
        table = tomllib.loads(Path(path).expanduser().read_text("utf-8-sig"))
    except OSError as error:
        raise UserError(f"setting sound_phrases: {path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise UserError(f'setting sound_phrases: {path}: {error}: write lines like "Bird" = "a bird"') from error
    for label, phrase in table.items():
        if not isinstance(phrase, str) or len(phrase) > 1000:
            raise UserError(
                f'setting sound_phrases: {path}: {label!r} is {phrase!r:.60}: must be text, as in "Bird" = "a bird"; '
                "empty text keeps a label out of prompts"
            )
    return table


def check_template(template: str) -> None:
    """Raises UserError unless a template has `{sounds}`, and no field but that and `{prompt}`."""
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UserError(f"setting sound_template: {template!r}: {error}: write it like {TEMPLATE!r}") from error
    if "sounds" not in fields or not set(fields) <= {"prompt", "sounds"}:
        raise UserError(
            f"setting sound_template: {template!r}: must have {{sounds}}, and {{prompt}} if the prompt is to be "
            f"kept, and no other field: write it like {TEMPLATE!r}"
        )


def phrase_of(label: str, phrases: Mapping[str, str]) -> str:
    """What stands for a label in the prompt: what the table says of it, of its last word, or of all, else itself."""
    last = f"{OTHERS} {label.split()[-1]}" if label.split() else OTHERS
    phrase = next((phrases[name] for name in (label, last, OTHERS) if name in phrases), "{label}")
    return phrase.replace("{label}", label.lower())


def heard_tags(
    scores: np.ndarray,
    spans: Sequence[tuple[float, float]],
    labels: Sequence[str],
    phrases: Mapping[str, str],
    threshold: float,
    top: int,
) -> tuple[list[Tag], Tag]:
    """The labels that count, the highest score first, and the best of all, whether it counts or not.

    Args:
        scores: float [windows, labels], from 0 to 1.
        spans: begin and end of each window, in seconds.
        labels: the names of the labels.
        phrases: label -> phrase; see `phrase_of`. Labels with an empty phrase never count.
        threshold: the least score that counts.
        top: the most labels that count.
    """
    best_window = scores.argmax(axis=0)
    best = scores[best_window, np.arange(len(labels))]
    order = np.argsort(-best, kind="stable")
    tags = (
        Tag(labels[i], phrase, float(best[i]), *spans[int(best_window[i])])
        for i in order
        if (phrase := phrase_of(labels[i], phrases))
    )
    found: list[Tag] = []
    first: Tag | None = None
    for tag in tags:
        first = first or tag
        if tag.score < threshold or len(found) == top:
            break
        found.append(tag)
    return found, first or Tag("nothing", "", 0.0, 0.0, 0.0)


def joined_prompt(prompt: str, tags: Sequence[Tag], template: str) -> str:
    """The prompt with the phrases of tags, each once. Without a prompt they stand alone; without tags it does."""
    sounds = ", ".join(dict.fromkeys(tag.phrase for tag in tags))
    if not sounds:
        return prompt
    return template.replace("{prompt}", prompt).replace("{sounds}", sounds) if prompt.strip() else sounds
