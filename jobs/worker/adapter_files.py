"""Adapter files on the host of a worker: the same that the command checked, or the worker does not start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wanbatch.errors import MachineryError, NodeError, UserError
from wanbatch.jobs.planning.adapter_copies import local_adapter
from wanbatch.jobs.planning.adapters import NamedAdapter
from wanbatch.jobs.planning.host_copies import one_at_a_time
from wanbatch.pipeline.adapters.files import AdapterFile, ModelLayers, digest_of_files, read_adapter
from wanbatch.pipeline.loading.registry import ModelInfo


def fetch_adapters(adapters: Sequence[NamedAdapter], host: str) -> dict[str, str]:
    """Get the adapters here that are on the hub, in a store or on the web; once a host, whoever is first.

    To be called before the model is there, from when on nothing asks the hub.

    Args:
        adapters: of the run.
        host: the name of this one, for messages.

    Returns:
        The file of each that came, by the adapter's name; those that are on a disk of every host are left out, and
        those of which the very file that the command read is here already, which was looked at whole for that.

    Raises:
        NodeError: One cannot be had.
    """
    found = {}
    for adapter in adapters:
        if adapter.given is None:
            continue
        with one_at_a_time(f"adapter {adapter.given.path}"):
            try:
                if not _is_here(adapter):
                    found[adapter.name] = str(local_adapter(adapter.given))
            except (UserError, MachineryError) as error:
                raise NodeError(f"host {host}: {error}") from error
    return found


def _is_here(adapter: NamedAdapter) -> bool:
    """Whether the very file that the command read is on this host."""
    try:
        return digest_of_files(adapter.file.paths) == adapter.file.digest
    except UserError:
        return False


def adapters_here(
    adapters: Sequence[NamedAdapter], fetched: dict[str, str], model: ModelInfo, host: str
) -> tuple[NamedAdapter, ...]:
    """The adapters with their files on this host, which are those that the command read.

    Args:
        adapters: of the run.
        fetched: what `fetch_adapters` returned.
        model: what they are for, with its folder here.
        host: the name of this one, for messages.

    Raises:
        NodeError: One is missing, or another one.
    """
    found = []
    for adapter in adapters:
        if adapter.name in fetched:
            layers = ModelLayers.of_folder(model.folder, model.name, model.two_experts)
            adapter = replace(adapter, file=_read(adapter, fetched[adapter.name], layers, host))
        elif adapter.given is None:
            require_same_file(adapter, host)
        found.append(adapter)
    return tuple(found)


def _read(adapter: NamedAdapter, path: str, layers: ModelLayers, host: str) -> AdapterFile:
    try:
        file = read_adapter(path, layers)
    except UserError as error:
        raise NodeError(f"host {host}: {error}") from error
    if file.digest != adapter.file.digest:
        raise _other_file(adapter, " and ".join(file.paths), host)
    return file


def require_same_file(adapter: NamedAdapter, host: str) -> None:
    """Check that an adapter's file is here, and is the one that the command read.

    Args:
        adapter: of the run.
        host: the name of this one, for messages.

    Raises:
        NodeError: It is missing, or another one.
    """
    where = " and ".join(adapter.file.paths)
    try:
        digest = digest_of_files(adapter.file.paths)
    except UserError as error:
        raise NodeError(
            f"host {host}: adapter {adapter.name!r}: {where} cannot be read, which the host of this command reads: "
            "share its folder with every host that has workers, or put it into an object store (s3://...)"
        ) from error
    if digest != adapter.file.digest:
        raise _other_file(adapter, where, host)


def _other_file(adapter: NamedAdapter, where: str, host: str) -> NodeError:
    return NodeError(
        f"host {host}: adapter {adapter.name!r}: {where} is not the file that this command read, or has changed "
        "since: start the command again, or share one folder with every host"
    )
