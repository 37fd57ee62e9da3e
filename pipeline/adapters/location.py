"""Where an adapter's file is: on a disk, in a folder, or on the Hugging Face Hub. No torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from wanbatch.errors import UserError
from wanbatch.pipeline.adapters.files import other_file
from wanbatch.pipeline.loading.hub import fetching

SUFFIX = ".safetensors"
CONFIG = "adapter_config.json"  # PEFT's, which says how the adapter is scaled


def locate(path: str, revision: str | None = None) -> Path:
    """The file of an adapter, fetched if it is on the hub.

    Args:
        path: A file, a folder with one safetensors file, or a hub id, `owner/name` or `owner/name/file`.
        revision: Of a hub id.

    Raises:
        UserError: There is no such file, or several in question.
    """
    local = Path(path).expanduser()
    if local.is_file():
        return _without_revision(local, revision).absolute()
    if local.is_dir():
        return _only(sorted(_without_revision(local, revision).glob(f"*{SUFFIX}")), path).absolute()
    if "://" in path:
        raise UserError(
            f"adapter {path}: such addresses are not supported: give one of https:// or s3://, a hub id, or download "
            "the file and give its path"
        )
    parts = path.split("/")
    if local.is_absolute() or path.startswith((".", "~")) or len(parts) < 2:
        raise UserError(
            f"adapter {path}: there is no such file; give a {SUFFIX} file, a folder with one, or a hub id "
            "`owner/name`"
        )
    return _from_hub("/".join(parts[:2]), "/".join(parts[2:]) or None, revision)


def is_on_disk(path: str) -> bool:
    """Whether a text names a file or a folder of this host."""
    return Path(path).expanduser().exists()


def _without_revision(path: Path, revision: str | None) -> Path:
    if revision is not None:
        raise UserError(f"adapter {path}: only those on the hub have revisions, and this is a path: drop {revision}")
    return path


def _only(files: list[Any], where: str) -> Any:
    if len(files) == 1:
        return files[0]
    names = [os.path.basename(str(file)) for file in files]
    if not files:
        raise UserError(f"adapter {where}: holds no {SUFFIX} file")
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    raise UserError(
        f"adapter {where}: holds {len(files)} {SUFFIX} files ({shown}): name the one, like {where}/{names[0]}"
    )


def _from_hub(repo: str, file: str | None, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    with fetching("adapter", repo, revision, "path"):
        if file is None:
            file = str(_only(_files_of(repo, revision), repo))
        beside = [CONFIG, other_file(os.path.basename(file))]  # of A14B, whose adapters have two files
        wanted = [file, *(os.path.join(os.path.dirname(file), name) for name in beside if name is not None)]
        folder = snapshot_download(repo, revision=revision, allow_patterns=wanted)
    path = Path(folder) / file
    if not path.is_file():
        raise UserError(f"adapter {repo} (revision {revision or 'main'}) has no file {file}")
    return path


def _files_of(repo: str, revision: str | None) -> list[str]:
    """The safetensors files of a repository, by the hub, or by what is in the cache if it must not be asked."""
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        found = snapshot_download(repo, revision=revision, allow_patterns=f"*{SUFFIX}", local_files_only=True)
        folder = Path(found)
        return [str(file.relative_to(folder)) for file in sorted(folder.rglob(f"*{SUFFIX}"))]
    return [name for name in HfApi().list_repo_files(repo, revision=revision) if name.endswith(SUFFIX)]
