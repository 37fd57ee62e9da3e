"""Prompt embeddings against `WanPipeline.encode_prompt`, and what is kept of them."""

from __future__ import annotations

import pytest
import torch

from wanbatch.errors import UserError
from wanbatch.pipeline.core.prompts import ENCODER_LENGTHS
from wanbatch.pipeline.text.embedding_cache import TextCache
from wanbatch.pipeline.text.encoder import TextEncoder

PROMPTS = ["a red heart", "", "the small blue star at the right " * 9, "a  red&amp; heart\n", "zebra über 🙂"]


@pytest.fixture(params=[0, 256], ids=["one a batch", "256 tokens a batch"])
def encoder(wan, request) -> TextEncoder:
    return TextEncoder(wan.text.tokenizer, wan.text.model, request.param)


class Watched:
    """A text encoder's model that notes the prompts of each batch it is given."""

    def __init__(self, wan):
        self.model, self.tokenizer = wan.text.model, wan.text.tokenizer
        self.dtype, self.device = self.model.dtype, self.model.device
        self.batches: list[list[str]] = []

    def __call__(self, tokens, mask):
        used = [row for row in tokens.tolist() if row[0] != self.tokenizer.pad_token_id]
        self.batches.append([self.tokenizer.decode(row, skip_special_tokens=True).strip("▁") for row in used])
        return self.model(tokens, mask)


def test_equals_diffusers(encoder, pipeline):
    theirs, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False, max_sequence_length=512)
    ours = encoder.encode(PROMPTS)
    for prompt, padded in zip(PROMPTS, theirs, strict=True):
        tokens = len(ours[prompt])
        torch.testing.assert_close(ours[prompt], padded[:tokens], rtol=1e-4, atol=1e-5)
        assert not padded[tokens:].any()


@pytest.mark.parametrize("words", [1, 12, 28, 44, 60, 90, 120, 180, 250, 370, 500, 1200])
def test_every_length_equals_diffusers(encoder, pipeline, words):
    """Also of more than 512 tokens, which diffusers cuts."""
    prompt = " ".join(["a", "red", "heart", "left"][word % 4] for word in range(words))
    theirs, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)
    ours = encoder.encode([prompt])[prompt]
    assert len(ours) == min(512, words + 1)
    torch.testing.assert_close(ours, theirs[0, : len(ours)], rtol=1e-4, atol=1e-5)


def test_an_embedding_does_not_depend_on_what_else_is_encoded(encoder, wan):
    many = [*PROMPTS, *(f"a {'big ' * count}star" for count in range(70))]
    together = encoder.encode(many)
    for prompt in many[::3]:
        fresh = TextEncoder(wan.text.tokenizer, wan.text.model, encoder.tokens)
        assert torch.equal(fresh.encode([prompt])[prompt], together[prompt])


def test_batches_are_full_and_of_one_length(wan):
    watched = Watched(wan)
    encoder = TextEncoder(wan.text.tokenizer, watched, tokens=64)
    encoder.encode([f"a {'red ' * (count % 3)}{'big ' * (count // 3)}heart" for count in range(30)])
    assert [encoder.batch_size(length) for length in ENCODER_LENGTHS[:4]] == [4, 2, 1, 1]
    assert max(map(len, watched.batches)) == 4
    assert sum(map(len, watched.batches)) == 30
    assert len(watched.batches) < 15


def test_each_distinct_prompt_is_encoded_once_and_few_are_kept(wan):
    size = TextEncoder(wan.text.tokenizer, wan.text.model).encode(["a"])["a"].nbytes
    watched = Watched(wan)
    encoder, batches = TextEncoder(wan.text.tokenizer, watched, kept=2 * size), watched.batches
    encoder.encode(["a", "a", "the", "a", " a\n"])
    assert batches == [["a"], ["the"]]
    encoder.encode(["red"])  # pushes "a" out
    encoder.encode(["the", "red"])
    assert len(batches) == 3
    encoder.encode(["a"])
    assert len(batches) == 4
    assert encoder.held_bytes == 2 * size
    encoder.forget()
    encoder.encode(["a"])
    assert len(batches) == 5


# ---- on disk


def cached(wan, folder, recipe="weights float32 cpu", model=None) -> TextEncoder:
    return TextEncoder(wan.text.tokenizer, model or wan.text.model, 128, cache=TextCache(folder, recipe))


def test_a_second_start_encodes_nothing_and_gives_the_same_bits(wan, tmp_path):
    first = cached(wan, tmp_path / "cache").encode(PROMPTS)
    watched = Watched(wan)
    second = cached(wan, tmp_path / "cache", model=watched).encode(PROMPTS)
    assert watched.batches == []
    assert all(torch.equal(first[prompt], second[prompt]) for prompt in PROMPTS)
    assert second["a red heart"].dtype == first["a red heart"].dtype


def test_another_recipe_finds_nothing(wan, tmp_path):
    cached(wan, tmp_path).encode(PROMPTS)
    watched = Watched(wan)
    cached(wan, tmp_path, "weights bfloat16 cpu", watched).encode(PROMPTS)
    assert sum(map(len, watched.batches)) == 5


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "other"])
def test_a_damaged_file_is_ignored_and_written_anew(wan, tmp_path, damage):
    encoder = cached(wan, tmp_path)
    whole = encoder.encode(["a red heart"])["a red heart"]
    path = encoder.cache.path("a red heart")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes({"cut": data[:-3], "empty": b"", "flipped": data, "other": b"not safetensors"}[damage])
    assert encoder.cache.get("a red heart") is None
    again = cached(wan, tmp_path).encode(["a red heart"])["a red heart"]
    assert torch.equal(again, whole)
    assert torch.equal(encoder.cache.get("a red heart"), whole)
    assert [file.suffix for file in tmp_path.rglob("*") if file.is_file()] == [".safetensors"]


def test_bfloat16_embeddings_are_kept_bit_for_bit(tmp_path):
    cache = TextCache(tmp_path, "x")
    embedding = torch.randn(7, 5).bfloat16()
    cache.put("a", embedding)
    assert torch.equal(cache.get("a"), embedding)
    assert cache.get("b") is None


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another folder"):
        TextCache(tmp_path / "file" / "cache", "x")
