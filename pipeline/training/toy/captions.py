"""Captions for the small world.

`write` says what a picture shows in one of many ways; `vocabulary` is every word it may use. A caption that names a
background's colour and no texture means a plain one, one that names no style means emoji artwork, and objects that
are only counted up stand from left to right or from top to bottom; other attributes left out may be anything.
"""

from __future__ import annotations

import random
import string

from wanbatch.pipeline.evaluation.attributes import NONE, NOUNS

OTHER_NAMES = {
    "dog": ("puppy",), "cat": ("kitten", "kitty"), "rabbit": ("bunny",), "chicken": ("hen",), "airplane": ("plane",),
    "sailboat": ("boat",), "train": ("locomotive",), "sheep": ("lamb",), "clock": ("alarm clock",),
    "hat": ("top hat",), "soccer ball": ("football",), "donut": ("doughnut",), "hamburger": ("burger",),
    "cake": ("birthday cake",), "coffee": ("cup of coffee", "hot drink"), "heart": ("red heart",),
    "bell": ("golden bell",), "balloon": ("red balloon",), "books": ("stack of books",), "crown": ("golden crown",),
    "star": ("yellow star",), "pumpkin": ("halloween pumpkin",), "bus": ("yellow bus",), "car": ("red car",),
    "clover": ("four leaf clover",), "dinosaur": ("green dinosaur",), "bird": ("blue bird",),
    "parrot": ("green parrot",), "tree": ("green tree",), "corn": ("ear of corn",), "bread": ("loaf of bread",),
    "cheese": ("piece of cheese",), "pizza": ("slice of pizza",), "watermelon": ("slice of watermelon",),
    "rose": ("red rose",), "tulip": ("pink tulip",), "apple": ("red apple",), "diamond": ("blue diamond", "gem"),
    "ladybug": ("ladybird",), "bee": ("honeybee",),
}  # fmt: skip
_SEVERAL = {"books", "grapes", "cherries"}
_SIZES = {
    "small": ("small", "small", "tiny", "little"),
    "medium": ("medium", "medium-sized", "medium sized", "mid-sized"),
    "large": ("large", "large", "big", "big", "huge"),
}
_PLACES = {
    "center": ("in the center", "in the middle", "at the center", "centered", "center", "in the centre"),
    "left": ("on the left", "at the left", "to the left", "on the left side", "left"),
    "right": ("on the right", "at the right", "to the right", "on the right side", "right"),
    "top": ("at the top", "on top", "in the upper part", "top", "near the top"),
    "bottom": ("at the bottom", "in the lower part", "bottom", "near the bottom"),
}
_RELATIONS = {  # {0}: the left or upper object
    "side by side": ("{0} left of {1}", "{0} to the left of {1}", "{1} right of {0}", "{1} to the right of {0}",
                     "{0} on the left and {1} on the right", "{0} beside {1}, side by side"),
    "stacked": ("{0} over {1}", "{0} above {1}", "{1} under {0}", "{1} below {0}", "{0} on top of {1}",
                "{0} at the top and {1} at the bottom"),
    "row": ("{0}, {1} and {2} in a row", "a row of {0}, {1} and {2}", "from left to right: {0}, {1}, {2}"),
}  # fmt: skip
_LOOSE = {2: ("{0} and {1}", "{0} with {1}", "{0} next to {1}"), 3: ("{0}, {1} and {2}", "{0}, {1}, {2}")}
_TEXTURES = {
    "plain": ("plain", "plain", "solid"),
    "striped": ("striped", "striped", "stripy"),
    "dotted": ("dotted", "dotted", "spotted", "polka-dot"),
    "checkered": ("checkered", "checkered", "checked", "chequered"),
}
_PATTERN_NOUNS = {"striped": "stripes", "dotted": "dots", "checkered": "checks"}
_SCENES = {
    "meadow": ("in a meadow", "on a green meadow", "on the grass", "on green grass", "in a field"),
    "beach": ("at the beach", "on the beach", "on a sandy beach", "by the sea"),
    "snow": ("in the snow", "in a snowy landscape", "on snow", "in winter"),
    "desert": ("in the desert", "in a desert", "among sand dunes"),
    "night": ("at night", "under a starry sky", "in the night", "under the stars"),
}
_COLOURS = {"purple": ("purple", "purple", "violet"), "gray": ("gray", "gray", "grey")}
_OPENINGS = ("", "", "", "a picture of ", "an image of ", "there is ", "a drawing of ", "an illustration of ")
_FLAT = (", flat style", " in flat style", ", flat", ", flat illustration", " as a flat icon")
_FILLER = (
    "beautiful", "nice", "bright", "cute", "simple", "shiny", "very", "pretty", "lovely", "glossy", "colorful",
    "minimal", "style", "art", "icon", "quality", "high", "best", "soft", "light", "clean", "and", "emoji",
)  # fmt: skip
_STRAY = ("it", "its", "sits", "placed", "located", "colored", "color", "single", "photo", "3", "s")
PUNCTUATION = (",", ".", ";", ":", "!", "?", "-", "'", '"', "(", ")")
AFTER_A_HYPHEN = ("sized", "dot")
"""Words that go on without a space: "medium-sized"."""


