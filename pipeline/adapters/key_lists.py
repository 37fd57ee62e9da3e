"""Lists of keys in messages: all of them, those of many blocks as one. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"(?<=[._])\d+(?=[._])")


def listed(keys: Iterable[str]) -> str:
    """All keys, those that differ in their first number alone as one: `blocks.0-29.norm4.diff, head.x`.

    Args:
        keys: Of a file, in their order.
    """
    numbers: dict[tuple[str, str], list[int]] = {}
    for key in keys:
        found = _NUMBER.search(key)
        around = (key, "") if found is None else (key[: found.start()], key[found.end() :])
        numbers.setdefault(around, []).extend([] if found is None else [int(found.group())])
    return ", ".join(before + _ranges(sorted(among)) + after for (before, after), among in numbers.items())


def _ranges(numbers: Sequence[int]) -> str:
    """Rising numbers, such as `0-3,7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
