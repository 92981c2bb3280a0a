"""What to say when the Hub gives no answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class HubUnreachable(ConnectionError):  # noqa: N818
    """The Hugging Face Hub gave no answer; the message names the ways on."""


@contextmanager
def reaching(name: str) -> Iterator[None]:
    """Turn the many ways in which libraries report a silent Hub into one line.

    Args:
        name: the id that was asked for.

    Raises:
        HubUnreachable: where the block fails for want of an answer; every other error passes.
    """
    try:
        yield
    except Exception as error:
        if not _is_unreachable(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise HubUnreachable(
            f"The Hugging Face Hub cannot be reached for {name!r} ({reason}) Pass the path of a local copy "
            "instead of the id, or start with recipes/quickstart.py, which needs no Hub."
        ) from None


def _is_unreachable(error: BaseException | None) -> bool:
    """No answer; the HTTP library's class is known by name, for huggingface_hub has changed libraries."""
    if error is None:
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    signs = ("LocalEntryNotFoundError", "couldn't connect to", "offline mode")
    if names & {"ConnectionError", "TransportError", "LocalEntryNotFoundError", "OfflineModeIsEnabled"}:
        return True
    return any(sign in str(error) for sign in signs) or _is_unreachable(error.__cause__)
