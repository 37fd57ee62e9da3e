"""The dataset card: the README.md of an output folder.

Its front matter tells `datasets.load_dataset` and dataset viewers where the images are. So it is there as soon as
a folder is opened, and says how far the run is.

`load_dataset` keeps what it loaded under the name of the folder and a hash of the front matter, and does not look at
the parts again. So the front matter says which parts there are: it changes with every commit, and no two folders have
the same one.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from wanbatch.counting import number_of
from wanbatch.manifests.columns import LATER, MEANINGS, WRITTEN
from wanbatch.manifests.dataset.checks import FOLDER, checks_note
from wanbatch.manifests.dataset.committed import Committed
from wanbatch.manifests.dataset.disk_errors import machinery_error
from wanbatch.manifests.dataset.status import counts_of
from wanbatch.manifests.storage.backend import StorageBackend, open_backend

if TYPE_CHECKING:
    from huggingface_hub import DatasetCardData

_log = logging.getLogger(__name__)

NAME = "README.md"

UPDATE_SECONDS = 30.0
"""How old the counts of a card may get while units are published. Its front matter is never older than a commit."""

_MADE = re.compile(r"^\d+ images?(?=, made from a manifest by wanbatch)", re.MULTILINE)
_FAILED = re.compile(r"^\d+ rows? could not be made \(.*\)\.\n", re.MULTILINE)
_LOADING = """```python
from datasets import load_dataset

images = load_dataset("path/to/this/folder", split="train")
```

