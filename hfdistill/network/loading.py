"""Classifiers of texts and of tokens from an id, a path or an object."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from hfdistill.files.plain_data import as_python
from hfdistill.network.adapters import adapter_settings, load_adapter
from hfdistill.network.divided import make_whole, whole_models
from hfdistill.network.foreign_code import allowing_pickles, reading_weights
from hfdistill.network.label_space import LabelSpaceError, class_names, in_order, short, with_names
from hfdistill.network.model_folder import check_model_folder, reading_model
from hfdistill.network.task import name_architecture, task_kind

Source: TypeAlias = str | Path | PreTrainedModel

_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel")
_OTHER_HEADS = (
    *("ForMaskedLM", "ForQuestionAnswering", "ForMultipleChoice", "ForPreTraining"),
    "ForConditionalGeneration",
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json")


class MissingHead(ValueError):  # noqa: N818
    """The weights are an encoder's: there is no trained classifier in them."""


Task: TypeAlias = Literal["sequence", "multi_label", "token"]


def own_device() -> torch.device:
    """Return the accelerator that a launcher gave this process (the only one, or the first), or the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", 0)))


def auto_class(source: str | Path, *, task: Task | None = None) -> Any:
    """Return the class that loads a classifier: of tokens for a task "token", or where its config says so."""
    if task not in (None, *get_args(Task)):
        raise ValueError(
            "task is 'sequence' (a label a text), 'multi_label' (several) or 'token' (a label a word), found "
            f"{task!r}."
        )
    if task is None:
        config = AutoConfig.from_pretrained(str(source), trust_remote_code=False)
        task = "token" if task_kind(config) == "token" else "sequence"
    return AutoModelForTokenClassification if task == "token" else AutoModelForSequenceClassification


def load_classifier(
    source: Source,
    *,
    new_head: Sequence[str] | None = None,
    task: Task | None = None,
    role: str = "teacher",
    label_names: Sequence[str] | None = None,
    allow_pickle: bool = False,
) -> PreTrainedModel:
    """Return a classifier in float32 from a Hub id or a folder; an object is returned as it is.

    Code that comes with a model is never run (`trust_remote_code` stays off). A PEFT adapter is merged into
    its base model.

    Args:
        source: Hub id, path or model.
        new_head: class names. Where the weights hold no trained head with as many classes, a new one is drawn
            at random.
        task: "sequence" for a label a text (or a number, of one name), "multi_label" for several labels a
            text, "token" for a label a word. None takes what the weights were saved as, and "sequence" for an
            encoder; so does "sequence" without `new_head`.
        role: what messages call it: "teacher" or "student".
        label_names: names for the classes 0, 1, … of a model that has none (LABEL_0 …). Data, students and
            reports then go by them. A model that is an object gets them, too.
        allow_pickle: read weights that come as a pickle alone (pytorch_model.bin), as plain tensors. Weights
            in safetensors are preferred in any case. Whole pickled models are always refused.

    Returns:
        The model, in evaluation mode where it was loaded.

    Raises:
        HubUnreachable: where the Hub gives no answer.
        OSError: where there is no such model.
        DamagedModel: a ValueError, where a file is not what its name says.
        MissingHead: a ValueError, where the weights hold no trained classifier and `new_head` is None.
        LabelSpaceError: for `label_names` that are not as many as the classes, which have no other names, and
            a `new_head` without a name, or with one twice.
        PickledWeights: a ValueError, where a model has its weights in a pickle alone.
        ValueError: where the weights lack parts of the encoder itself.

    Example:
        >>> model = load_classifier("org/encoder", new_head=["bad", "good"])  # doctest: +SKIP
    """
    with allowing_pickles(allow_pickle):
        model = _loaded(source, new_head=_class_list(as_python(new_head)), task=task, role=role)
    if label_names is not None:
        named = with_names(model.config, label_names)
        model.config.id2label, model.config.label2id = named.id2label, named.label2id
    return model


def _class_list(new_head: Any) -> list[str] | None:
    """Return the class names of a new head; refuse what is no list of them, such as one name, or a set."""
    names = in_order(new_head)
    if new_head is not None and (not names or len(set(map(str, names))) < len(names)):
        raise LabelSpaceError(
            f"new_head is a list of class names, each once, found {short(new_head)}. Type "
            "new_head=['negative', 'positive']."
        )
    return None if new_head is None else names


def _loaded(
    source: Source, *, new_head: Sequence[str] | None, task: Task | None, role: str
) -> PreTrainedModel:
    """Return the model; see `load_classifier`."""
    if not isinstance(source, (str, Path)):
        return name_architecture(make_whole(source))
    check_model_folder(source, role=role)
    with reading_model(source, role=role):
        adapter = adapter_settings(source)
    if adapter is not None:
        return name_architecture(_adapted(source, adapter, new_head=new_head, role=role))
    names = dict(enumerate(new_head or ()))
    options = {"id2label": names, "label2id": {n: i for i, n in names.items()}} if names else {}
    with loading_whole(source, role=role) as weights:
        model, loading = auto_class(source, task=task).from_pretrained(
            str(source),
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=new_head is not None,
            **options,
            **weights,
        )
    missing = sorted(name for name in loading["missing_keys"] if "position_ids" not in name)
    if inside := [n for n in missing if n.startswith(f"{model.base_model_prefix}.") and ".pooler." not in n]:
        raise ValueError(
            f"The {role} {str(source)!r} lacks weights of its encoder ({', '.join(inside[:4])}), which would "
            "be random. Download it again, or name another model."
        )
    if new_head is not None and (task or missing or loading["mismatched_keys"]):  # not an earlier head's
        model.config.problem_type = "multi_label_classification" if task == "multi_label" else None
    if missing and new_head is None:
        saved_as = str((model.config.architectures or [""])[0])
        if role != "student" and saved_as.endswith(_LANGUAGE_MODELS):
            refuse_other_heads(saved_as, role=role)
        raise MissingHead(
            f"The {role} {str(source)!r} is an encoder without a trained classifier: "
            f"{', '.join(missing[:4])} are missing from its weights and would be random. Fine-tune it on "
            "labelled data first (recipes/sst2.py --train_teacher), or name a fine-tuned model."
        )
    return name_architecture(model)


def _adapted(
    source: str | Path, settings: dict[str, Any], *, new_head: Sequence[str] | None, role: str
) -> PreTrainedModel:
    """Return a base model with an adapter merged into it; its classes are named anew where that is asked."""

    def load(base: str, task: Task, names: Sequence[str] | None) -> PreTrainedModel:
        return load_classifier(base, new_head=names, task=task, role=f"base model of the {role}")

    model: PreTrainedModel = load_adapter(source, settings, load=load, role=role)
    if new_head is not None:
        if len(new_head) != model.config.num_labels:
            raise ValueError(
                f"The {role} {str(source)!r} is an adapter with a head of {model.config.num_labels} classes, "
                f"and {len(new_head)} are asked for. Name a model without an adapter."
            )
        model.config.id2label = dict(enumerate(new_head))
        model.config.label2id = {name: number for number, name in enumerate(new_head)}
    return model


def refuse_other_heads(architecture: str, *, role: str) -> None:
    """Refuse a model of Transformers whose head answers another question than that of a text's class."""
    if role == "student" and architecture.endswith((*_LANGUAGE_MODELS, *_OTHER_HEADS)):
        raise MissingHead(
            f"The student is a {architecture}, which gives a text no class. Start from its encoder with a "
            "fresh head: load_classifier(path, new_head=[class names])."
        )
    if architecture.endswith(_LANGUAGE_MODELS):
        raise MissingHead(
            f"The {role} is a language model ({architecture}), whose logits are the next token and no class. "
            "To let it answer by words, type teacher=hfdistill.prompted(model, prompt, classes). Else "
            "fine-tune it with a head: AutoModelForSequenceClassification.from_pretrained(..., num_labels=)."
        )
    if architecture.endswith(_OTHER_HEADS):
        raise MissingHead(
            f"The {role} is a {architecture}, which gives a text no class. Name a model that was fine-tuned "
            "with AutoModelForSequenceClassification or AutoModelForTokenClassification."
        )


