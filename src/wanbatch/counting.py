"""Numbers of things, in words."""

from __future__ import annotations


def number_of(number: int, things: str) -> str:
    """A number of things, with the noun in its singular where it is one: `1 row`, `2 rows`, `1 reply`.

    Args:
        number: how many.
        things: the plural, in `-s` or `-ies`; what stands before the noun stays: `quarantined rows`.
    """
    if number != 1:
        return f"{number} {things}"
    one = f"{things[:-3]}y" if things.endswith("ies") else things.removesuffix("s")
    return f"1 {one}"