`data/` holds one row an image, and `timings/` how each was made; the two join on `id`. `failures/` holds the ids of \
rows that could not be made. It is empty if there are none: `pandas.read_parquet("failures")` reads no rows then, \
and a pattern like `failures/*.parquet` finds no file.
"""


@dataclass(frozen=True, slots=True)
class CardContent:
    """What a card says besides counts.

    Attributes:
        model, revision: what made the images.
        settings: what else was chosen for the run; shown as a table.
        passthrough: the columns that came with the manifest.
        later: which columns of `columns.LATER` the dataset has.
        notes: what is to be known of the images, a sentence each without its full stop.
    """

    model: str
    revision: str | None
    settings: Mapping[str, object]
    passthrough: pa.Schema | None = None
    later: Collection[str] = ()
    notes: tuple[str, ...] = ()


class Card:
    """The card of an output folder that this process holds."""

    def __init__(self, root: str, content: CardContent):
        """
        Args:
            root: the output folder, a path or a URL.
            content: what the card says.
        """
        self._root, self._content = root, content
        self._writer = secrets.token_hex(4)
        self._written = float("-inf")  # with all its counts; monotonic, seconds
        self._text, self._digest = "", ""

    def update(self, committed: Committed, settled: bool = False) -> None:
        """Write the card with what is committed now.

        Args:
            committed: what is committed.
            settled: nothing is being published. Else readers may see parts that are not committed yet, and never will
                be if this process is killed, so that what they see is marked as what they saw of this writer only.
        Raises:
            MachineryError: if the disk or the store refuses.
        """
        self._digest = committed.content_digest if settled else self._of_this_writer(committed)
        self._text = write_card(self._root, self._content, counts_of(committed), self._digest)
        self._written = time.monotonic()

    def follow(self, committed: Committed) -> None:
        """Do as `update` after a commit; the counts may stay as they are for `UPDATE_SECONDS`."""
        if time.monotonic() - self._written > UPDATE_SECONDS:
            self.update(committed)
            return
        before, self._digest = self._digest, self._of_this_writer(committed)
        self._text = self._text.replace(_content(before), _content(self._digest), 1)
        _write(open_backend(self._root), self._text)

    def _of_this_writer(self, committed: Committed) -> str:
        return f"{committed.content_digest}-{self._writer}"


def refresh_card(backend: StorageBackend, committed: Committed) -> None:
    """Let the card of a folder, if it has one, say which parts there are, and how many rows are made and failed.

    A file of its name that is no card any more stays as it is, with a warning.

    Raises:
        OSError: if the disk or the store refuses.
    """
    try:
        data = backend.read(NAME)
    except FileNotFoundError:
        return
    from huggingface_hub import DatasetCard  # takes a third of a second
    from yaml import YAMLError

    try:
        card = DatasetCard(data.decode())
    except (ValueError, TypeError, YAMLError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        _log.warning(
            "%s: is no dataset card any more (%s): it stays as it is until a run writes the card again",
            backend.location(NAME),
            why,
        )
        return
    card.data["configs"] = _configs(committed.content_digest, _checks_digest(backend))
    card.text = _MADE.sub(number_of(len(committed.made), "images"), card.text)
    failed = "".join(f"{line}\n" for line in _failed(counts_of(committed)))
    card.text = _FAILED.sub(lambda _: failed, card.text)
    backend.ensure_writer()
    backend.write_atomic(NAME, str(card).encode())


def write_card(root: str | Path, content: CardContent, counts: Mapping[str, Any], digest: str = "") -> str:
    """Write or replace the card of an output folder; returns its text.

    Args:
        root: the output folder, a path or a URL.
        content: what the card says.
        counts: `done`, `quarantined` and `failures` (error class -> count), as `status` gives them.
        digest: another one for each state of the parts; see `Committed.content_digest`.
    Raises:
        MachineryError: if the disk or the store refuses.
    """
    backend = open_backend(root)
    title = _storable(backend.root.rpartition("/")[2])
    lines = [
        f"# {inline(title)}",
        "",
        _summary(content, counts),
        "",
        _LOADING,
        "## Settings",
        "",
        "Of the run; rows may have their own, which their columns hold.",
        "",
        *_table("setting", "value", [(name, code(value)) for name, value in content.settings.items()]),
        "",
        "## Columns",
        "",
        *_table("column", "meaning", [*_own_rows(content.later), *_passthrough_rows(content.passthrough)]),
        "",
    ]
    body = _storable("\n".join(lines))
    from huggingface_hub import DatasetCard

    card = DatasetCard(
        f"---\n{_front_matter(title, digest, _checks_digest(backend)).to_yaml()}\n---\n\n{body}"
    )  # raises if it is not YAML
    text = str(card)
    _write(backend, text)
    return text


def _write(backend: StorageBackend, text: str) -> None:
    try:
        backend.write_atomic(NAME, text.encode())
    except OSError as error:
        raise machinery_error(backend.root, error) from error


def _front_matter(title: str, digest: str, checks: str | None) -> DatasetCardData:
    """What `load_dataset` and the Hub read: where the images are, and what the dataset is called.

    Of what `load_dataset` hashes, the description is what may say anything and leaves names and versions alone.
    """
    from huggingface_hub import DatasetCardData

    return DatasetCardData(pretty_name=title, tags=["synthetic", "wanbatch"], configs=_configs(digest, checks))


def _configs(digest: str, checks: str | None) -> list[dict[str, Any]]:
    """The pictures, and what was found of them. checks: the digest of that; None: they were not checked."""
    told = [("default", "data", _content(digest))]
    if checks is not None:
        told.append((FOLDER, FOLDER, f"{FOLDER} {checks}"))
    return [
        {
            "config_name": name,
            "data_files": [{"split": "train", "path": f"{folder}/*.parquet"}],
            "description": description,
        }
        for name, folder, description in told
    ]


def _checks_digest(backend: StorageBackend) -> str | None:
    try:
        note = checks_note(backend)
    except OSError as error:
        raise machinery_error(backend.root, error, reading=True) from error
    return None if note is None else note["digest"]


def _content(digest: str) -> str:
    return f"content {digest}"


def _summary(content: CardContent, counts: Mapping[str, Any]) -> str:
    at_revision = f" at revision {code(content.revision)}" if content.revision else ""
    images = number_of(counts["done"], "images")
    lines = [f"{images}, made from a manifest by wanbatch with {code(content.model)}{at_revision}."]
    lines += [*_failed(counts), *(f"{inline(note)}." for note in content.notes)]
    return "\n".join(lines)


def _failed(counts: Mapping[str, Any]) -> Iterator[str]:
    """The line about rows that could not be made, if there are any."""
    if counts["quarantined"]:
        classes = ", ".join(f"{count} {inline(name)}" for name, count in counts["failures"].items())
        yield f"{number_of(counts['quarantined'], 'rows')} could not be made ({classes})."


def _storable(text: str) -> str:
    """Text without what UTF-8 cannot hold (file names that are no Unicode have it)."""
    return text.encode(errors="replace").decode()


def _own_rows(later: Collection[str]) -> list[tuple[str, str]]:
    return [(name, MEANINGS[name]) for name in WRITTEN if name not in LATER or name in later]


def _passthrough_rows(passthrough: pa.Schema | None) -> list[tuple[str, str]]:
    if passthrough is None:
        return []
    return [(field.name, f"from the manifest ({code(field.type)})") for field in passthrough]


def _table(left: str, right: str, rows: list[tuple[str, str]]) -> list[str]:
    return [f"| {left} | {right} |", "|---|---|", *(f"| {code(name)} | {text} |" for name, text in rows)]


def code(value: object) -> str:
    """A value as a code span, in which Markdown resolves no entities, so that `<` stays as it is."""
    text = _one_line("" if value is None else str(value)).replace("`", "'")
    return f"`{text}`" if text else ""


def inline(text: str) -> str:
    """Text that cannot break a table or a heading."""
    return _one_line(text).replace("<", "&lt;")


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
