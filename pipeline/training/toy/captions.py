"""Captions for the small world, and the tokenizer that reads them.

`write` says what a picture shows in one of many ways; `vocabulary` is every word it may use. A caption that
names a background and no texture means a plain one; other attributes left out may be anything.
"""

from __future__ import annotations

import json
import random
import string
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import T5Tokenizer

from wanbatch.pipeline.evaluation.attributes import COLOURS

WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "shape": {
        "circle": ("circle", "circle", "disc", "ball"),
        "square": ("square", "square", "box"),
        "triangle": ("triangle",),
        "star": ("star",),
        "heart": ("heart",),
        "diamond": ("diamond", "diamond", "rhombus"),
        "cross": ("cross", "cross", "plus sign"),
        "moon": ("moon", "moon", "crescent", "crescent moon"),
    },
    "colour": {name: (name,) for name in COLOURS} | {"purple": ("purple", "purple", "violet")},
    "size": {
        "small": ("small", "small", "tiny", "little"),
        "medium": ("medium", "medium-sized", "medium sized", "mid-sized"),
        "large": ("large", "large", "big", "big", "huge"),
    },
    "place": {
        "center": ("in the center", "in the middle", "at the center", "centered", "center", "in the centre"),
        "left": ("on the left", "at the left", "to the left", "on the left side", "left"),
        "right": ("on the right", "at the right", "to the right", "on the right side", "right"),
        "top": ("at the top", "on top", "in the upper part", "top", "near the top"),
        "bottom": ("at the bottom", "in the lower part", "bottom", "near the bottom"),
    },
    "texture": {
        "plain": ("plain", "plain", "solid", "flat"),
        "striped": ("striped", "striped", "stripy"),
        "dotted": ("dotted", "dotted", "spotted", "polka dot", "polka-dot"),
        "checkered": ("checkered", "checkered", "checked", "chequered", "checkerboard"),
    },
}
_PATTERN_NOUNS = {"striped": "stripes", "dotted": "dots", "checkered": "checks"}
_OPENINGS = ("", "", "", "a picture of ", "an image of ", "there is ", "a photo of ", "a drawing of ")
_FILLER = (
    "beautiful", "nice", "bright", "cute", "simple", "shiny", "very", "pretty", "lovely", "glossy", "colorful",
    "minimal", "style", "art", "icon", "quality", "high", "best", "soft", "light", "shadow", "clean", "and",
)  # fmt: skip
_GLUE = (
    "a an the of on in at to with is it its background backdrop against over sits placed located shape "
    "colored coloured color colour size pattern one single"
)
_STRAY = (
    "it",
    "its",
    "sits",
    "placed",
    "located",
    "colored",
    "coloured",
    "color",
    "colour",
    "size",
    "pattern",
    "single",
    "3",
    "s",
)
_PUNCTUATION = (",", ".", ";", ":", "!", "?", "-", "'", '"', "(", ")")

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def write(names: dict[str, str], rng: random.Random, *, full: bool = False) -> str:
    """One caption. names: `{field: name}` of a picture. full: leave no attribute out and add no noise."""
    said = {field: rng.choice(WORDS["colour" if field == "background" else field][name])
            for field, name in names.items()}  # fmt: skip
    keep = {field: full or rng.random() > chance for field, chance in
            {"shape": 0.03, "colour": 0.06, "size": 0.15, "place": 0.15, "background": 0.12}.items()}  # fmt: skip
    background = _background(names, said, rng, full) if keep["background"] else ""
    place = said["place"] if keep["place"] else ""
    text = _arrange(_thing(said, keep, rng), place, background, rng)
    if not full:
        text = _disturb(text, rng)
    return text


def _thing(said: dict[str, str], keep: dict[str, bool], rng: random.Random) -> str:
    size = said["size"] if keep["size"] else ""
    colour = said["colour"] if keep["colour"] else ""
    shape = said["shape"] if keep["shape"] else "shape"
    late = size and rng.random() < 0.1
    adjectives = [word for word in ("" if late else size, colour) if word]
    if len(adjectives) == 2 and rng.random() < 0.1:
        adjectives.reverse()
    phrase = " ".join([*adjectives, shape])
    article = rng.choice(("a", "a", "a", "the", "one", ""))
    if article == "a" and phrase[0] in "aeiou":
        article = "an"
    return f"{article} {phrase}".strip() + (f", {size}" if late else "")


