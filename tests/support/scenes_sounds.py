"""Remedies for rows with sounds, and for what hears them: taggers with random weights, and adapters."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from remedy_scenes import At, raised, scene
from safetensors.torch import save_file
from sound_making import encoded, save_ast, save_clap, tone

from wanbatch.errors import RowError
from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.sounds import decode_sound
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.sound.adapter import SoundAdapter
from wanbatch.pipeline.sound.clap_encoder import ClapEncoder
from wanbatch.pipeline.sound.config import find_adapter, find_clap, find_tagger
from wanbatch.pipeline.sound.hearing import TaggerHearing, load_hearing
from wanbatch.pipeline.sound.phrases import check_template, read_phrases
from wanbatch.pipeline.sound.taggers import load_tagger

ROW = {"prompt": "a garden", "audio": "a.wav"}


def adapter(path: Path, width: int = 128) -> str:
    """A small adapter for sounds in a file. width: of the tokens; the small model's text has 128."""
    torch.manual_seed(0)
    small = {"encoder": {"widths": (8, 16), "mels": 32, "dim": 32}, "resampler": {"dim": 32, "layers": 1}}
    SoundAdapter.new(width, tokens=4, scale=0.5, **small).save(path)
    return str(path)


@scene
def rows_with_sounds(at: At) -> Iterator[str]:
    at.write("a.wav", encoded(tone()))
    save_ast(at.folder / "ast")
    tagger = ("--sound", "tagger", "--sound-model", "./ast")
    at.rows(ROW)
    model = str(shutil.copytree(registry.find().folder, "model", ignore=shutil.ignore_patterns("sound*")))
    own = ("--model", model)
    yield at.refused("plan", "m.jsonl", *own)
    for flags in (tagger, ("--sound", adapter(at.folder / "ears.safetensors"))):
        at.works("plan", "m.jsonl", *own, *flags)
    at.rows({"prompt": "a garden"})
    at.works("plan", "m.jsonl", *own)
    yield at.refused("plan", "m.jsonl", "--sound-model", "./ast")
    yield at.refused("plan", "m.jsonl", "--sound-top", "2")
    at.works("plan", "m.jsonl", "--sound-top", "2", *tagger)
    for wrong in ({"prompt": "x", "audio_weight": 0.5}, {**ROW, "audio": {"bytes": "x", "path": None}}):
        at.rows(wrong)
        yield at.refused("plan", "m.jsonl", *tagger)
    at.rows({**ROW, "audio_weight": 0.5})
    at.works("plan", "m.jsonl", *tagger)


@scene
def files_of_sounds(at: At) -> Iterator[str]:
    nan = encoded(tone() * float("nan"), subtype="FLOAT")
    for wrong in (nan, encoded(tone() * 0), b"\0\0\0\x20ftypM4A " + b"\0" * 40):
        try:
            decode_sound(wrong, 16_000)
        except SourceError as error:
            yield str(error)
    for form in ("WAV", "FLAC", "MP3"):
        assert len(decode_sound(encoded(tone(), form=form), 16_000)[0])


@scene
def taggers(at: At) -> Iterator[str]:
    ast = save_ast(at.folder / "ast")
    whole = (ast / "config.json").read_text()
    yield raised(lambda: find_tagger("./none"))
    for damage in (None, "{", whole.replace("audio-spectrogram-transformer", "bert")):
        (ast / "config.json").unlink()
        if damage is not None:
            (ast / "config.json").write_text(damage)
        yield raised(lambda: find_tagger(str(ast)))
        (ast / "config.json").write_text(whole)
    weights = (ast / "model.safetensors").read_bytes()
    (ast / "model.safetensors").unlink()
    yield raised(lambda: find_tagger(str(ast)))
    (ast / "model.safetensors").write_bytes(weights)
    extractor = (ast / "preprocessor_config.json").read_bytes()
    (ast / "preprocessor_config.json").unlink()
    yield raised(lambda: load_tagger(find_tagger(str(ast))))
    (ast / "preprocessor_config.json").write_bytes(extractor)
    deaf = find_tagger(str(ast), threshold=0.999)
    sound = tone(2.0)[:, 0]
    try:
        TaggerHearing(load_tagger(deaf), deaf).hear(sound, 1.0, "")
    except RowError as error:
        yield str(error)
    assert TaggerHearing(load_tagger(deaf), deaf).hear(sound, 1.0, "a garden").prompt == "a garden"
    keen = find_tagger(str(ast), threshold=0.001)
    assert TaggerHearing(load_tagger(keen), keen).hear(sound, 1.0, "").prompt


@scene
def phrases_and_templates(at: At) -> Iterator[str]:
    for text in ("bird", '"Bird" = 3\n'):
        at.write("phrases.toml", text)
        told = raised(lambda: read_phrases("phrases.toml"))
        yield told
        at.write("phrases.toml", re.search(r'"Bird" = "a bird"', told)[0])  # type: ignore[index]
        assert read_phrases("phrases.toml") == {"Bird": "a bird"}
    for template in ("{sounds", "{sound}"):
        told = raised(lambda template=template: check_template(template))
        yield told
        check_template(re.search(r"write it like '(.*)'", told)[1])  # type: ignore[index]


@scene
def adapters_for_sounds(at: At) -> Iterator[str]:
    tiny = registry.find()
    good = adapter(at.folder / "ears.safetensors")
    at.write("text.safetensors", "none")
    save_file({"x": torch.zeros(1)}, at.folder / "other.safetensors")
    adapter(at.folder / "wide.safetensors", width=64)
    for name in ("none", "text", "other", "wide"):
        yield raised(lambda name=name: find_adapter(str(at.folder / f"{name}.safetensors"), tiny))
    clap, other = save_clap(at.folder / "clap"), save_clap(at.folder / "other-clap", seed=1)
    yield raised(lambda: find_adapter(good, tiny, str(clap)))
    assert find_adapter(good, tiny) is not None
    yield raised(lambda: find_clap(str(save_ast(at.folder / "not-clap"))))
    folder, _, digest = find_clap(str(clap))
    by_clap = at.folder / "by-clap.safetensors"
    SoundAdapter.hearing_by(ClapEncoder(folder, digest), 128).save(by_clap)
    yield raised(lambda: find_adapter(str(by_clap), tiny, str(other)))
    heard_by = find_adapter(str(by_clap), tiny, str(clap))
    extractor = (clap / "preprocessor_config.json").read_bytes()
    (clap / "preprocessor_config.json").unlink()
    yield raised(lambda: load_hearing(heard_by, tiny.folder))
    (clap / "preprocessor_config.json").write_bytes(extractor)
    load_hearing(heard_by, tiny.folder)
    yield raised(lambda: load_hearing(replace(heard_by, encoder="gone"), tiny.folder))
    found = find_adapter(good, tiny)
    kept = Path(good).read_bytes()
    Path(good).unlink()
    yield raised(lambda: load_hearing(found, tiny.folder))
    Path(good).write_bytes(kept)  # as in a folder that is shared
    load_hearing(found, tiny.folder)
