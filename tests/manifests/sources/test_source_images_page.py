"""`docs/source-images.md` says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from wanbatch.jobs.config.settings import Settings
from wanbatch.manifests.sources.formats import OPTIONAL, READ
from wanbatch.manifests.sources.notes import WORDS

PAGE = (Path(__file__).parents[3] / "docs" / "source-images.md").read_text(encoding="utf-8")


def test_it_has_every_note_in_the_words_of_the_summary():
    listed = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE, re.MULTILINE))
    assert listed == WORDS


def test_it_has_every_format_with_its_extra():
    for name in READ:
        assert re.search(rf"\b{name}\b", PAGE)
    for wanted in OPTIONAL.values():
        assert f"{wanted.name} with `pip install 'wanbatch[{wanted.extra}]'`" in PAGE


def test_its_settings_exist():
    for flag in re.findall(r"`?--([a-z][a-z-]+)", PAGE):
        assert flag.replace("-", "_") in Settings.model_fields
