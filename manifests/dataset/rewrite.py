"""Parts that an attempt makes out of date: they are written again without the ids that it decides anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from wanbatch.errors import MachineryError
from wanbatch.manifests.dataset.commit_log import Committed, Replacement, part_name
from wanbatch.manifests.dataset.part_files import TMP, Attempt, read_schema, row_groups, write_part
from wanbatch.manifests.storage.local import StorageBackend


def superseded(done: Committed, attempt: Attempt) -> dict[str, set[str]]:
    """Name of each committed part that holds ids of the attempt -> these ids."""
    parts: dict[str, set[str]] = {}
    for name in attempt.all_ids():
        if name in done.where:
            kinds = ("failures",) if name in done.failed else ("data", "timings")
            for kind in kinds:
                parts.setdefault(part_name(kind, done.where[name]), set()).add(name)
    return parts


def write_replacements(place: StorageBackend, attempt: Attempt, parts: Mapping[str, set[str]]) -> list[Replacement]:
    """Write to `_wanbatch/tmp/` what is left of each part, durably. Changes nothing that readers see.

    Raises:
        MachineryError: if a part is damaged, or does not hold the ids. OSError: if the disk refuses.
    """
    written: list[Replacement] = []
    try:
        for number, (name, ids) in enumerate(sorted(parts.items())):
            draft = f"{TMP}/{attempt.unit:05d}-{attempt.attempt}-replaced-{number}.parquet"
            written.append(_rewritten(place, name, ids, draft))
    except BaseException:
        remove_drafts(place, written)
        raise
    return written


def put_in_place(place: StorageBackend, replaced: Sequence[Replacement]) -> None:
    """Put the replacements where readers find them, durably. Their commit record exists already."""
    for new in replaced:
        if new.draft is None:
            place.remove(new.name)
        else:
            place.replace(new.draft, new.name)
    place.sync({new.name.partition("/")[0] for new in replaced})


def remove_drafts(place: StorageBackend, replaced: Iterable[Replacement]) -> None:
    """Remove replacements that were not committed."""
    for new in replaced:
        if new.draft is not None:
            place.remove(new.draft)


def _rewritten(place: StorageBackend, name: str, ids: set[str], draft: str) -> Replacement:
    try:
        schema = read_schema(place, name)
        found = [one for group in row_groups(place, name, ["id"]) for one in group["id"].to_pylist()]
        if not ids <= set(found):
            raise MachineryError(f"{place.shown(name)}: lacks ids that were committed with it")
        if len(found) == len(ids):
            return Replacement(name, None, None, None)
        sha256 = write_part(place, draft, schema, _without(place, name, ids))
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; pyarrow's own have no number
            raise
        raise MachineryError(f"{place.shown(name)}: cannot be read ({error})") from error
    return Replacement(name, draft, place.size(draft), sha256)


def _without(place: StorageBackend, name: str, ids: set[str]) -> Iterator[pa.Table]:
    gone = pa.array(sorted(ids), pa.string())
    for group in row_groups(place, name):
        left = group.filter(pc.invert(pc.is_in(group["id"], gone)))
        if len(left):
            yield left
