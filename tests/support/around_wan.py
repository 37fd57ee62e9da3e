"""A pipeline around a `Wan`, for those of tests that change what it does with requests.

Workers import this module too; see `local_ray` in tests/jobs/conftest.py.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from wanbatch.pipeline.core.requests import ComingRow
from wanbatch.pipeline.generate import Wan


class AroundWan:
    """What a worker asks of its pipeline besides pictures is left to the `Wan` inside."""

    streams = False
    wan: Wan

    @property
    def backends(self) -> dict[str, str]:
        return self.wan.backends

    @property
    def slots(self) -> int:
        return self.wan.slots

    def use_slots(self, slots: int) -> None:
        self.wan.use_slots(slots)

    def expect_adapters(self, holder: Hashable, rows: Iterable[ComingRow]) -> None:
        self.wan.expect_adapters(holder, rows)

    def release_adapters(self, holder: Hashable) -> None:
        self.wan.release_adapters(holder)

    def spare_memory(self) -> int:
        return self.wan.spare_memory()
