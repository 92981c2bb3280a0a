"""The Hugging Face Hub: publishing a student, and what to say when there is no answer."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NoReturn

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from hfdistill.files.plain_data import printable

WITHHELD = (
    *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib"),  # what torch and others pickle
    *("_*", ".*", "*/.*", "checkpoint-*"),  # what is unfinished, hidden, or only to resume from
    "runs/*",  # TensorBoard's files name this machine
)
"""Patterns of files that are never published; `*` crosses folders."""
HERE = "path/to/this/folder"
"""Stands in a card's code for a model that has no place on the Hub yet."""
_NEEDED = ("model*.safetensors", "*.onnx")


class HubUnreachable(ConnectionError):  # noqa: N818
    """The Hugging Face Hub gave no answer; the message names the ways on."""


class PublishError(RuntimeError):
    """The Hub did not take what was published; nothing on this machine has changed."""


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    onnx: str | Path | None = None,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    message: str = "Publish the student",
) -> str:
    """Publish a student: its weights, tokenizer, card, report, plots and recipe, in one commit.

    Everything in the folder goes, but for checkpoints, logs, hidden files and pickles: a file that
    `torch.save` or `pickle` wrote runs code where it is loaded, whatever its name. A file that the repository
    has and the folder has not stays there. `DistillationTrainer.push_to_hub` keeps to the same rules.

    In a card that was written without a name for the model, the code gets the repository's. The token is
    that of `hf auth login` or HF_TOKEN, and is written nowhere.

    Args:
        folder: of the student, as `save_model`, `Report.save` and `write_card` left it.
        repo_id: "owner/name"; it is made where there is none.
        onnx: a folder that `export` wrote, published as `onnx/`.
        private: of a repository that is made here; default: what the account says.
        revision: the branch; default "main".
        token: one with write access; better left to the two places above.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        ValueError: the folder holds no model, or the Hub has no such names.
        HubUnreachable: the Hub gives no answer.
        PublishError: the account may not write there, or the Hub failed; pushing again goes on.

    Example:
        >>> push_to_hub("out/sst2/student", "me/sst2-3-layers")  # doctest: +SKIP

    When to use it: after `measure` and `write_card`, so that the model comes with its proof. When not: to
    keep checkpoints that a run can go on from; that is `hub_strategy="checkpoint"` of `TrainingArguments`.
    """
    folders = {"": Path(folder)} | ({"onnx/": Path(onnx)} if onnx is not None else {})
    files = [(prefix, source, name) for prefix, source in folders.items() for name in published(source)]
    api = HfApi(library_name="hfdistill", token=token)
    repository = make_repository(repo_id, private=private, token=token)
    operations = [
        CommitOperationAdd(prefix + name, _content(source / name, repository if not prefix else ""))
        for prefix, source, name in files
    ]
    with publishing(repository):
        if revision not in (None, "main"):
            api.create_branch(repository, branch=str(revision), exist_ok=True)
        commit = api.create_commit(repository, operations, commit_message=message, revision=revision)
    return str(commit.commit_url)


def _content(path: Path, repository: str) -> str | bytes:
    """Return the content of a file; of the student's card, with the name that the model has on the Hub."""
    if path.name != "README.md" or not repository:
        return str(path)
    return path.read_text(encoding="utf-8").replace(f'"{HERE}"', f'"{repository}"').encode()


def make_repository(repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Make a repository where there is none, and return its name with its owner's.

    This checks the name and the account, too; errors are those of `publishing`.
    """
    with publishing(repo_id):
        api = HfApi(library_name="hfdistill", token=token)
        return str(api.create_repo(repo_id, private=private, exist_ok=True).repo_id)


def published(folder: Path) -> list[str]:
    """Return the files of a folder that go to the Hub, by their paths in it."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    patterns = withheld(folder)
    public = [name for name in files if not any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not any(fnmatchcase(name, pattern) for name in public for pattern in _NEEDED):
        raise ValueError(
            f"{folder} holds no model to publish: neither model.safetensors nor *.onnx. Pass the "
            "folder that `save_model` or `export` wrote."
        )
    return public


def withheld(folder: Path) -> list[str]:
    """Return patterns of files that are not uploaded: WITHHELD, and pickles under other names."""
    patterns = list(WITHHELD)
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not name.startswith("checkpoint-") and path.is_file() and _is_pickle(path):
            patterns.append(re.sub(r"([*?[])", r"[\1]", name))
    return patterns


def _is_pickle(path: Path) -> bool:
    """Return whether a file's content is a pickle of protocol 2 or later, or torch's archive of one."""
    with path.open("rb") as stream:
        start = stream.read(9)
    if start[:2] == b"PK" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return False  # safetensors: the length of a header may begin like a pickle
    return len(start) > 1 and start[0] == 0x80 and 2 <= start[1] <= 5


@contextmanager
def publishing(name: str | None) -> Iterator[None]:
    """Turn the many ways in which a push fails into what was found, and what to do.

    A ValueError says that the Hub has no such names, a HubUnreachable that it gives no answer, a PublishError
    that it refused or failed.
    """
    try:
        yield
    except (HubUnreachable, PublishError):
        raise  # told already
    except HFValidationError as error:
        raise ValueError(
            f"{printable(name)!r} cannot be the name of a repository ({printable(error, limit=200)}). Write "
            "owner/name, of letters, digits, '-', '_' and '.'."
        ) from None
    except Exception as error:
        answer = _answer(error)
        if answer is not None:
            _refused(printable(name), answer)
        if _is_unreachable(error):
            raise HubUnreachable(
                f"The Hugging Face Hub cannot be reached to publish {printable(name)!r} ({_reason(error)}). "
                "Nothing here has changed. Push again once HF_HUB_OFFLINE is unset and the network is there."
            ) from None
        raise


def _answer(error: BaseException | None) -> HfHubHTTPError | None:
    """Return the Hub's own answer, where an error came from one."""
    while error is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    return error


def _refused(name: str, answer: HfHubHTTPError) -> NoReturn:
    status = answer.response.status_code
    if status in (401, 403):
        raise PublishError(
            f"The Hub does not let you write to {name!r} (status {status}). Type `hf auth login`, or set "
            "HF_TOKEN to a token with write access to it."
        ) from None
    raise PublishError(
        f"The Hub did not take {name!r} (status {status}: {_reason(answer)}). Nothing here has changed. Push "
        "again: what has arrived is not sent twice."
    ) from None


def _reason(error: BaseException) -> str:
    """Return the first line of a message, without what an address carries behind `?`: it may be signed."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(re.sub(r"\?\S+", "?…", lines[0]), limit=400)


@contextmanager
def reaching(name: str) -> Iterator[None]:
    """Turn the many ways in which libraries report a silent Hub into one line, a HubUnreachable."""
    try:
        yield
    except Exception as error:
        if not _is_unreachable(error):
            raise
        raise HubUnreachable(
            f"The Hugging Face Hub cannot be reached for {name!r} ({_reason(error)}). Pass the path of a "
            "local copy instead of the id, or start with recipes/quickstart.py, which needs no Hub."
        ) from None


def _is_unreachable(error: BaseException | None) -> bool:
    """Tell an error for want of an answer by its class's name: huggingface_hub has changed HTTP libraries."""
    if error is None:
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    signs = ("LocalEntryNotFoundError", "couldn't connect to", "offline mode")
    if names & {"ConnectionError", "TransportError", "LocalEntryNotFoundError", "OfflineModeIsEnabled"}:
        return True
    return any(sign in str(error) for sign in signs) or _is_unreachable(error.__cause__)
