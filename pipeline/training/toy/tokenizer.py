"""The tokenizer that reads captions of the small world."""

from __future__ import annotations

import json
import string
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import T5Tokenizer

from wanbatch.pipeline.training.toy.captions import AFTER_A_HYPHEN, PUNCTUATION, vocabulary

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def build_tokenizer(folder: Path) -> T5Tokenizer:
    """Writes the tokenizer's files and loads them: whole words, punctuation, `<unk>` for everything else.

    A T5 tokenizer (Unigram over `▁`-marked words) as Wan's, with upper case folded by a character map, which is
    the only normaliser that transformers keeps when it loads one.
    """
    pieces = [(PAD, 0.0), (END, 0.0), (UNKNOWN, -20.0), ("▁", -4.0)]
    pieces += [("▁" + word, -6.0) for word in vocabulary()] + [(mark, -5.0) for mark in PUNCTUATION]
    pieces += [(word, -6.5) for word in AFTER_A_HYPHEN]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(lower_case_map())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    tokenizer.add_special_tokens([PAD, END, UNKNOWN])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": 512,
        "pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return T5Tokenizer.from_pretrained(folder)


def lower_case_map() -> bytes:
    """SentencePiece's precompiled character map for A-Z to a-z.

    The format: the trie's size in bytes, the trie, then the replacements, each ended by a zero byte. The trie is a
    double array of 32-bit units (darts-clone): a unit holds its label in bits 0-7, "a leaf follows" in bit 8 and
    from bit 10 on an offset, which, combined by exclusive or with the next byte, is the next unit's place. All
    keys are single bytes here, so the root leads to 256 ^ byte and from there to a leaf with the replacement's
    place.
    """
    units = [0] * 1024
    units[0] = 256 << 10
    for index, letter in enumerate(string.ascii_uppercase.encode()):
        node, leaf = 256 ^ letter, 512 ^ letter
        units[node] = letter | 1 << 8 | (node ^ leaf) << 10
        units[leaf] = index * 2 | 1 << 31
    trie = b"".join(unit.to_bytes(4, "little") for unit in units)
    return (
        len(trie).to_bytes(4, "little")
        + trie
        + b"".join(letter.encode() + b"\0" for letter in string.ascii_lowercase)
    )
