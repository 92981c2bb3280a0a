"""Classifiers that are saved as a PEFT adapter beside the model that it changes, loaded as one model."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from hfdistill.network.divided import whole_models
from hfdistill.network.foreign_code import SAFE

WEIGHTS = "adapter_model.safetensors"
_TASKS = {"SEQ_CLS": "sequence", "TOKEN_CLS": "token"}
_UNLIKELY = 1_009
"""A number of classes by which the last layer of a head is told from all other layers."""


def adapter_settings(source: str | Path) -> dict[str, Any] | None:
    """Read `adapter_config.json` of a folder or Hub id with an adapter and no whole model; else None."""
    folder = Path(source)
    if folder.is_dir():
        if any((folder / name).is_file() for name in SAFE):
            return None
    elif cached_file(str(source), "config.json", _raise_exceptions_for_missing_entries=False) is not None:
        return None
    path = find_adapter_config_file(str(source))
    if path is None:
        return None
    return json.loads(Path(path).read_text(encoding="utf-8"))


def load_adapter(source: str | Path, settings: dict[str, Any], *, load: Any, role: str) -> Any:
    """Return the model that an adapter changes, with the adapter merged into its weights.

    A head that was trained with the adapter (`modules_to_save`) comes with it, and says how many classes
    there are. Their names and `problem_type` come from a `config.json` beside the adapter, else from the base
    model where it has as many.

    Raises:
        ModuleNotFoundError: where PEFT is not installed.
        ValueError: for an adapter of a language model, one whose base is not named or not there, one that
            cannot be merged, or one that is saved as a pickle alone.
    """
    _check(source, settings, role=role)
    from peft import PeftModel

    base = str(settings["base_model_name_or_path"])
    task = _TASKS.get(str(settings.get("task_type")), "sequence")
    weights = cached_file(str(source), WEIGHTS, _raise_exceptions_for_missing_entries=False)
    if weights is None:
        raise ValueError(
            f"The {role} {str(source)!r} has no {WEIGHTS}: pickled weights are not loaded. Load it with PEFT "
            "where you trust it, and save it anew: model.save_pretrained(folder)."
        )
    try:
        names, problem_type = _head(source, Path(weights), base, task)
        model = load(base, task, names)
    except OSError as error:
        raise ValueError(
            f"The {role} {str(source)!r} is an adapter of {base!r}, which cannot be loaded. Write where "
            f"that lies as base_model_name_or_path in its adapter_config.json. ({error})"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT's, of names in Transformers
        adapted: Any = PeftModel.from_pretrained(model, str(Path(weights).parent))
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise ValueError(
            f"The {role} {str(source)!r} is an adapter of kind {settings.get('peft_type')}, which cannot be "
            "merged into its base model. Give the model itself: teacher=PeftModel.from_pretrained(...)."
        )
    merged = adapted.merge_and_unload(safe_merge=True).requires_grad_(True).eval()
    merged.name_or_path = str(source)
    if names is not None:
        merged.config.problem_type = problem_type
    return merged


def _check(source: str | Path, settings: dict[str, Any], *, role: str) -> None:
    """Refuse what no base model is needed to refuse."""
    if importlib.util.find_spec("peft") is None:
        raise ModuleNotFoundError(
            f"The {role} {str(source)!r} is a PEFT adapter, and peft is not installed. Type pip install peft."
        )
    task = settings.get("task_type")
    if task not in (None, *_TASKS):
        raise ValueError(
            f"The {role} {str(source)!r} is an adapter for {task}, not for a classifier of texts (SEQ_CLS) "
            "or tokens (TOKEN_CLS). Name a fine-tuned classifier; a language model teaches by a prompt: "
            "hfdistill.prompted(model, prompt, classes)."
        )
    if not settings.get("base_model_name_or_path"):
        raise ValueError(
            f"The adapter_config.json of the {role} {str(source)!r} names no base model. Write its id or "
            'folder there: "base_model_name_or_path": "org/model".'
        )


def _head(source: str | Path, weights: Path, base: str, task: str) -> tuple[list[str] | None, str | None]:
    """Return class names and `problem_type` of a head saved with the adapter; (None, None) for the base's."""
    count = _classes(weights, base, task)
    if count is None:
        return None, None
    for place in [source, base] if (Path(source) / "config.json").is_file() else [base]:
        config = AutoConfig.from_pretrained(str(place), trust_remote_code=False)
        if len(config.id2label) == count:
            return [config.id2label[number] for number in range(count)], config.problem_type
    return [f"LABEL_{number}" for number in range(count)], None


def _classes(weights: Path, base: str, task: str) -> int | None:
    """Return rows of the head's last layer, as the adapter holds it; None where it holds no head."""
    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    config.num_labels = _UNLIKELY
    kind: Any = AutoModelForTokenClassification if task == "token" else AutoModelForSequenceClassification
    with whole_models(), torch.device("meta"), torch.random.fork_rng(devices=[]):
        bare = kind.from_config(config, trust_remote_code=False)
    heads = [name for name, value in bare.named_parameters() if value.shape[0] == _UNLIKELY]
    with safe_open(weights, framework="pt") as held:
        for name in held.keys():  # noqa: SIM118 - no mapping
            if any(name.endswith(f".{head}") for head in heads):
                return int(held.get_slice(name).get_shape()[0])
    return None
