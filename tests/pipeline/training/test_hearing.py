"""The small model's sound adapter: its world of sounds, and the way of its training, in a few steps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from wanbatch.pipeline.sound.adapter import SoundAdapter
from wanbatch.pipeline.training.toy import hearing, hearing_scores, sounds


def test_combinations_and_names_are_one_to_one_and_a_fifth_is_held_out():
    everything = range(sounds.COMBINATIONS)
    assert [sounds.index_of(sounds.names_of(index)) for index in everything] == list(everything)
    assert len({sounds.caption(index) for index in everything}) == sounds.COMBINATIONS
    assert 0.15 < np.mean([sounds.held_out(index) for index in everything]) < 0.25


def test_a_pitch_is_heard_at_its_frequency_and_a_rhythm_strikes_as_often():
    names = {"first": "bell", "background": "green", "size": "large", "layout": "center"}
    generator = torch.Generator().manual_seed(0)
    sound = sounds.synthesise(torch.tensor([sounds.index_of(names)]), generator, 0.0, (np.inf, np.inf))[0]
    assert sound.shape == (32_000,)
    assert float(sound.abs().max()) == np.float32(0.9)
    spectrum = torch.fft.rfft(sound).abs()
    assert abs(int(spectrum.argmax()) / 2 - 160 * 2 ** (9 / 12)) < 3


@pytest.mark.slow
def test_training_goes_through_both_stages_goes_on_and_is_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(sounds, "COMBINATIONS", 10)
    monkeypatch.setattr(hearing_scores, "STEPS", 2)
    monkeypatch.setattr(hearing, "CPU_PLAN", hearing.Plan(batch=2, velocity_batch=2, velocity_share=0.5))
    given = ["--out", str(tmp_path), "--minutes", "100", "--count", "2"]
    hearing.main([*given, "--max-steps", "2", "--stop-after", "0"])
    assert not (tmp_path / "scores.json").exists()
    hearing.main([*given, "--max-steps", "2"])
    assert SoundAdapter.load(tmp_path / "adapter.safetensors").header.tokens == 8
    assert (tmp_path / "adapter.safetensors").stat().st_size < 2_000_000
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["training"]["steps"] == 2
    assert set(scores["scores"]["captions"]) == {"first", "background", "size", "layout", "all"}
