"""Prompts become the tokens that transformers makes of them, with its library or without."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from wanbatch.errors import UserError
from wanbatch.pipeline.core.prompts import TEXT_TOKENS
from wanbatch.pipeline.loading import registry
from wanbatch.pipeline.loading.tokenizer import PromptTokenizer, read_tokenizer

PIECES = [
    *"abcdefghijklmnop ABC\t\n,.!'0123",
    "é",
    "色调",
    "ﬁ",
    "😀",
    "</s>",
    "<pad>",
    "<extra_id_3>",
    " red ",
    " heart ",
]


@pytest.fixture
def folder(tmp_path) -> Path:
    return shutil.copytree(Path(registry.find().folder) / "tokenizer", tmp_path / "tokenizer")


def prompts() -> list[str]:
    drawn = random.Random(0)
    return ["", "x " * 900, *("".join(drawn.choices(PIECES, k=drawn.randint(0, 300))) for _ in range(300))]


def changed(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def assert_as_transformers(folder: Path) -> None:
    ours, theirs = read_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    found = ours(prompts(), truncation=True, max_length=TEXT_TOKENS).input_ids
    assert found == theirs(prompts(), truncation=True, max_length=TEXT_TOKENS).input_ids
    assert max(map(len, found)) == TEXT_TOKENS
    assert ours.pad_token_id == theirs.pad_token_id


def test_tokens_of_the_small_model(folder):
    assert isinstance(read_tokenizer(folder), PromptTokenizer)
    assert_as_transformers(folder)


def test_tokens_of_a_file_that_is_taken_as_it_is(model_folder):
    assert isinstance(read_tokenizer(model_folder / "tokenizer"), PromptTokenizer)
    assert_as_transformers(model_folder / "tokenizer")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokenizer.json", lambda said: said.update(pre_tokenizer={"type": "Whitespace"})),
        ("tokenizer.json", lambda said: said.update(normalizer={"type": "Lowercase"})),
        ("tokenizer_config.json", lambda given: given.update(extra_ids=100)),
    ],
)
def test_what_transformers_reads_otherwise_is_left_to_it(folder, name, change):
    changed(folder / name, change)
    assert not isinstance(read_tokenizer(folder), PromptTokenizer)
    assert_as_transformers(folder)


def test_a_damaged_tokenizer_is_a_clear_error(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"the tokenizer cannot be loaded .*: restore the model's files"):
        read_tokenizer(folder)
