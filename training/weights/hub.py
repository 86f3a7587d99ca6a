"""Weights that timm downloads from its hub: found out at once where there is no connection, not after a minute of retries."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_session

CONNECT_S = 5.0


def why_unreachable() -> str:
    """Why the hub cannot be reached, "" if it can."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=CONNECT_S)
    except Exception as error:  # httpx's types and the system's, which are not related
        return f"{constants.ENDPOINT} cannot be reached: {str(error) or type(error).__name__}"
    return ""


@contextmanager
def offline_if_unreachable() -> Iterator[str]:
    """Within `with`, only the cache is asked where the hub cannot be reached; yields why, "" if it can."""
    reason, before = why_unreachable(), constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or bool(reason)
    try:
        yield reason
    finally:
        constants.HF_HUB_OFFLINE = before