def load_student(source: Source, *, like: Any = None) -> PreTrainedModel:
    """Load a classifier to train: with a head of its own, or an encoder with a new one of `like`'s classes.

    Raises:
        MissingHead: for an encoder where no teacher says which classes there are.
    """
    try:
        return load_classifier(source, role="student")
    except MissingHead:
        if like is None:
            raise
        return load_classifier(
            source, new_head=class_names(like), task=head_task(task_kind(like)), role="student"
        )


def head_task(kind: str) -> Task:
    """Return what `load_classifier` calls a task: one head serves a class a text and a real value."""
    kinds: dict[str, Task] = {"token": "token", "multi_label": "multi_label"}
    return kinds.get(kind, "sequence")


def load_tokenizer(source: Any) -> Any:
    """Return the tokenizer saved beside a model; None for an object, or where there is none."""
    if not isinstance(source, (str, Path)):
        return None
    folder = Path(source)
    if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return load_tokenizer((adapter_settings(source) or {}).get("base_model_name_or_path"))
    try:
        return read_tokenizer(source)
    except OSError:
        return None


def read_tokenizer(source: str | Path) -> Any:
    """Return the tokenizer of a folder or Hub id; code that comes with it is never run.

    Raises:
        HubUnreachable: where the Hub gives no answer.
        DamagedModel: a ValueError, where a file is not what its name says.
        OSError: where there is none.
    """
    with reading_model(source, role="tokenizer"):
        return AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)


@contextmanager
def loading_whole(source: str | Path, *, role: str = "model") -> Iterator[dict[str, Any]]:
    """Yield the options by which `from_pretrained` loads a folder or Hub id, on every process as a whole.

    No code is run that comes with the model; see `reading_weights`.

    Raises:
        HubUnreachable: where the Hub gives no answer.
        DamagedModel: a ValueError, where a file is not what its name says.
        PickledWeights: a ValueError, where the weights are a pickle alone.
    """
    with reading_model(source, role=role), whole_models(), reading_weights(source, role=role) as weights:
        yield {"trust_remote_code": False, **weights}
