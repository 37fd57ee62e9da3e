"""`wanbatch push`: an output folder as a dataset on the Hugging Face Hub.

Files go up one after the other, so that one is on this disk at a time, and become visible together, by one commit.
What is on the Hub already does not go up again, so a push that was stopped is gone on with by the same command, and
one of a grown folder uploads what is new. Timings and failures stay here: they name hosts and paths.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanbatch import __version__
from wanbatch.counting import number_of
from wanbatch.errors import MachineryError, UserError, WanbatchError
from wanbatch.manifests.sharing.contents import Contents
from wanbatch.manifests.sharing.facts import Facts, facts_of
from wanbatch.manifests.sharing.hub_card import Licences, hub_card
from wanbatch.manifests.sharing.hub_errors import hub_errors
from wanbatch.manifests.sharing.hub_licences import unknown_licence
from wanbatch.manifests.sharing.pictures import contents_of
from wanbatch.manifests.sharing.shards import SHARD_BYTES, Shard, write_shards

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

CARD = "README.md"
RECORD = "wanbatch.json"
"""Says that a repository is filled by `push`, and of which state of which folder."""

_TARGET = re.compile(r"hf://(?:datasets/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/?", re.IGNORECASE)
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SHARD = re.compile(r"data/train-\d{5}\.parquet")
_OF_THE_HUB = frozenset({".gitattributes", CARD})


@dataclass(frozen=True, slots=True)
class PushOptions:
    """How a dataset is published.

    Attributes:
        licences: what it may be used for; an empty licence of the dataset is refused.
        partial: also if rows are still to be made.
        public: a repository that does not exist yet is made for everyone to see.
        replace: a dataset with more images is replaced, too.
        dry_run: nothing goes up; the Hub is not asked.
        shard_bytes: of pictures in a file.
    """

    licences: Licences
    partial: bool = False
    public: bool = False
    replace: bool = False
    dry_run: bool = False
    shard_bytes: int = SHARD_BYTES


@dataclass(frozen=True, slots=True)
class PushReport:
    """What went up, or would.

    Attributes:
        repository: `OWNER/NAME`.
        commit: the URL of the commit; None: nothing was to be changed, or it was a dry run.
        images, rows_left: published, and still to be made.
        files: name -> bytes, of all files of the dataset.
        sent: names of those that were not there yet; all of them in a dry run.
        removed: names of files of an earlier push that are not part of the dataset any more.
        private: whether the repository is; None: that is not known.
        warnings: what should be known before others see it, a sentence each.
        card: its text.
    """

    repository: str
    commit: str | None
    images: int
    rows_left: int
    files: dict[str, int]
    sent: tuple[str, ...]
    removed: tuple[str, ...]
    private: bool | None
    warnings: tuple[str, ...]
    card: str


@dataclass(frozen=True, slots=True)
class _Remote:
    """What the repository holds.

    Attributes:
        commit: of `main`.
        files: name -> SHA-256, where the Hub knows it.
        images: of the last push.
        private: whether only its owner sees it; None: that is not known.
    """

    commit: str | None
    files: dict[str, str | None]
    images: int
    private: bool | None


def push(
    out: str | Path, target: str, options: PushOptions, on_shard: Callable[[Shard, bool], None] = lambda *_: None
) -> PushReport:
    """Publish an output folder.

    Args:
        out: the folder, a path or a URL.
        target: `hf://OWNER/NAME`.
        options: how.
        on_shard: told of each data file, and whether it had to go up.
    Raises:
        UserError: What was given cannot be published, or not there. Nothing went up then.
        MachineryError: The Hub, a disk or a store fails; the same command goes on.
    """
    repository = repository_of(target)
    contents = contents_of(out, options.partial)
    facts = facts_of(contents)
    _require_licences(options.licences, facts)
    with tempfile.TemporaryDirectory(prefix="wanbatch-push-") as folder:
        if options.dry_run:
            return _dry_run(repository, contents, facts, options, Path(folder), on_shard)
        with hub_errors(target):
            return _push(repository, contents, facts, options, Path(folder), on_shard)


def repository_of(target: str) -> str:
    """`OWNER/NAME` of an address. Raises UserError."""
    found = _TARGET.fullmatch(target)
    if found is None or ".." in target:
        raise UserError(f"{target}: is no address of a dataset on the Hub: write it like hf://OWNER/NAME")
    return found[1]


def _require_licences(licences: Licences, facts: Facts) -> None:
    if not _LICENCE.fullmatch(licences.license):
        raise UserError(
            f"--license {licences.license!r}: is no name of a licence as the Hub has them: give one like cc-by-4.0, "
            "apache-2.0, openrail or other"
        )
    if facts.with_sources and not (licences.source_license or "").strip():
        raise UserError(
            f"{number_of(facts.with_sources, 'images', 'was', 'were')} made from other pictures: give "
            f"--source-license the licence under which you may pass on what is made from these"
        )


def _dry_run(
    repository: str,
    contents: Contents,
    facts: Facts,
    options: PushOptions,
    folder: Path,
    on_shard: Callable[[Shard, bool], None],
) -> PushReport:
    files: dict[str, int] = {}
    for shard in _shards(contents, folder, options):
        shard.path.unlink()
        files[shard.name] = shard.bytes
        on_shard(shard, True)
    card, files = _with_card(repository, contents, facts, options, files)
    warnings = _warnings(facts, None if not options.public else False, options.licences.license)
    return PushReport(
        repository, None, contents.images, contents.left, files, tuple(files), (), not options.public, warnings, card
    )


def _push(
    repository: str,
    contents: Contents,
    facts: Facts,
    options: PushOptions,
    folder: Path,
    on_shard: Callable[[Shard, bool], None],
) -> PushReport:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(library_name="wanbatch", library_version=__version__)
    remote = _prepared(api, repository, options)
    _require_not_larger(remote, repository, contents, options)
    files: dict[str, int] = {}
    additions: list[CommitOperationAdd] = []
    for shard in _shards(contents, folder, options):
        files[shard.name] = shard.bytes
        known = remote.files.get(shard.name) == shard.sha256
        if not known:
            additions.append(_sent(api, repository, shard))
        if known or getattr(additions[-1], "_is_uploaded", False):
            shard.path.unlink()
        on_shard(shard, not known)
    card, files = _with_card(repository, contents, facts, options, files)
    stale = tuple(sorted(name for name in remote.files if _SHARD.fullmatch(name) and name not in files))
    commit = api.create_commit(
        repository,
        [
            *additions,
            CommitOperationAdd(CARD, card.encode()),
            CommitOperationAdd(RECORD, _record(contents)),
            *(CommitOperationDelete(name) for name in stale),
        ],
        commit_message=number_of(contents.images, "images"),
        repo_type="dataset",
        parent_commit=remote.commit,
    )
    changed = commit.oid != remote.commit
    return PushReport(
        repository=repository,
        commit=commit.commit_url if changed else None,
        images=contents.images,
        rows_left=contents.left,
        files=files,
        sent=(*(addition.path_in_repo for addition in additions), CARD, RECORD) if changed else (),
        removed=stale,
        private=remote.private,
        warnings=_warnings(facts, remote.private, options.licences.license),
        card=card,
    )


def _shards(contents: Contents, folder: Path, options: PushOptions) -> Iterator[Shard]:
    """The files; there are as many rows in them as were committed. Raises MachineryError."""
    rows = 0
    try:
        for shard in write_shards(contents, folder, options.shard_bytes):
            rows += shard.rows
            yield shard
    except OSError as error:
        if isinstance(error, WanbatchError) or error.errno is None:
            raise
        raise MachineryError(
            f"{folder}: cannot be written to ({error.strerror}): a file of the dataset is kept there at a time; make "
            "room, or set TMPDIR to a larger disk"
        ) from error
    if rows != contents.images:
        raise MachineryError(
            f"{contents.folder}: changed while it was read: wait for the run's end and run the same command again"
        )


def _sent(api: HfApi, repository: str, shard: Shard) -> CommitOperationAdd:
    from huggingface_hub import CommitOperationAdd

    addition = CommitOperationAdd(shard.name, shard.path)
    api.preupload_lfs_files(repository, [addition], repo_type="dataset")
    return addition


def _prepared(api: HfApi, repository: str, options: PushOptions) -> _Remote:
    """What the repository holds; it is made if there is none. Raises UserError for one that is another's."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.dataset_info(repository)
    except RepositoryNotFoundError:
        api.create_repo(repository, repo_type="dataset", private=not options.public, exist_ok=True)
        info = api.dataset_info(repository)
    files: dict[str, str | None] = {}
    for entry in api.list_repo_tree(repository, repo_type="dataset", recursive=True, revision=info.sha):
        lfs = getattr(entry, "lfs", None)
        if hasattr(entry, "size"):
            files[entry.path] = None if lfs is None else lfs.sha256
    if RECORD not in files and (others := files.keys() - _OF_THE_HUB):
        raise UserError(
            f"hf://{repository}: holds files that wanbatch did not push, {min(others)!r} for one: choose another name"
        )
    images = _images_there(api, repository, str(info.sha)) if RECORD in files else 0
    return _Remote(info.sha, files, images, info.private)


