"""Weights that a model brings as pickles alone: refused, unless its user allows to read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from transformers.utils import cached_file
from transformers.utils.hub import has_file

_SAFE = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_ALLOWED: ContextVar[bool] = ContextVar("allow_pickle", default=False)


class PickledWeights(ValueError):  # noqa: N818
    """A model's weights are pickles alone, which can run code where they are loaded."""


@contextmanager
def allowing_pickles(allowed: bool = True) -> Iterator[None]:
    """While open, models whose weights are pickles alone are loaded, as plain tensors (`weights_only`).

    Within a block that allows them, False changes nothing.
    """
    token = _ALLOWED.set(_ALLOWED.get() or allowed)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


@contextmanager
def reading_weights(source: str | Path, *, role: str = "model") -> Iterator[dict[str, Any]]:
    """Yield the options by which `from_pretrained` reads the weights of a folder or Hub id.

    Safetensors where there are any. Pickles alone are refused, or under `allowing_pickles` read by
    `torch.load(weights_only=True)`, which builds tensors and nothing else.

    Raises:
        PickledWeights: a ValueError with what to type; also for a whole pickled model, whatever is allowed.

    Example:
        >>> with reading_weights("org/model") as options:  # doctest: +SKIP
        ...     model = AutoModel.from_pretrained("org/model", **options)
    """
    name = _pickles_alone(source)
    if name is None:
        yield {"use_safetensors": True}
        return
    if not _ALLOWED.get():
        raise PickledWeights(
            f"The {role} {str(source)!r} has its weights in {name} alone, a pickle, which can run code where "
            "it is loaded, and no safetensors. Look for a copy with model.safetensors; or, where you trust "
            "it, type allow_pickle=True in load_classifier (--allow-pickle on the command line, "
            "allow_pickle: true on a page), once: load_classifier(it, allow_pickle=True).save_pretrained("
            "folder) writes safetensors."
        )
    try:
        yield {"use_safetensors": False, "weights_only": True}
    except Exception as error:
        if "weights only" not in str(error).lower() and "weights_only" not in str(error):
            raise
        raise PickledWeights(
            f"{name} of the {role} {str(source)!r} holds more than tensors, such as a whole model saved by "
            "torch.save(model): it would run code, and is never loaded. Load it where it was made, and type "
            "model.save_pretrained(folder) there."
        ) from error


def _pickles_alone(source: str | Path) -> str | None:
    """Return the pickle of a model that has no safetensors; None for one that has, or has neither."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if any(folder.glob("*.safetensors")) or any((folder / name).is_file() for name in _SAFE):
            return None
        return next((name for name in _PICKLED if (folder / name).is_file()), None)
    quietly = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
        "_raise_exceptions_for_gated_repo": False,
    }
    with suppress(OSError, ValueError):  # what is wrong with the repository itself, loading it says
        if any(cached_file(str(source), name, **quietly) is not None for name in _SAFE):
            return None
        return next((name for name in _PICKLED if has_file(str(source), name)), None)
    return None
