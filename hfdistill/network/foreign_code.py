"""What a model brings beside its weights in safetensors: pickles, and kernels of the Hub. Both are code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from transformers.utils import cached_file
from transformers.utils.hub import has_file

SAFE = ("model.safetensors", "model.safetensors.index.json")
"""Files of which a model saved as safetensors has one."""
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_QUIETLY: dict[str, Any] = {
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
    "_raise_exceptions_for_gated_repo": False,
}
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

    A config that names a kernel of the Hub for its attention is refused: Transformers would fetch and run it.
    Safetensors where there are any. Pickles alone are refused, or under `allowing_pickles` read by
    `torch.load(weights_only=True)`, which builds tensors and nothing else.

    Raises:
        PickledWeights: a ValueError with what to type; also for a whole pickled model, whatever is allowed.
        ValueError: for a kernel of the Hub.

    Example:
        >>> with reading_weights("org/model") as options:  # doctest: +SKIP
        ...     model = AutoModel.from_pretrained("org/model", **options)
    """
    _refuse_kernels(source, role=role)
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


def _refuse_kernels(source: str | Path, *, role: str) -> None:
    """Refuse a config in which an implementation is the id of a repository, or of a version in one."""
    folder = Path(source).expanduser()
    try:
        path = folder / "config.json"
        path = path if folder.is_dir() else cached_file(str(source), path.name, **_QUIETLY)
        named = list(_implementations(json.loads(Path(path).read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, RecursionError):
        return  # what is wrong with the config itself, loading it says
    for key, value in named:
        if "/" in value:
            raise ValueError(
                f"The config of the {role} {str(source)!r} names {value!r} as {key}, a kernel of the Hub: "
                "code that would be fetched and run. Take it out of its config.json; or, where you trust it, "
                "load the model yourself, AutoModelForSequenceClassification.from_pretrained(...), and give "
                "the object."
            )


def _implementations(config: Any) -> Iterator[tuple[str, str]]:
    """Yield the keys of a config, at any depth, that say how something is computed, with their texts."""
    for key, value in config.items() if isinstance(config, dict) else ():
        if "implementation" in key:
            texts = value.values() if isinstance(value, dict) else [value]
            yield from ((key, text) for text in texts if isinstance(text, str))
        yield from _implementations(value)


def _pickles_alone(source: str | Path) -> str | None:
    """Return the pickle of a model without safetensors; None for any other model."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if any(folder.glob("*.safetensors")) or any((folder / name).is_file() for name in SAFE):
            return None
        return next((name for name in _PICKLED if (folder / name).is_file()), None)
    with suppress(OSError, ValueError):  # what is wrong with the repository itself, loading it says
        if any(cached_file(str(source), name, **_QUIETLY) is not None for name in SAFE):
            return None
        return next((name for name in _PICKLED if has_file(str(source), name)), None)
    return None
