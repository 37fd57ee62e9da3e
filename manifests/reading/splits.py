"""The splits of a folder, train and test for example: told by the names of folders and files, as `datasets` does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from wanbatch.manifests.reading.partitions import partitions_of

SPLIT = "split"
"""The column that says from which split of several a row is."""

_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""What `datasets` takes for the name of each split, alone or between `-`, `.`, `_`, blanks and digits."""

_PATTERNS = {
    split: re.compile(rf"(?:^|[-._ 0-9])(?:{'|'.join(words)})(?:$|[-._ 0-9])", re.IGNORECASE)
    for split, words in _WORDS.items()
}
_SHARD = re.compile(r"(?:^|/)data/([^/]+)-\d{5}-of-\d{5}[^/]*$")
"""How `push_to_hub` of `datasets` calls the files of a split, whatever it is called."""


def splits_of(names: Sequence[str], least: int = 2) -> list[str | None]:
    """The split of each file of a folder; None for all, unless each is of one.

    Args:
        names: of the files, relative to the folder.
        least: how many splits there must be.
    """
    for rule in (_of_shard, _of_folders, _of_name):
        found = [rule(name) for name in names]
        if None not in found and len(set(found)) >= least:
            return found
    return [None] * len(names)


def constants_by_name(names: Sequence[str]) -> tuple[Mapping[str, str | None], ...]:
    """The columns that have one value in all rows of a file, by its name: partitions, and which of several splits.

    Args:
        names: of the files, relative to the manifest's folder.
    Returns:
        For each file its columns, as text. A partition called `split` is the split.
    """
    return tuple(
        partitions_of(name) if split is None else {SPLIT: split, **partitions_of(name)}
        for name, split in zip(names, splits_of(names), strict=True)
    )


def _of_shard(name: str) -> str | None:
    found = _SHARD.search(name)
    return found[1] if found else None


def _of_folders(name: str) -> str | None:
    return _only(split for part in name.split("/")[:-1] for split, words in _PATTERNS.items() if words.search(part))


def _of_name(name: str) -> str | None:
    last = name.rpartition("/")[2]
    return _only(split for split, words in _PATTERNS.items() if words.search(last))


def _only(splits: Iterable[str]) -> str | None:
    """The split, if there is one and no other."""
    found = set(splits)
    return found.pop() if len(found) == 1 else None
