"""Files that people give and that are no manifests: what they are, and how a manifest is made of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from wanbatch.manifests.reading.text_lines import with_compressions
from wanbatch.manifests.sources.formats import PICTURE_SUFFIXES

_LINES = "import json; [print(json.dumps({'prompt': t.strip()})) for t in open(0, encoding='utf-8-sig') if t.strip()]"

"""Makes a row of each line of a text."""

_REMEDIES: Mapping[tuple[str, ...], str] = {
    (".txt",): f'is plain text: if each line is a prompt, make rows of them, python3 -c "{_LINES}" < PATH > NEW',
    (".xlsx", ".xls", ".ods"): "is a spreadsheet: save it as CSV (UTF-8)",
    (".zip", ".tar", ".tar.gz", ".tgz", ".7z"): "is an archive: unpack it and give the manifest in it",
    (".bz2", ".xz"): "is compressed in a way that is not read: unpack it, or compress it with gzip or zstd",
    (".pkl", ".pickle", ".pt", ".npy", ".npz"): "may run code when it is read: write the rows as Parquet or JSONL",
    (".toml",): "is no manifest: a recipe is for `wanbatch augment PATH`; rows are JSONL, CSV or Parquet",
    (".yaml", ".yml", ".xml"): "is not read: write the rows as JSONL, CSV or Parquet",
    PICTURE_SUFFIXES: 'is a picture: give its folder, or write a manifest with a row like {"image": "NAME"}',
}

DATA = with_compressions((".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".pq"))
"""Endings of files that may hold rows. Where a folder is read by another kind, those that are not read are named."""


def warning(shown: str, names: Sequence[str], read: Sequence[str]) -> list[str]:
    """A sentence about files of a folder that may hold rows and are not read; none if there are none.

    Args:
        shown: the folder as the user wrote it.
        names: of all its files.
        read: those that are read.
    """
    taken = set(read)
    left = [name for name in names if name.lower().endswith(DATA) and name not in taken]
    if not left:
        return []
    more = f" and {len(left) - 3} more" if len(left) > 3 else ""
    return [f"{shown}: of this folder {', '.join(left[:3])}{more} are not read, as it has files of another kind"]


def remedy(shown: str) -> str | None:
    """What a file is by its name, with what to do about it; None if its name says nothing.

    Args:
        shown: the file as the user wrote it.
    """
    name = shown.rpartition("/")[2]
    for suffixes, said in _REMEDIES.items():
        if name.lower().endswith(suffixes):
            new = shown[: -len(name)] + name.rpartition(".")[0] + ".jsonl"
            return _filled(said, PATH=shlex.quote(shown), NEW=shlex.quote(new), NAME=name)
    return None


def _filled(said: str, **values: str) -> str:
    """A sentence with values in the place of words in capitals."""
    return re.sub(rf"\b({'|'.join(values)})\b", lambda found: values[found[1]], said)
