"""The small model's own sound adapter, on the sounds of examples/sound.jsonl."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from picture_requests import PLAIN, make
from PIL import Image

from wanbatch.manifests.sources.sounds import decode_sound
from wanbatch.pipeline.core.conditioning import to_model
from wanbatch.pipeline.core.requests import SourceImage
from wanbatch.pipeline.evaluation.judge import Judge
from wanbatch.pipeline.generate import Wan
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.sound.config import find_adapter
from wanbatch.pipeline.sound.hearing import load_hearing
from wanbatch.pipeline.training.toy import sounds, world

EXAMPLES = Path(__file__).parents[3] / "examples"
INFO = registry.find("tiny")
HEARD = {
    "bird": ("bird", "green", "large", "center"),
    "train": ("train", "purple", "large", "center"),
    "cow": ("cow", "yellow", "small", "center"),
    "dog-to-bird": ("bird", "green", "large", "center"),
    "dog-to-bird-more": ("bird", "green", "large", "center"),
}


def test_pictures_show_what_the_examples_sound_like():
    config = find_adapter(None, INFO)
    assert config is not None
    assert config.own
    hearing = load_hearing(config, INFO.folder)
    rows = [json.loads(line) for line in (EXAMPLES / "sound.jsonl").read_text().splitlines()]
    plain = replace(PLAIN, prompt="", negative_prompt=INFO.negative_prompt, width=128, height=128, steps=12)
    plain = replace(plain, guidance=INFO.guidance, shift=INFO.shift, sampler=INFO.sampler)
    requests = []
    for row in rows:
        samples, _ = decode_sound((EXAMPLES / row["audio"]).read_bytes(), hearing.rate)
        tokens = hearing.hear(samples, 1.0, "").tokens
        more = {}
        if "image" in row:
            with Image.open(EXAMPLES / row["image"]) as image:
                source = SourceImage("source", np.asarray(image.convert("RGB")))
            more = {"sources": (source,), "creativity": row["creativity"]}
        requests.append(replace(plain, id=row["id"], seed=row["seed"], sound_tokens=tokens, **more))
    made, judge = make(Wan.load(INFO, slots=len(requests)), *requests), Judge.load()
    for name, wanted in HEARD.items():
        seen = world.describe(judge.read(to_model(made[name])))[0]
        assert tuple(seen[field] for field in ("first", "background", "size", "layout")) == wanted, name


def test_the_examples_are_of_combinations_that_the_adapter_was_not_trained_on():
    for name in ("bird", "train", "cow"):
        names = dict(zip(("first", "background", "size", "layout"), HEARD[name], strict=True))
        assert sounds.held_out(sounds.index_of(names))
