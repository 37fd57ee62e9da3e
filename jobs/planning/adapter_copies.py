"""Adapters that are on no disk of this host: fetched from the hub, a store, or the web, once a host. No torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from wanbatch.errors import MachineryError, UserError
from wanbatch.jobs.config.adapter_texts import Registered
from wanbatch.jobs.planning.host_copies import default_cache, made_once
from wanbatch.manifests.sources.errors import SourceError
from wanbatch.manifests.sources.http import Fetcher
from wanbatch.manifests.storage.fsspec_io import file_system, os_errors, tag_of
from wanbatch.manifests.storage.urls import is_hub, is_url, plain_url
from wanbatch.pipeline.adapters.files import other_file
from wanbatch.pipeline.adapters.location import CONFIG, SUFFIX, is_on_disk, locate

T = TypeVar("T")
MOST_BYTES = 4 << 30
WEB_SECONDS = 3600.0
EVERY_ADDRESS = ("0.0.0.0/0", "::/0")  # who gives the command may mean a server of their own
REMEDY = "set XDG_CACHE_HOME to a folder on a larger disk"
_OF_HUB = re.compile(r"https://huggingface\.co/([^/]+/[^/]+)/(?:resolve|blob)/([^/]+)/([^?#]+)")


def is_fetched(given: Registered) -> bool:
    """Whether each host has a copy of its own: the adapter is on the hub, in a store or on the web."""
    return not is_on_disk(given.path)


def local_adapter(given: Registered) -> Path:
    """The file of an adapter on this host, fetched if it is not on a disk.

    Args:
        given: A path, a hub id, the URL of a file in an object store, or an https address.

    Raises:
        UserError: There is no such file, or several in question.
        MachineryError: The store or the server does not answer, or the disk has no room.
    """
    address = given.path
    if (found := _OF_HUB.match(address)) is not None:
        return locate(f"{found[1]}/{unquote(found[3])}", unquote(found[2]))
    in_store, on_web = is_url(address) and not is_hub(address), address.startswith("https://")
    if not (in_store or on_web):
        return locate(address, given.revision)
    if given.revision is not None:
        raise UserError(f"adapter {address}: only those on the hub have revisions: drop @{given.revision}")
    name = unquote(urlsplit(address).path.rpartition("/")[2])
    if not name.endswith(SUFFIX):
        raise UserError(f"adapter {address}: must be the address of a {SUFFIX} file")
    try:
        return _from_store(plain_url(address), name) if in_store else _from_web(address, name)
    except FileNotFoundError as error:
        raise UserError(f"adapter {address}: there is no such file: check the address") from error
    except OSError as error:
        raise MachineryError(f"adapter {address}: {error.strerror or error}; run the same command again") from error


def _from_store(url: str, name: str) -> Path:
    system = file_system(url)
    with os_errors(url):
        files = {url: system.info(url)}
        for one in filter(None, (CONFIG, other_file(name))):
            beside = f"{url.rpartition('/')[0]}/{one}"
            with suppress(FileNotFoundError):
                files[beside] = system.info(beside)

    def fill(folder: Path) -> None:
        with os_errors(url):
            for one in files:
                system.get_file(one, str(folder / one.rpartition("/")[2]))

    version = " ".join(f"{one} {info['size']} {tag_of(info) or ''}" for one, info in files.items())
    return _copy(version, name, sum(info["size"] for info in files.values()), fill)


def _from_web(url: str, name: str) -> Path:
    """The copy of the version that the server has now; of a server that tells none apart, by the content."""
    fetcher = Fetcher(MOST_BYTES, EVERY_ADDRESS, WEB_SECONDS)
    config = _if_there(fetcher.fetch, _beside(url, CONFIG))  # PEFT's settings, with the scale
    other = other_file(name)
    second = None if other is None else _if_there(partial(_version, fetcher), _beside(url, quote(other)))

    def fill(folder: Path) -> None:
        (folder / name).write_bytes(fetcher.fetch(url) if data is None else data)
        if config is not None:
            (folder / CONFIG).write_bytes(config)
        if other is not None and second is not None:
            content = fetcher.fetch(_beside(url, quote(other))) if second[1] is None else second[1]
            (folder / other).write_bytes(content)

    try:
        version, data = _version(fetcher, url)
        versions = f"{url} {version} {config!r}" + (f" {second[0]}" if second is not None else "")
        return _copy(versions, name, len(data or b""), fill)
    except SourceError as error:
        raise _problem(url, error) from error


def _version(fetcher: Fetcher, url: str) -> tuple[str, bytes | None]:
    """What tells a version of a file from others, and the file itself if it is had by that alone."""
    if validator := fetcher.fetch_beginning(url, 1).validator:
        return validator, None
    data = fetcher.fetch(url)
    return hashlib.sha256(data).hexdigest(), data


def _beside(url: str, name: str) -> str:
    """The address of a file beside another one."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rpartition('/')[0]}/{name}"))


def _if_there(ask: Callable[[str], T], url: str) -> T | None:
    """What there is to know of an address; None: there is nothing."""
    try:
        return ask(url)
    except SourceError as error:
        if error.kind == "missing_image":
            return None
        raise _problem(url, error) from error


def _copy(version: str, name: str, size: int, fill: Callable[[Path], object]) -> Path:
    digest = hashlib.sha256(version.encode()).hexdigest()
    folder = default_cache("adapters") / f"{name.removesuffix(SUFFIX)}-{digest[:16]}"
    return made_once(folder, size, fill, REMEDY) / name


def _problem(url: str, error: SourceError) -> Exception:
    if error.kind == "unreachable":
        return MachineryError(f"adapter {url}: {error.message}; run the same command again")
    return UserError(f"adapter {url}: {error.message}: check the address, or download the file and give its path")
