"""Errors of the Hub and of its client, as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from wanbatch.errors import MachineryError, UserError, WanbatchError


@contextmanager
def hub_errors(target: str) -> Iterator[None]:
    """Errors of the Hub and its client as ours; no message has a token, as no error of the client has."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{target}: HF_HUB_OFFLINE forbids to reach the Hub: unset HF_HUB_OFFLINE")
    try:
        yield
    except WanbatchError:
        raise
    except HfHubHTTPError as error:
        raise _said_by_the_hub(target, error) from error
    except (
        Exception
    ) as error:  # what the transport of the client raises: of several libraries, without a common class
        cause = error.__cause__ if isinstance(error.__cause__, HfHubHTTPError) else None
        if cause is not None:
            raise _said_by_the_hub(target, cause) from error
        raise MachineryError(
            f"{target}: the Hub cannot be reached ({type(error).__name__}: {error}): run the same command again; "
            "what went up does not go up again"
        ) from error


def _said_by_the_hub(target: str, error: Any) -> WanbatchError:
    status = getattr(error.response, "status_code", None)
    said = " ".join(str(getattr(error, "server_message", None) or error).split())[:300]
    if status in (401, 403, 404):
        return UserError(
            f"{target}: the Hub refuses ({status}: {said}): log in with `hf auth login` and a token that may write "
            "there"
        )
    if status in (409, 412):
        return MachineryError(f"{target}: somebody else pushed there meanwhile ({said}): run the same command again")
    if status is not None and 400 <= status < 429:
        return UserError(f"{target}: the Hub refuses what was sent ({status}: {said})")
    return MachineryError(
        f"{target}: the Hub fails ({status}: {said}): run the same command again; what went up does not go up again"
    )
