"""What to say if something cannot be fetched from the Hugging Face Hub. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from wanbatch.errors import UserError


@contextmanager
def fetching(kind: str, repo: str, revision: str | None, local: str) -> Iterator[None]:
    """Turn what huggingface_hub raises inside into a UserError.

    Args:
        kind: what is fetched, such as `model`.
        repo: its hub id.
        revision: of it; None: `main`.
        local: what of a local copy could be given instead, `path` or `folder`.

    Raises:
        UserError: It could not be fetched, or may not be.
    """
    from huggingface_hub import constants, errors

    no_commit = getattr(errors, "RevisionResolutionError", errors.HfHubHTTPError)  # since huggingface_hub 2
    try:
        yield
    except (OSError, errors.HfHubHTTPError, errors.HFValidationError, no_commit) as error:
        named = f"{kind} {repo} (revision {revision or 'main'})"
        if constants.HF_HUB_OFFLINE:
            raise UserError(
                f"{named} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to fetch it: "
                f"unset HF_HUB_OFFLINE, fetch it before (`hf download {repo}`), or give the {local} of a local copy"
            ) from error
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"{named} could not be fetched: {reason}. Check the name and the network, or give the {local} of a local "
            "copy"
        ) from error
