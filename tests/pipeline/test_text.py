"""Prompt embeddings against `WanPipeline.encode_prompt`."""

from __future__ import annotations

import pytest
import torch

from wanbatch.pipeline.text import TextEncoder

PROMPTS = ["a red heart", "", "the small blue star at the right " * 9, "a  red&amp; heart\n", "zebra über 🙂"]


@pytest.fixture
def encoder(wan) -> TextEncoder:
    return TextEncoder(wan.text.tokenizer, wan.text.model, places=4)


def test_equals_diffusers(encoder, pipeline):
    theirs, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False, max_sequence_length=512)
    ours = encoder.encode(PROMPTS)
    for prompt, padded in zip(PROMPTS, theirs, strict=True):
        tokens = len(ours[prompt])
        torch.testing.assert_close(ours[prompt], padded[:tokens], rtol=1e-4, atol=1e-5)
        assert not padded[tokens:].any()


def test_a_prompt_of_more_than_512_tokens_is_cut_as_diffusers_cuts_it(encoder, pipeline):
    prompt = "a red heart on the left " * 200
    theirs, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)
    torch.testing.assert_close(encoder.encode([prompt])[prompt], theirs[0], rtol=1e-4, atol=1e-5)


def test_an_embedding_does_not_depend_on_what_else_is_encoded(encoder, wan):
    together = encoder.encode(PROMPTS)
    for prompt in PROMPTS:
        fresh = TextEncoder(wan.text.tokenizer, wan.text.model, places=4)
        assert torch.equal(fresh.encode([prompt])[prompt], together[prompt])


def test_each_distinct_prompt_is_encoded_once_and_few_are_kept(wan):
    encoder = TextEncoder(wan.text.tokenizer, wan.text.model, places=1, kept=2)
    batches = []
    encode = encoder._encode_batch
    encoder._encode_batch = lambda group, length: batches.append(group) or encode(group, length)
    encoder.encode(["a", "a", "the", "a"])
    assert len(batches) == 2
    encoder.encode(["red"])  # pushes "a" out
    encoder.encode(["the", "red"])
    assert len(batches) == 3
    encoder.encode(["a"])
    assert len(batches) == 4
