"""Mistakes in rows and settings, the messages that they get, and what these offer; followed by test_remedies.py."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from command_line import GOOD
from job_making import picture

Rows = Sequence[dict | str]
Follow = Callable[[re.Match], tuple[Rows, Sequence[str]]]


@dataclass(frozen=True)
class Case:
    """A mistake and what its message offers.

    Attributes:
        rows: of the manifest; a text is a line as it is.
        flags: of `wanbatch plan`.
        said: the message, with a group for each value that it suggests.
        ways: what is offered, each as the rows and flags that follow it.
        setup: what else is in the folder.
    """

    rows: Rows
    flags: Sequence[str]
    said: str
    ways: Sequence[Follow]
    setup: Callable[[Path], None] = lambda folder: None


def row(*changed: dict, flags: Sequence[str] = ()) -> Follow:
    """A way that always gives the same rows and flags."""
    return lambda match: (changed, flags)


def suggested(column: str, kind: Callable = str, **others) -> Follow:
    """A way that gives one column the value of the message's first group."""
    return lambda match: ([{**GOOD, column: kind(match[1]), **others}], ())


A, B = {"image": "a.png"}, {"image": "b.png"}
TWO = {"images": ["a.png", "b.png"]}


def outside(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir(exist_ok=True)
    picture(folder.parent / "elsewhere/c.png", 32, 32)


def linked(folder: Path) -> None:
    outside(folder)
    (folder / "linked.png").symlink_to(folder.parent / "elsewhere/c.png")


def below(folder: Path) -> None:
    (folder / "pictures").mkdir()
    picture(folder / "pictures/c.png", 32, 32)


def from_line(text: str) -> list[str]:
    """The flags of a command line that a message shows."""
    return shlex.split(text)


CASES = {
    # ---- values of rows
    "unknown sampler": Case(
        [{**GOOD, "sampler": "dpmp_2m"}],
        (),
        r"sampler 'dpmp_2m' is unknown; did you mean (\w+)\? use one of (\w+), .* aside with (--map \S+)",
        [
            suggested("sampler"),
            lambda match: ([{**GOOD, "sampler": match[2]}], ()),
            lambda match: ([{**GOOD, "sampler": "dpmp_2m"}], from_line(match[3])),
        ],
    ),
    "one adapter in a column of several": Case(
        [{**GOOD, "loras": "flat"}],
        (),
        r"must be a list of {name, weight}; for one adapter in full write style, '(\w+)', instead",
        [suggested("style"), row({**GOOD, "loras": [{"name": "flat", "weight": 0.5}]})],
    ),
    "a style that is nearly one": Case(
        [{**GOOD, "style": "falt"}], (), r"adapter 'falt' is unknown \(did you mean (\w+)\?\)", [suggested("style")]
    ),
    "unknown schedule": Case(
        [{**GOOD, "schedule": "Karras"}], (), r"is unknown; did you mean (\w+)\?", [suggested("schedule")]
    ),
    "size that no model takes": Case(
        [{**GOOD, "width": 100, "height": 64}],
        (),
        r"width is 100: .*; every model takes (\d+) and (\d+)",
        [
            suggested("width", int, height=64),
            lambda match: ([{**GOOD, "width": int(match[2]), "height": 64}], ()),
        ],
    ),
    "tiny size": Case(
        [{**GOOD, "width": 3, "height": 64}], (), r"every model takes (\d+)", [suggested("width", int, height=64)]
    ),
    "huge size": Case(
        [{**GOOD, "width": 9000, "height": 64}], (), r"every model takes (\d+)", [suggested("width", int, height=64)]
    ),
    "half a size": Case(
        [{**GOOD, "width": 64}],
        (),
        r"give both, or neither",
        [row({**GOOD, "width": 64, "height": 64}), row(GOOD)],
    ),
    "creativity above 1": Case(
        [{**A, "creativity": 1.3}],
        (),
        r"must be a number from 0 .*; the nearest is (\d)",
        [lambda match: ([{**A, "creativity": float(match[1])}], ())],
    ),
    "creativity alone": Case(
        [{**GOOD, "creativity": 0.5}],
        (),
        r"give an image, or drop creativity",
        [row({**GOOD, **A, "creativity": 0.5}), row(GOOD)],
    ),
    "creativity below the last level": Case(
        [{**A, "creativity": 0.01, "steps": 4}],
        (),
        r"the lowest that works is ([\d.]+), or 0 for the source itself; raise it, add levels, or space",
        [
            lambda match: ([{**A, "creativity": float(match[1]), "steps": 4}], ()),
            row({**A, "creativity": 0, "steps": 4}),
            row({**A, "creativity": 0.01, "steps": 1000}),
            row({**A, "creativity": 0.01, "steps": 4, "creativity_steps": "respace"}),
        ],
    ),
    "creativity_steps": Case(
        [{**A, "creativity_steps": "respaced"}],
        (),
        r"did you mean (\w+)\?",
        [lambda match: ([{**A, "creativity_steps": match[1]}], ())],
    ),
    "steps as text": Case(
        [{**GOOD, "steps": "30"}], (), r"steps is '30': .*; write (\d+), without quotes", [suggested("steps", int)]
    ),
    "no steps": Case([{**GOOD, "steps": 0}], (), r"steps is 0: .*; the nearest is (\d+)", [suggested("steps", int)]),
    "fraction of a step": Case(
        [{**GOOD, "steps": 2.5}], (), r"the nearest are (\d+) and \d+", [suggested("steps", int)]
    ),
    "negative seed": Case([{**GOOD, "seed": -1}], (), r"without a seed the row gets one of its own", [row(GOOD)]),
    "huge seed": Case([{**GOOD, "seed": 2**64}], (), r"the nearest is (\d+)", [suggested("seed", int)]),
    "bad id": Case(
        [{**GOOD, "id": "../up"}],
        (),
        r"for example (\S+), and keep this one in a column of your own, like (source_id)$",
        [
            lambda match: ([{**GOOD, "id": match[1], match[2]: "../up"}], ()),
        ],
    ),
    "both images": Case(
        [{**A, "images": ["b.png"]}], (), r"has both image and images: put all of them into images", [row(TWO)]
    ),
    "weight 0": Case(
        [{**TWO, "blend_weights": [1, 0]}],
        (),
        r"drop it from images",
        [row({"images": ["a.png"], "blend_weights": [1]})],
    ),
    "too few weights": Case(
        [{**TWO, "blend_weights": [1]}],
        (),
        r"give one weight for each image",
        [row({**TWO, "blend_weights": [1, 2]})],
    ),
    "sigmas and steps": Case(
        [{**GOOD, "sigmas": [1, 0.5], "steps": 3}],
        (),
        r"has both sigmas and steps: .*; drop one of the two",
        [row({**GOOD, "sigmas": [1, 0.5]}), row({**GOOD, "steps": 3})],
    ),
    "sigmas and respace": Case(
        [{**GOOD, **A, "sigmas": [1, 0.5], "creativity_steps": "respace"}],
        (),
        r"its sigmas say every noise level: drop one of the two",
        [row({**A, "sigmas": [1, 0.5]}), row({**A, "creativity_steps": "respace"})],
    ),
    "second guidance of one expert": Case(
        [{**GOOD, "guidance_2": 3}],
        (),
        r"guidance_2: .*: remove it; or, .*--map (\S+)",
        [row(GOOD), lambda match: ([{**GOOD, "guidance_2": 3}], ["--map", match[1]])],
    ),
    "nothing asked": Case(
        [{"note": "x"}],
        (),
        r"asks for nothing: give a prompt, image, images, audio or blend_group",
        [row({"prompt": "x"}), row(A), row(TWO), row({**A, "blend_group": "g"}, {**B, "blend_group": "g"})],
    ),
    # ---- rows together
    "duplicate ids": Case(
        [{**GOOD, "id": "a"}, {**GOOD, "id": "a"}],
        (),
        r"id 'a' is already at m\.jsonl:1: give each row its own",
        [row({**GOOD, "id": "a"}, {**GOOD, "id": "b"})],
    ),
    "an id that num_images makes": Case(
        [{**GOOD, "id": "a", "num_images": 2}, {**GOOD, "id": "a-1"}],
        (),
        r"is also image 1 of 'a' .*: rename one",
        [row({**GOOD, "id": "a", "num_images": 2}, {**GOOD, "id": "b"})],
    ),
    "group of one": Case(
        [{**A, "blend_group": "g"}],
        (),
        r"it needs two or more; for one image drop blend_group",
        [row({**A, "blend_group": "g"}, {**B, "blend_group": "g"}), row(A)],
    ),
    "group and id": Case(
        [{**A, "blend_group": "g", "id": "x"}, {**B, "blend_group": "g"}],
        (),
        r"the blend's id is the group's name, 'g'; drop id",
        [row({**A, "blend_group": "g"}, {**B, "blend_group": "g"})],
    ),
    "group and weights": Case(
        [{**A, "blend_group": "g", "blend_weights": [1]}, {**B, "blend_group": "g"}],
        (),
        r"has both blend_group and blend_weights: use blend_weight, one a row",
        [row({**A, "blend_group": "g", "blend_weight": 1}, {**B, "blend_group": "g", "blend_weight": 2})],
    ),
    "weight without a group": Case(
        [{**A, "blend_weight": 1}],
        (),
        r"name the group, or use images and blend_weights",
        [
            row({**A, "blend_weight": 1, "blend_group": "g"}, {**B, "blend_group": "g"}),
            row({**TWO, "blend_weights": [1, 2]}),
        ],
    ),
    "clashing prompts": Case(
        [{**A, "blend_group": "g", "prompt": "x"}, {**B, "blend_group": "g", "prompt": "y"}],
        (),
        r"clashing values of prompt: .*; give it once or make it equal",
        [
            row({**A, "blend_group": "g", "prompt": "x"}, {**B, "blend_group": "g"}),
            row({**A, "blend_group": "g", "prompt": "x"}, {**B, "blend_group": "g", "prompt": "x"}),
        ],
    ),
    # ---- columns
    "a column of two types": Case(
        [{**GOOD, "price": 5}, {**GOOD, "price": "5 EUR"}],
        (),
        r"use one type in a column",
        [row({**GOOD, "price": "5"}, {**GOOD, "price": "5 EUR"})],
    ),
    "a column of the output": Case(
        [{**GOOD, "sha256": "x"}],
        (),
        r"is also one that wanbatch writes: rename it, or (--map \S+)",
        [row({**GOOD, "digest": "x"}), lambda match: ([{**GOOD, "sha256": "x"}], from_line(match[1]))],
    ),
    "a column mapped to nothing": Case(
        [{**GOOD, "txt": "x"}],
        ["--map", "txt=promt"],
        r"did you mean (\w+)\? .*like (\w+)",
        [
            lambda match: ([{"txt": "x"}], ["--map", f"txt={match[1]}"]),
            lambda match: ([{**GOOD, "txt": "x"}], ["--map", f"txt={match[2]}"]),
        ],
    ),
    # ---- JSON
    "cut off": Case(['{"prompt": "a'], (), r"write one object a line", [row(GOOD)]),
    "NaN": Case(
        ['{"prompt": "a", "x": NaN}'],
        (),
        r"use null or a finite number",
        [row({**GOOD, "x": None}), row({**GOOD, "x": 1.5})],
    ),
    "a key twice": Case(['{"prompt": "a", "prompt": "b"}'], (), r"is there twice; keep one", [row({"prompt": "a"})]),
    "half a character": Case(
        [{**GOOD, "note": "x \ud83d y"}], (), r"it has half a character .*: remove it", [row({**GOOD, "note": "x y"})]
    ),
    # ---- sources
    "a folder outside": Case(
        [{"image": "../elsewhere/c.png"}],
        (),
        r"leaves the folder .*: give a path inside it, or set (--source-fence \S+) if",
        [row(A), lambda match: ([{"image": "../elsewhere/c.png"}], from_line(match[1]))],
        outside,
    ),
    "a web address": Case(
        [{"image": "https://example.com/a.png"}],
        (),
        r"needs (--allow-http): give that, or download it and give a relative path",
        [lambda match: ([{"image": "https://example.com/a.png", "width": 64, "height": 64}], [match[1]]), row(A)],
    ),
    "a file address": Case([{"image": "file:///a.png"}], (), r"give a relative path", [row(A)]),
    "an empty path": Case([{"image": ""}], (), r"leave it out if there is none", [row(GOOD)]),
    "a source root that is not there": Case(
        [A], ["--source-root", "none"], r"give --source-root an existing one", [row(A, flags=["--source-root", "."])]
    ),
    # ---- settings
    "quality of PNG": Case(
        [GOOD],
        ["--quality", "80"],
        r"leave it out, or choose (\w+) or (\w+)",
        [
            row(GOOD),
            lambda match: ([GOOD], ["--quality", "80", "--format", match[1]]),
            lambda match: ([GOOD], ["--quality", "80", "--format", match[2]]),
        ],
    ),
    "sigmas and steps of the run": Case(
        [GOOD],
        ["--sigmas", "1,0.5", "--steps", "3"],
        r"drop one of the two",
        [row(GOOD, flags=["--sigmas", "1,0.5"]), row(GOOD, flags=["--steps", "3"])],
    ),
    "revision of no hub model": Case([GOOD], ["--revision", "x"], r"drop it", [row(GOOD)]),
    "no such model": Case(
        [GOOD], ["--model", "tinny"], r"give `(\w+)`, .*did you mean tiny", [lambda m: ([GOOD], ["--model", m[1]])]
    ),
    "step cache": Case(
        [GOOD],
        ["--step-cache", "taylr:interval=2"],
        r"did you mean (\w+)\?",
        [lambda match: ([GOOD], ["--step-cache", f"{match[1]}:interval=2"])],
    ),
    "field of a step cache": Case(
        [GOOD],
        ["--step-cache", "taylor:intervall=2"],
        r"did you mean (\w+)\?",
        [lambda match: ([GOOD], ["--step-cache", f"taylor:{match[1]}=2"])],
    ),
    "sampler of the run": Case(
        [GOOD], ["--sampler", "dpmp_2m"], r"did you mean (\w+)\?", [lambda m: ([GOOD], ["--sampler", m[1]])]
    ),
    "device": Case([GOOD], ["--device", "cpuu"], r"did you mean (\w+)\?", [lambda m: ([GOOD], ["--device", m[1]])]),
    "size of the run": Case(
        [GOOD],
        ["--width", "100", "--height", "64"],
        r"every model takes (\d+) and \d+",
        [lambda match: ([GOOD], ["--width", match[1], "--height", "64"])],
    ),
    "slots": Case([GOOD], ["--slots", "atuo"], r"did you mean (\w+)\?", [lambda m: ([GOOD], ["--slots", m[1]])]),
}