def write(names: dict[str, str], rng: random.Random, *, full: bool = False) -> str:
    """One caption.

    Args:
        names: `{field: name}` of a picture.
        rng: what chooses the words.
        full: leave no attribute out and add no noise.
    """
    nouns = [names[field] for field in ("first", "second", "third") if names[field] != NONE]
    sizes = [names["size"], names["second_size"], "small"]
    things = [_thing(noun, size, rng, full) for noun, size in zip(nouns, sizes, strict=False)]
    body, place = _body(things, names["layout"], rng, full)
    backdrop = _backdrop(names, rng, full) if full or rng.random() > 0.12 else ""
    text = _arrange(body, place, backdrop, rng)
    if names["style"] == "flat":
        text += rng.choice(_FLAT)
    return text if full else _disturb(text, rng)


def _thing(noun: str, size: str, rng: random.Random, full: bool) -> str:
    other = OTHER_NAMES.get(noun, ())
    word = rng.choice(other) if other and rng.random() < 0.25 else noun
    said = rng.choice(_SIZES[size]) if full or rng.random() > 0.25 else ""
    phrase = f"{said} {word}".strip()
    if word in _SEVERAL:
        return f"some {phrase}" if rng.random() < 0.6 else phrase
    article = rng.choice(("a", "a", "a", "a", "the", "one", ""))
    if article == "a" and phrase[0] in "aeiou":
        article = "an"
    return f"{article} {phrase}".strip()


def _body(things: list[str], layout: str, rng: random.Random, full: bool) -> tuple[str, str]:
    """What is seen, and where, if that is said apart."""
    if len(things) == 1:
        return things[0], rng.choice(_PLACES[layout]) if full or rng.random() > 0.2 else ""
    patterns = _RELATIONS[layout] if full or rng.random() > 0.2 else _LOOSE[len(things)]
    return rng.choice(patterns).format(*things), ""


def _backdrop(names: dict[str, str], rng: random.Random, full: bool) -> str:
    """With its preposition."""
    background, texture = names["background"], names["texture"]
    if background in _SCENES:
        return rng.choice(_SCENES[background])
    colour = rng.choice(_COLOURS.get(background, (background,)))
    noun = rng.choice(("background", "background", "backdrop"))
    article = rng.choice(("a", "a", "the"))
    link = rng.choice(("on", "on", "against", "with"))
    if texture == "plain" and rng.random() < 0.5:
        return f"{link} {_article(article, colour)} {colour} {noun}"
    word = rng.choice(_TEXTURES[texture])
    options = [f"{word} {colour} {noun}", f"{colour} {word} {noun}"]
    if texture != "plain":
        options.append(f"{colour} {noun} with {_PATTERN_NOUNS[texture]}")
    chosen = rng.choice(options)
    return f"{link} {_article(article, chosen)} {chosen}"


def _article(article: str, phrase: str) -> str:
    return "an" if article == "a" and phrase[0] in "aeiou" else article


def _arrange(body: str, place: str, backdrop: str, rng: random.Random) -> str:
    opening = rng.choice(_OPENINGS)
    if not place:
        options = [f"{opening}{body} {backdrop}", f"{opening}{body}, {backdrop}", f"{backdrop}, {body}"]
        return rng.choice(options if backdrop else [f"{opening}{body}"]).strip()
    if not backdrop:
        return rng.choice((f"{opening}{body} {place}", f"{opening}{body}, {place}", f"{place}: {body}"))
    return rng.choice((
        f"{opening}{body} {place} {backdrop}",
        f"{opening}{body} {place}, {backdrop}",
        f"{opening}{body} {backdrop}, {place}",
        f"{place}, {body} {backdrop}",
        f"{backdrop}, {body} {place}",
        f"{body}, {place}, {backdrop}",
    ))  # fmt: skip


def _disturb(text: str, rng: random.Random) -> str:
    """What people do to prompts: words that mean nothing here, full stops, nothing at all."""
    words = text.split()
    while rng.random() < 0.15:
        letters = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 8)))
        words.insert(rng.randrange(len(words) + 1), rng.choice((*_FILLER, *_STRAY, *[letters] * 15)))
    return " ".join(words) + rng.choice(("", "", "", rng.choice(".,;:!?-'\"()")))


def vocabulary() -> list[str]:
    """Every known word, in a fixed order."""
    groups = [_SIZES, _PLACES, _RELATIONS, _LOOSE, _TEXTURES, _SCENES, _COLOURS, OTHER_NAMES]
    phrases = [phrase for group in groups for phrases in group.values() for phrase in phrases]  # type: ignore[attr-defined]
    phrases += [*NOUNS, *_OPENINGS, *_FLAT, *_PATTERN_NOUNS.values(), *_FILLER, *_STRAY]
    phrases += ["a an the one some on against with background backdrop red orange yellow green blue pink white black"]
    words = [word.strip(",:") for phrase in phrases for word in phrase.split() if "{" not in word]
    return list(dict.fromkeys(part for word in words for part in word.split("-")[:1]))
