"""Adapters: their file says what they are for, and what they hear depends on the sound alone."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sound_making import tone

from wanbatch.errors import NodeError, RowError, UserError
from wanbatch.pipeline.core.sound_tokens import with_sound
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.sound.adapter import SoundAdapter, loudest
from wanbatch.pipeline.sound.config import find_adapter
from wanbatch.pipeline.sound.hearing import load_hearing
from wanbatch.pipeline.training.sound.distillation import NOTHING
from wanbatch.pipeline.training.sound.noises import noises, with_noises
from wanbatch.pipeline.training.toy import sounds

SMALL = {"encoder": {"widths": (8, 16), "mels": 32, "dim": 32}, "resampler": {"dim": 32, "layers": 1}}


@pytest.fixture(scope="module")
def adapter() -> SoundAdapter:
    torch.manual_seed(0)
    return SoundAdapter.new(128, tokens=4, scale=0.5, **SMALL)


@pytest.fixture
def file(adapter, tmp_path):
    adapter.save(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_a_file_comes_back_as_it_was_but_for_half_precision(adapter, file):
    loaded = SoundAdapter.load(file)
    assert replace(loaded.header, digest="") == adapter.header.__class__(**{**_fields(adapter), "digest": ""})
    sound = tone(1.5)[:, 0]
    heard = loaded.hear(sound)
    assert heard.shape == (4, 128)
    assert np.allclose(heard, adapter.eval().hear(sound), atol=2e-2)
    assert np.array_equal(heard, loaded.hear(sound))


def test_an_adapter_with_a_gate_gives_no_tokens_where_it_hears_nothing(tmp_path):
    torch.manual_seed(0)
    gated = SoundAdapter.new(128, tokens=4, encoder=SMALL["encoder"], resampler={**SMALL["resampler"], "gate": True})
    gated.save(tmp_path / "gated.safetensors")
    loaded, sound = SoundAdapter.load(tmp_path / "gated.safetensors"), tone(1.5)[:, 0]
    torch.nn.init.constant_(loaded.resampler.gate.bias, 100.0)
    assert loaded.hear(sound).any()
    torch.nn.init.constant_(loaded.resampler.gate.bias, -100.0)
    assert not loaded.hear(sound).any()


def test_noise_is_nothing_to_be_heard_for_the_small_models_own_adapter():
    hearing = load_hearing(find_adapter(None, registry.find()), registry.find().folder)
    made = noises(6, 32_000, hearing.rate, torch.Generator().manual_seed(8))
    for sound in made.numpy():
        heard = hearing.hear(sound, 1.0, "a hat")
        assert (heard.prompt, heard.tags, heard.tokens) == ("a hat", (), None)
        with pytest.raises(RowError, match="hears noise alone, and the row has no prompt") as caught:
            hearing.hear(sound, 1.0, " ")
        assert caught.value.kind == "nothing_heard"
    bird = sounds.synthesise(torch.tensor([0]), torch.Generator().manual_seed(9), noise=(10.0, 10.0))[0].numpy()
    assert hearing.hear(bird, 1.0, "").tokens.any()


def test_noise_takes_the_place_of_some_sounds_and_never_of_all():
    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(count, 1600), torch.arange(count)

    drawn = with_noises(draw, 16_000, torch.Generator().manual_seed(1), share=0.25)
    given, captions = drawn(8)
    assert captions.tolist() == [2, 3, 4, 5, 6, 7, NOTHING, NOTHING]
    assert bool((given[:6] == 1).all())
    assert 0 < float(given[6:].abs().max()) <= 0.9
    assert drawn(1)[1].tolist() == [0]
    assert drawn(2)[1].tolist() == [1, NOTHING]


def _fields(adapter) -> dict:
    """The header as JSON gives it back: lists for tuples."""
    header = adapter.header
    config = {**header.encoder_config, "widths": list(header.encoder_config["widths"])}
    return {
        **{name: getattr(header, name) for name in ("encoder", "encoder_digest", "tokens", "width", "resampler")},
        "encoder_config": config,
    }


def test_an_adapter_that_does_not_fit_is_refused_in_one_line(file, tmp_path):
    tiny = registry.find()
    assert find_adapter(str(file), tiny).tokens == 4

    def refused(path, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            find_adapter(str(path), tiny)
        assert "\n" not in str(caught.value)

    SoundAdapter.new(64, **SMALL).save(tmp_path / "narrow.safetensors")
    refused(tmp_path / "narrow.safetensors", "tokens of width 64, and model tiny has a text width of 128")
    refused(tmp_path / "gone.safetensors", "there is no such file: give tagger or the file")
    (tmp_path / "text.safetensors").write_text("x" * 100)
    refused(tmp_path / "text.safetensors", "is no adapter")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", "is a safetensors file but no adapter for sounds")
    header = SoundAdapter.new(128, **SMALL).header
    save_file({"a": torch.zeros(1)}, tmp_path / "beats.safetensors", replace(header, encoder="beats").metadata())
    refused(tmp_path / "beats.safetensors", r"is for the encoder 'beats': this version has")
    save_file({"a": torch.zeros(1)}, tmp_path / "empty.safetensors", header.metadata())
    with pytest.raises(UserError, match=r"is damaged .*: train it again"):
        SoundAdapter.load(tmp_path / "empty.safetensors")


def test_a_models_own_adapter_changes_no_digest_of_the_model(file, tmp_path):
    model = shutil.copytree(registry.find().folder, tmp_path / "model", ignore=shutil.ignore_patterns("sound"))
    before = registry.find(str(model))
    assert find_adapter(None, before) is None
    (model / "sound").mkdir()
    shutil.copy(file, model / "sound" / "adapter.safetensors")
    after = registry.find(str(model))
    assert after.digest == before.digest
    assert find_adapter(None, after).own


def test_of_a_long_sound_the_loudest_part_is_heard_and_a_short_one_is_followed_by_silence():
    sound = np.concatenate([tone(3.0) * 0.1, tone(2.0), tone(3.0) * 0.1])[:, 0]
    assert np.array_equal(loudest(sound, 16_000, 2.0), sound[48_000:80_000])
    short = loudest(np.ones(10, np.float32), 10, 2.0)
    assert short.tolist() == [1.0] * 10 + [0.0] * 10


def test_tokens_stand_after_the_prompts_and_a_full_prompt_makes_room():
    tokens = np.ones((4, 8), np.float32)
    joined = with_sound(torch.zeros(3, 8, dtype=torch.bfloat16), tokens)
    assert joined.dtype == torch.bfloat16
    assert joined.sum(1).tolist() == [0, 0, 0, 8, 8, 8, 8]
    full = with_sound(torch.zeros(512, 8), tokens)
    assert full.sum(1).tolist() == [0] * 508 + [8] * 4
    prompt = torch.ones(512, 8)
    assert torch.equal(with_sound(prompt, tokens * 0), prompt)


def test_a_run_hears_by_the_file_or_by_the_models_own_and_weighs_the_tokens(adapter, file, tmp_path):
    sound = tone(1.0)[:, 0]
    config = find_adapter(str(file), registry.find())
    full = load_hearing(config, "elsewhere").hear(sound, 1.0, "a hat")
    half = load_hearing(config, "elsewhere").hear(sound, 0.5, "a hat")
    assert (full.prompt, full.tags) == ("a hat", None)
    assert np.array_equal(half.tokens * 2, full.tokens)
    (tmp_path / "model" / "sound").mkdir(parents=True)
    shutil.copy(file, tmp_path / "model" / "sound" / "adapter.safetensors")
    own = replace(config, own=True, location="of another host")
    assert np.array_equal(load_hearing(own, tmp_path / "model").hear(sound, 1.0, "").tokens, full.tokens)
    with pytest.raises(NodeError, match="the sound adapter is not there on this host"):
        load_hearing(replace(config, location="gone.safetensors"), "elsewhere")
