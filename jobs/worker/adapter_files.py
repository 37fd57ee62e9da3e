"""Adapter files on the host of a worker: the same that the command checked, or the worker does not start."""

from __future__ import annotations

from collections.abc import Sequence

from wanbatch.errors import NodeError, UserError
from wanbatch.jobs.planning.adapters import NamedAdapter
from wanbatch.pipeline.adapters.files import digest_of_files


def require_same_files(adapters: Sequence[NamedAdapter], host: str) -> None:
    """Check that adapter files are here, and are those that the command read.

    Args:
        adapters: of the run.
        host: the name of this one, for messages.

    Raises:
        NodeError: One is missing, or another one.
    """
    for adapter in adapters:
        where = " and ".join(adapter.file.paths)
        try:
            digest = digest_of_files(adapter.file.paths)
        except UserError as error:
            raise NodeError(
                f"host {host}: adapter {adapter.name!r}: {where} cannot be read, which the host of this command "
                "reads: share its folder with every host that has workers"
            ) from error
        if digest != adapter.file.digest:
            raise NodeError(
                f"host {host}: adapter {adapter.name!r}: {where} is not the file that this command read, or has "
                "changed since: start the command again, or share one folder with every host"
            )
