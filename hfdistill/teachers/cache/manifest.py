"""The manifest of a recording says what teacher it is of, as plain data."""

from __future__ import annotations

import itertools
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from hfdistill.teachers.base import ModelTeacher, Teacher
from hfdistill.teachers.cache.contents import FACTS, CacheError, Contents, read_facts

logger = logging.getLogger(__name__)


def print_of(teacher: Teacher) -> str:
    """Return the teacher's fingerprint."""
    if teacher.wants_labels:
        raise CacheError(
            f"The answers of this {type(teacher).__name__} depend on the gold labels, and an answer is found "
            "by its text alone. Record each member: Ensemble([CachedTeacher(...), CachedTeacher(...)])."
        )
    if teacher.saved_as:
        raise CacheError(
            f"{type(teacher).__name__} changes as it goes: there is nothing to record. Use it live."
        )
    for part in (teacher, *teacher.parts()):
        if _is_not_told_apart(type(part)):
            kind = type(part).__name__
            raise CacheError(
                f"{kind} does not say which {kind} it is: the answers of one would be taken for another's. "
                "Give it a method: def fingerprint(self): return a text that changes with its weights and "
                "settings, such as ModelTeacher(model).fingerprint(), or in a subclass of ModelTeacher "
                "f'{super().fingerprint()} {self.temperature}'."
            )
    return teacher.fingerprint()


def _is_not_told_apart(kind: type[Teacher]) -> bool:
    """Whether a class answers in a way of its own under a fingerprint of a class that answers in another."""
    own = itertools.takewhile(lambda cls: "fingerprint" not in vars(cls), kind.__mro__)
    answers = ("trace", "select_inputs", "weigh")
    return kind.fingerprint is Teacher.fingerprint or any(
        name in vars(cls) for cls in own for name in answers
    )


def accepted(teacher: Teacher) -> list[str] | None:
    """Return the columns that its models read; None where it has no models, so that any column may matter."""
    parts = [part for part in teacher.parts() if isinstance(part, ModelTeacher)]
    if len(parts) < len(teacher.parts()):
        return None
    return sorted(teacher.inputs().union(*(part.model_inputs.names for part in parts)))


def reads_mask(teacher: Teacher) -> bool:
    """Return whether a teacher can be told what is padding; True where that is not known."""
    columns = accepted(teacher)
    return columns is None or any(name.endswith("attention_mask") for name in columns)


def only_recording(root: Path, contents: Contents | None) -> Path:
    """Return the one recording in a folder."""
    folders = [root] if (root / FACTS).exists() else [path.parent for path in sorted(root.glob(f"*/{FACTS}"))]
    if contents is not None:
        folders = [path for path in folders if Contents.of(read_facts(path)["contents"]) == contents]
    if not folders:
        raise CacheError(
            f"{root} holds no recorded answers{'' if contents is None else f' with {contents}'}. Record "
            f"them: hfdistill.record(teacher, dataset, folder={str(root)!r})."
        )
    if len(folders) > 1:
        shown = "; ".join(f"{path.name[:12]}… {read_facts(path)['contents']}" for path in folders[:5])
        raise CacheError(
            f"{root} holds the answers of {len(folders)} teachers or contents ({shown}). Name one of its "
            "folders, or give contents= or the teacher= itself."
        )
    return folders[0]


def plain_config(config: Any) -> dict[str, Any] | None:
    """Return a config as JSON, without entries that belong to the process that loaded it."""
    if config is None:
        return None
    settings = config.to_dict() if isinstance(config, PretrainedConfig) else dict(vars(config))
    kinds = (str, int, float, bool, list, dict, type(None))
    return {
        name: value
        for name, value in settings.items()
        if not name.startswith("_") and isinstance(value, kinds)
    }


def config_from(settings: dict[str, Any] | None) -> Any:
    """Return the inverse of `plain_config`; code that a config names is never run."""
    if settings is None:
        return None
    known = {n: value for n, value in settings.items() if not n.startswith("_") and n != "auto_map"}
    try:
        with suppress(Exception):  # an architecture that this Transformers does not have, or checks otherwise
            return AutoConfig.for_model(**known)
        return PretrainedConfig(**known)
    except Exception as error:  # each config checks by errors of its own
        raise CacheError(
            f"The recorded config cannot be read ({error}). Type CachedTeacher(folder, teacher=...), or "
            "record again with hfdistill.record(teacher, dataset, folder=...)."
        ) from error


def versions_of(teacher: Teacher) -> dict[str, Any]:
    """Return the versions that decide how a forward pass rounds, and nothing else of an answer."""
    model = getattr(teacher, "model", None)
    attention = (
        getattr(model.config, "_attn_implementation", None) if isinstance(model, PreTrainedModel) else None
    )
    return {"transformers": transformers.__version__, "attention": attention}


def warn_of_other_versions(then: dict[str, Any], teacher: Teacher | None) -> None:
    """Warn of other versions of the code, which round differently: by 1e-5, not to another answer."""
    now = {"transformers": transformers.__version__, "attention": then["attention"]}
    now |= {} if teacher is None else versions_of(teacher)
    then_major, now_major = (str(v["transformers"]).split(".")[0] for v in (then, now))
    if then_major != now_major or then["attention"] != now["attention"]:
        logger.warning(
            "These answers were recorded with %s, and this is %s: they are read all the same, and may differ "
            "from a live teacher's in the last digits. Record into another folder= to be rid of that.",
            then,
            now,
        )
