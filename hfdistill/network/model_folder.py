"""Whether a name can be that of a model, before anything is asked of the Hub or loaded."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from hfdistill.files.hub import reaching
from hfdistill.files.plain_data import is_hub_id, printable

_CONFIGS = ("config.json", "adapter_config.json")
_WAY = "Type a folder that holds a config.json, or a Hub id such as textattack/bert-base-uncased-SST-2."


_DAMAGE = (
    *(json.JSONDecodeError, UnicodeDecodeError, SafetensorError, StrictDataclassError),
    *(AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError),
)
"""What readers of configs, tokenizers and weights stumble over where a file is not what its name says."""


class DamagedModel(ValueError):  # noqa: N818
    """The files of a model or tokenizer cannot be read as such."""


@contextmanager
def reading_model(source: str | os.PathLike[str], *, role: str = "model") -> Iterator[None]:
    """Turn the many errors of libraries over a silent Hub or a damaged file into a line each: HubUnreachable,
    DamagedModel.
    """
    try:
        with reaching(str(source)):
            yield
    except Exception as error:
        # tokenizers raises Exception itself; of Transformers' own errors, two are of damage
        signs = ("not a valid JSON file", "ignore_mismatched_sizes")
        plain = type(error) is Exception or any(sign in str(error) for sign in signs)
        if not plain and not isinstance(error, _DAMAGE):
            raise
        found = printable(str(error).strip().partition("\n")[0], limit=200)
        raise DamagedModel(
            f"The files of the {role} {str(source)!r} cannot be read ({type(error).__name__}: {found}). "
            "Download or save it again, or name another model; what a newer library has saved needs that "
            "library: pip install --upgrade transformers tokenizers."
        ) from error


def check_model_folder(source: str | Path, *, role: str = "model") -> None:
    """Refuse a folder without a model, and a path that leads nowhere; a Hub id passes.

    A name of one or two parts is a Hub id, unless it is a folder here, or the first part is one.

    Raises:
        FileNotFoundError: with the folder that is probably meant: the student inside a run's folder, or one
            whose name is almost the same.
    """
    path = Path(source).expanduser()
    if os.path.isfile(path):  # noqa: PTH113 - pathlib's would raise for a name that is too long
        raise FileNotFoundError(
            f"The {role} {str(source)!r} is a file, and a model is a folder. Type {str(path.parent)!r}."
        )
    if os.path.isdir(path):  # noqa: PTH112 - likewise
        if not any((path / name).is_file() for name in _CONFIGS):
            raise FileNotFoundError(f"The {role} {str(source)!r} holds no model. {_inside(path)}")
        return
    name = str(source)
    local = path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2 or name.endswith("/")
    if local or (len(path.parts) == 2 and os.path.isdir(path.parent)):  # noqa: PTH112 - likewise
        raise FileNotFoundError(f"There is no folder {name!r} for the {role}. {_beside(path)}")
    if not is_hub_id(name):
        raise FileNotFoundError(
            f"There is no folder '{printable(name)}' for the {role}, and no model of the Hub can have this "
            f"name. {_WAY}"
        )


def _inside(folder: Path) -> str:
    """Return a sentence that names the models below a folder, the student of a run first."""
    below = [config.parent for pattern in _CONFIGS for config in folder.glob(f"*/{pattern}")]
    below += [config.parent for config in folder.glob("*/student/config.json")]
    names = sorted((str(model) for model in below), key=lambda model: (Path(model).name != "student", model))
    if not names:
        return _WAY
    return f"Did you mean {names[0]!r}?" + (f" It also holds {', '.join(names[1:4])}." if names[1:] else "")


def _beside(path: Path) -> str:
    """Return a sentence that names what exists near a path that leads nowhere."""
    parent = next((folder for folder in path.parents if folder.is_dir()), Path())
    wrong = path.relative_to(parent).parts[0]
    folders = sorted(entry.name for entry in parent.iterdir() if entry.is_dir() and entry.name[0] not in "._")
    near = difflib.get_close_matches(wrong, folders, n=1)
    if near:
        rest = path.relative_to(parent).parts[1:]
        meant = parent.joinpath(near[0], *rest)
        return f"Did you mean {str(meant if meant.is_dir() else parent / near[0])!r}?"
    holds = ", ".join(folders[:8]) or "no folder"
    return f"{'This folder' if parent == Path() else str(parent)} holds {holds}. {_WAY}"
