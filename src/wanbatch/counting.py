"""Numbers of things, in words."""

from __future__ import annotations


def number_of(number: float, things: str, does: str = "", do: str = "") -> str:
    """A number of things, with the noun in its singular where it is one: `1 row`, `2 rows`, `1 reply`.

    Args:
        number: how many; a fraction is said as short as can be.
        things: the plural, in `-s`, `-ies` or `-sses`; what stands before the noun stays: `quarantined rows`.
        does, do: the words that follow, of one thing and of others: `1 row is`, `2 rows are`.
    """
    said = f"{number:g}" if isinstance(number, float) else str(number)
    if number != 1:
        return f"{said} {things} {do}".rstrip()
    endings = {"ies": "y", "sses": "ss", "s": ""}
    ending = next((ending for ending in endings if things.endswith(ending)), "")
    return f"{said} {things.removesuffix(ending)}{endings.get(ending, '')} {does}".rstrip()


def made_and_failed(made: int, failed: int, things: str) -> str:
    """How many of some rows have a picture and how many could not be made, as `3 images and 1 failed row`.

    Args:
        made, failed: how many; what there is none of is left out, unless there is none of both.
        things: what pictures are called, in the plural.
    """
    parts = [number_of(made, things)] if made or not failed else []
    return " and ".join([*parts, *([number_of(failed, "failed rows")] if failed else [])])