def _background(names: dict[str, str], said: dict[str, str], rng: random.Random, full: bool) -> str:
    colour, texture, noun = said["background"], said["texture"], rng.choice(("background", "background", "backdrop"))
    article = rng.choice(("a ", "a ", "the ", ""))
    if names["texture"] == "plain" and rng.random() < (0.25 if full else 0.5):
        options = [f"{colour} {noun}", colour] if not full else [f"{colour} {noun}"]
        chosen = rng.choice(options)
        return article + chosen if noun in chosen else chosen
    options = [f"{article}{texture} {colour} {noun}", f"{article}{colour} {texture} {noun}"]
    if names["texture"] != "plain":
        pattern = _PATTERN_NOUNS[names["texture"]]
        options += [f"{article}{colour} {noun} with {pattern}", f"{colour} {pattern}"]
    return rng.choice((*options[:2], *options))


def _arrange(thing: str, place: str, background: str, rng: random.Random) -> str:
    opening = rng.choice(_OPENINGS)
    link = rng.choice((" on ", " on ", " against ", ", ", " over ", " with "))
    if not background:
        return rng.choice((f"{opening}{thing} {place}", f"{opening}{thing}, {place}", f"{place}: {thing}"))
    if not place:
        return rng.choice((f"{opening}{thing}{link}{background}", f"{background}, {thing}"))
    return rng.choice((
        f"{opening}{thing} {place}{link}{background}",
        f"{opening}{thing} {place}{link}{background}",
        f"{opening}{thing}{link}{background}, {place}",
        f"{place}, {thing}{link}{background}",
        f"on {background}, {thing} {place}",
        f"{background}: {thing}, {place}",
        f"{thing}, {place}, {background}",
    ))  # fmt: skip


def _disturb(text: str, rng: random.Random) -> str:
    """What people do to prompts: words that mean nothing here, full stops, nothing at all."""
    words = text.split()
    while rng.random() < 0.2:
        letters = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 8)))
        words.insert(rng.randrange(len(words) + 1), rng.choice((*_FILLER, *_STRAY, *[letters] * 15)))
    return " ".join(words) + rng.choice(("", "", "", rng.choice(".,;:!?-'\"()")))


def vocabulary() -> list[str]:
    """Every known word, in a fixed order."""
    words = _GLUE.split() + list(_FILLER) + list(_PATTERN_NOUNS.values())
    words += [word for opening in _OPENINGS for word in opening.split()]
    for names in WORDS.values():
        words += [word for phrases in names.values() for phrase in phrases for word in phrase.split()]
    return list(dict.fromkeys(part for word in words for part in word.split("-")[:1]))


def build_tokenizer(folder: Path) -> T5Tokenizer:
    """Writes the tokenizer's files and loads them: whole words, punctuation, `<unk>` for everything else.

    A T5 tokenizer (Unigram over `▁`-marked words) as Wan's, with upper case folded by a character map, which is
    the only normaliser that transformers keeps when it loads one.
    """
    pieces = [(PAD, 0.0), (END, 0.0), (UNKNOWN, -20.0), ("▁", -4.0)]
    pieces += [("▁" + word, -6.0) for word in vocabulary()] + [(mark, -5.0) for mark in _PUNCTUATION]
    # After a hyphen a word goes on without a space: "medium-sized".
    pieces += [("sized", -6.5), ("dot", -6.5)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(lower_case_map())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    tokenizer.add_special_tokens([PAD, END, UNKNOWN])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": 512,
        "pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return T5Tokenizer.from_pretrained(folder)


def lower_case_map() -> bytes:
    """SentencePiece's precompiled character map for A-Z to a-z.

    The format: the trie's size in bytes, the trie, then the replacements, each ended by a zero byte. The trie is a
    double array of 32-bit units (darts-clone): a unit holds its label in bits 0-7, "a leaf follows" in bit 8 and
    from bit 10 on an offset, which, combined by exclusive or with the next byte, is the next unit's place. All
    keys are single bytes here, so the root leads to 256 ^ byte and from there to a leaf with the replacement's
    place.
    """
    units = [0] * 1024
    units[0] = 256 << 10
    for index, letter in enumerate(string.ascii_uppercase.encode()):
        node, leaf = 256 ^ letter, 512 ^ letter
        units[node] = letter | 1 << 8 | (node ^ leaf) << 10
        units[leaf] = index * 2 | 1 << 31
    trie = b"".join(unit.to_bytes(4, "little") for unit in units)
    return (
        len(trie).to_bytes(4, "little")
        + trie
        + b"".join(letter.encode() + b"\0" for letter in string.ascii_lowercase)
    )