def _images_there(api: HfApi, repository: str, commit: str) -> int:
    """How many images the last push said that it had."""
    with tempfile.TemporaryDirectory(prefix="wanbatch-push-") as folder:
        path = api.hf_hub_download(repository, RECORD, repo_type="dataset", revision=commit, local_dir=folder)
        try:
            return int(json.loads(Path(path).read_bytes())["images"])
        except (ValueError, KeyError, TypeError):
            return 0


def _require_not_larger(remote: _Remote, repository: str, contents: Contents, options: PushOptions) -> None:
    if remote.images > contents.images and not options.replace:
        raise UserError(
            f"hf://{repository}: holds {number_of(remote.images, 'images')}, and {contents.folder} has "
            f"{contents.images}: is it the folder that was pushed before? Choose another name, "
            "or replace the dataset with --replace"
        )


def _with_card(
    repository: str, contents: Contents, facts: Facts, options: PushOptions, files: dict[str, int]
) -> tuple[str, dict[str, int]]:
    card = hub_card(repository, contents, facts, options.licences, sum(files.values()))
    return card, {**files, CARD: len(card.encode()), RECORD: len(_record(contents))}


def _record(contents: Contents) -> bytes:
    record: dict[str, Any] = {"content": contents.digest, "images": contents.images, "wanbatch": __version__}
    return json.dumps(record).encode()


def _warnings(facts: Facts, private: bool | None, license: str) -> tuple[str, ...]:
    unknown = unknown_licence(license)
    found = [] if unknown is None else [unknown]
    if facts.private_paths:
        found.append(f"rows and card name folders of this machine: {', '.join(facts.private_paths)}")
    if private is False:
        found.append("everyone can see the dataset")
    if facts.rejected:
        count = number_of(sum(facts.rejected.values()), "rejections")
        found.append(f"{count} by checks: what was rejected is published, too")
    return tuple(found)
