"""The guard against leaks: nothing of one split gets into another. Pure.

It looks at the rows as they are, whatever drew them: every parent of a row is of the row's split, and that is one
that the recipe augments. Pictures that look alike in two splits, and groups that are in two, are found before rows
are drawn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from wanbatch.errors import UserError
from wanbatch.jobs.augment.drawing import Child
from wanbatch.jobs.augment.near_copies import NearCopies
from wanbatch.jobs.augment.originals import Original


@dataclass(frozen=True, slots=True)
class Leak:
    """A picture that is augmented, and one of another split that looks the same."""

    original: Original
    held_out: Original
    exact: bool

    def __str__(self) -> str:
        how = "is a copy of" if self.exact else "looks like"
        where = f" of split {self.held_out.split}" if self.held_out.split else ""
        return f"{self.original.name} {how} {self.held_out.name}{where}"


def require_no_leak(children: Sequence[Child], splits: Collection[str] | None) -> None:
    """Refuse rows whose parents are of several splits, or of one that is not augmented.

    Args:
        children: the rows.
        splits: those that are augmented; None: the dataset has none.
    Raises:
        UserError: There is such a row.
    """
    for child in children:
        found = {parent.split for parent, _ in child.parents}
        if len(found) > 1:
            names = " and ".join(sorted(str(name) for name in found))
            raise UserError(f"row {child.id} would be a blend across splits ({names}): nothing is written")
        if splits is not None and not found <= set(splits):
            raise UserError(
                f"row {child.id} would be made from split {found.pop()}, which is held out: nothing written"
            )
        labels = {parent.label for parent, _ in child.parents}
        if len(labels) > 1:
            raise UserError(f"row {child.id} would be a blend of several classes: nothing is written")


def leaks_between(originals: Sequence[Original], others: Sequence[Original]) -> list[Leak]:
    """Pictures that are augmented and of which a picture of another split is a copy or a near-copy.

    Args:
        originals: those that are augmented; they may be of several splits.
        others: all those that are held out, each of a split of another name.
    """
    every = [*others, *originals]
    known = NearCopies([one.fingerprint for one in every if one.fingerprint is not None])
    looked_at = [one for one in every if one.fingerprint is not None]
    found = []
    for original in originals:
        if original.fingerprint is None:
            continue
        alike = (looked_at[number] for number in known.of(original.fingerprint))
        other = next((one for one in alike if one.split != original.split), None)
        if other is not None:
            found.append(Leak(original, other, original.sha256 == other.sha256))
    return found


def groups_in_several_splits(originals: Sequence[Original]) -> list[tuple[str, list[str]]]:
    """Groups that have pictures in more than one split, with these splits; sorted."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for original in originals:
        if original.group is not None:
            splits[original.group].add(str(original.split))
    return sorted((group, sorted(names)) for group, names in splits.items() if len(names) > 1)
