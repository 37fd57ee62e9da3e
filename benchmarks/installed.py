"""Versions of packages that a benchmark can do without."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed(*names: str) -> dict[str, str | None]:
    """The version of each package; None: it is not installed."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
