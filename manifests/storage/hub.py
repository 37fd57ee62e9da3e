"""Datasets on the Hugging Face Hub as folders to read, at the commit that their name stands for when a run begins."""

from __future__ import annotations

from wanbatch.errors import UserError
from wanbatch.manifests.storage.fsspec_io import file_system, os_errors
from wanbatch.manifests.storage.urls import is_hub, is_url, plain_url


def pinned(url: str) -> str:
    """The URL of something on the Hub, with the commit that its branch or tag names now; others stay as they are.

    So that workers read the same files as the driver, whatever is pushed meanwhile.

    Args:
        url: a URL like `hf://datasets/owner/name@revision/path`, in its plain form, or any other path.
    Raises:
        UserError: There is no such repository or revision, or it may not be fetched.
        OSError: The Hub does not answer.
    """
    if not is_url(url) or not is_hub(url):
        return url
    from huggingface_hub import HfApi, constants

    hint = "write it like hf://datasets/OWNER/NAME@REVISION/PATH, and log in with `hf auth login` if it is private"
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"{url}: HF_HUB_OFFLINE forbids to fetch it: unset HF_HUB_OFFLINE, or fetch it before with "
            "`hf download --repo-type dataset OWNER/NAME --local-dir FOLDER` and give the folder"
        )
    try:
        with os_errors(url):
            found = file_system(url).resolve_path(url)
            if getattr(found, "repo_type", None) is None:
                return url  # a bucket, which has no commits
            commit = HfApi().repo_info(found.repo_id, repo_type=found.repo_type, revision=found.revision).sha
    except FileNotFoundError as error:
        raise UserError(f"{url}: there is no such repository or revision: {hint}") from error
    kind = {"dataset": "datasets/", "space": "spaces/"}.get(found.repo_type, "")
    return plain_url(f"hf://{kind}{found.repo_id}@{commit}/{found.path_in_repo}")
