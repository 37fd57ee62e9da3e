"""Tokens are counted as the text encoder counts them, without torch."""

import shutil
import subprocess
import sys

import pytest
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from transformers import AutoTokenizer

from wanbatch.errors import UserError
from wanbatch.pipeline.core.prompts import TEXT_TOKENS, clean
from wanbatch.pipeline.loading.registry import find
from wanbatch.pipeline.loading.token_counter import TokenCounter

LONG = ", ".join(f"detail number {number} of a busy street scene" for number in range(60))
PROMPTS = [
    "",
    " a  heart \n\t and\u00a0more ",
    "&lt;b&gt; &amp;amp; &quot;x&quot;",
    "caf\u00c3\u00a9 \u201cquoted\u201d \ufb01n",
    LONG,
    LONG + " &lt;b&gt; caf\u00c3\u00a9" * 9,
    "\u8272\u8c03\u8273\u4e3d\uff0c" * 90,
    "\ufdfa" * 60,
    "\U0001f600" * 300,
]


@pytest.fixture(scope="module")
def tiny() -> str:
    return find().folder


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_are_cleaned_as_diffusers_does(prompt):
    assert clean(prompt) == prompt_clean(prompt)


def test_as_many_tokens_are_cut_as_the_encoder_cuts(tiny):
    tokenizer = AutoTokenizer.from_pretrained(f"{tiny}/tokenizer")
    whole = {prompt: len(tokenizer(prompt_clean(prompt)).input_ids) for prompt in PROMPTS}
    read = {p: len(tokenizer(prompt_clean(p), truncation=True, max_length=TEXT_TOKENS).input_ids) for p in PROMPTS}
    expected = {prompt: whole[prompt] - read[prompt] for prompt in PROMPTS if whole[prompt] > read[prompt]}
    assert TokenCounter(tiny).longer_than_read(PROMPTS) == expected
    assert [prompt for prompt in PROMPTS if prompt in expected] == [p for p in PROMPTS if p.startswith(LONG)]


def test_the_limit_is_exact(tiny):
    counter = TokenCounter(tiny)
    tokenizer = AutoTokenizer.from_pretrained(f"{tiny}/tokenizer")
    words = LONG.split()
    fits = next(n for n in range(len(words), 0, -1) if len(tokenizer(" ".join(words[:n])).input_ids) <= TEXT_TOKENS)
    assert counter.longer_than_read([" ".join(words[:fits])]) == {}
    assert list(counter.longer_than_read([" ".join(words[: fits + 1])]).values()) != []


def test_a_model_without_a_tokenizer_file_and_one_with_a_damaged_one(tiny, tmp_path):
    counter = TokenCounter(str(tmp_path))
    assert not counter.can_count
    assert counter.longer_than_read(["short", LONG]) == {LONG: 0}
    shutil.copytree(f"{tiny}/tokenizer", tmp_path / "tokenizer")
    (tmp_path / "tokenizer/tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be read \(.+\): restore the model's files"):
        TokenCounter(str(tmp_path))
    shutil.copy(f"{tiny}/tokenizer/tokenizer.json", tmp_path / "tokenizer")
    assert TokenCounter(str(tmp_path)).can_count


def test_counting_imports_neither_torch_nor_transformers(tiny):
    code = (
        "import sys; from wanbatch.pipeline.loading.token_counter import TokenCounter; "
        f"assert TokenCounter({tiny!r}).longer_than_read(['x ' * 600]); "
        "assert not {'torch', 'transformers', 'diffusers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
