"""The checks of a run before its first step."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import TrainingArguments

from hfdistill.data import FreshCopies
from hfdistill.data.label_checks import check_labels
from hfdistill.data.load import LABEL_NAMES
from hfdistill.files.plain_data import as_python
from hfdistill.network.architectures import unwrapped, word_embeddings
from hfdistill.network.loading import refuse_other_heads
from hfdistill.network.task import LABELS, TaskKind
from hfdistill.network.trace import check_taps
from hfdistill.objectives import Blend
from hfdistill.schedules import is_number
from hfdistill.teachers import Teacher
from hfdistill.trainer.changing_teacher import changing
from hfdistill.trainer.inputs import Reader, reads_by_itself
from hfdistill.trainer.launch import refuse_lost_processes
from hfdistill.trainer.row_doubts import say_doubts
from hfdistill.trainer.sharding import Sharding
from hfdistill.trainer.streams import check_measured, first_rows, settle_stream
from hfdistill.trainer.theseus import replacements

logger = logging.getLogger(__name__)


def refuse_processes(args: TrainingArguments) -> None:
    """Refuse `nn.DataParallel`, and one process where a launcher was asked for several.

    `nn.DataParallel` copies the student over threads, and the objective would see one copy's readings.
    """
    refuse_lost_processes(args)
    if args.n_gpu > 1:
        raise ValueError(
            f"This process sees {args.n_gpu} GPUs and would copy the student to each by nn.DataParallel, "
            "which mixes up student and teacher. Start one process per GPU: accelerate launch script.py. To "
            "use one GPU: CUDA_VISIBLE_DEVICES=0."
        )


def check_rows_or_stream(data: Any, args: TrainingArguments, *, split: str) -> None:
    """Refuse data without a row, and what no run can do with a stream."""
    (settle_stream if split == "train_dataset" else check_measured)(data, args)
    if data is not None and not isinstance(data, Mapping) and hasattr(data, "__len__") and len(data) == 0:
        raise ValueError(
            f"{split} has no row. Check the split, load(path)[name], and dataset.filter before it."
        )


def warn_of_half_weights(student: nn.Module) -> None:
    """Warn of a student whose weights are too coarse for the steps of an optimizer."""
    halves = (torch.bfloat16, torch.float16)
    kinds = {str(p.dtype) for p in student.parameters() if p.requires_grad and p.dtype in halves}
    if kinds:
        logger.warning(
            "The student's weights are %s, in which most steps of an optimizer round to nothing. Load it "
            "with dtype=torch.float32; bf16=True among the training arguments then computes in bfloat16 and "
            "keeps the weights in float32.",
            " and ".join(sorted(kinds)),
        )


def check_models(student: nn.Module, teacher: nn.Module | None, args: TrainingArguments) -> None:
    """Refuse models that are not classifiers, a teacher that would not stay as it is, noise without word
    embeddings, and checkpointing of activations without blocks.
    """
    refuse_other_heads(type(unwrapped(student)).__name__, role="student")
    if args.neftune_noise_alpha is not None and isinstance(word_embeddings(student), nn.EmbeddingBag):
        raise ValueError(
            f"neftune_noise_alpha adds noise to the vector of each token, and {type(student).__name__} has "
            "but one vector of a text. Leave neftune_noise_alpha out."
        )
    names = ("activation_checkpointing", "gradient_checkpointing")  # the new one and the old
    name = next((name for name in names if getattr(args, name, None)), None)
    if name is not None and not getattr(unwrapped(student), "supports_gradient_checkpointing", True):
        raise ValueError(
            f"{name} computes a model's blocks twice to save memory, and {type(unwrapped(student)).__name__} "
            f"has none that can be. Leave {name} out."
        )
    warn_of_half_weights(student)
    if teacher is None:
        return
    own = {id(parameter) for parameter in student.parameters()}
    if any(id(parameter) in own for parameter in teacher.parameters()):
        raise ValueError(
            "Teacher and student share parameters, so the teacher would move with the student. Give the "
            "teacher as copy.deepcopy(model), or cut the student with shrink(teacher, layers=...), which "
            "copies."
        )


def check_changing(teacher: Any, sharding: Sharding, *, fresh: bool) -> None:
    """Refuse a teacher that changes where it cannot be kept in step: without a `model` and a name to save it
    by, under FSDP1, and in a second trial.
    """
    kind = type(teacher).__name__
    if getattr(teacher, "learns", False) and not (teacher.saved_as and getattr(teacher, "model", None)):
        raise ValueError(
            f"{kind} learns, which takes a `model` to train and a name to save it by. Set self.model, and "
            "saved_as = 'peer' in the class."
        )
    if not changing(teacher):
        return
    if sharding.name == "FSDP1":
        raise ValueError(
            f"{kind} follows the student's weights one by one, which FSDP1 glues to one flat piece. Type "
            "fsdp_version: 2 in the config of accelerate, or fsdp_config={'version': 2} among the training "
            "arguments."
        )
    if fresh and teacher.learns:
        raise ValueError(
            f"model_init makes a new student for every training, but the {kind} would go on from where the "
            "last one left it. Give the student as model=, and a new trainer with a new peer for each trial."
        )


def check_replacements(callbacks: Iterable[Any], sharding: Sharding, blend: Blend) -> None:
    """Refuse Theseus where the parameters of a block that is replaced are never put together (ZeRO-3), or
    where terms read its query, key or value.
    """
    if not replacements(callbacks):
        return
    inside = [tap.kind for tap in blend.taps(ever=True)[0] if tap.kind in ("query", "key", "value")]
    if inside:
        raise ValueError(
            f"{blend} reads the {inside[0]} within each block of the student, and Theseus lets the teacher's "
            "blocks compute in their place. Use terms on labels, logits and hidden states, such as "
            "0.5 * CrossEntropy() + 0.5 * KD(temperature=4)."
        )
    if sharding.name == "ZeRO-3":
        raise ValueError(
            "Theseus replaces blocks of the student, and ZeRO-3 puts the parameters of a block together "
            "while it computes, at no other time. Type zero_stage: 2 in the config of accelerate: every "
            "process then holds the weights, and the optimizer's state is divided as before."
        )


def check_cache(teacher: Teacher | None, task: TaskKind) -> None:
    """Refuse a teacher whose answers cannot be kept: none, one that changes, and one that labels words."""
    if teacher is None:
        raise ValueError("teacher_cache keeps a teacher's answers, and teacher=None. Leave it out.")
    if changing(teacher):
        raise ValueError(
            f"{type(teacher).__name__} changes with every step: its answers cannot be kept. Leave "
            "teacher_cache out."
        )
    if task == "token":
        raise ValueError(
            "teacher_cache keeps one answer a text, and this teacher answers each token. Leave teacher_cache "
            "out."
        )


def check_mixup(
    alpha: float, teacher: Teacher | None, *, student: nn.Module, task: TaskKind, cached: bool
) -> None:
    """Refuse mixtures that this teacher, student or task cannot read."""
    if not is_number(alpha) or alpha <= 0:
        raise ValueError(f"mixup is the a of Beta(a, a), above 0, found {alpha!r}. Type mixup=0.4.")
    if teacher is None or task == "token":
        raise ValueError(
            "mixup shows mixtures of texts, which have no label: a teacher has to judge them, a text at "
            "a time. Leave mixup out for teacher=None and for labels on words."
        )
    models = teacher.embedders()
    if cached or not models:
        raise ValueError(
            "mixup needs a live teacher: mixtures of rows are others in every step, and neither recorded "
            "answers nor those of a fold are theirs. Leave teacher_cache out and give the model itself; a "
            "Teacher of your own names the models that read the token ids by its method embedders()."
        )
    for model in (student, *models):
        if type(word_embeddings(model)) is not nn.Embedding:
            raise ValueError(
                f"mixup mixes word embeddings, and {type(model).__name__} has no table of them to read "
                "one by one. Leave mixup out, or write rows anew: augment(dataset, method)."
            )
    if any(not part.same_tokens for part in teacher.parts()):
        raise ValueError(
            "mixup mixes two rows token by token, and the teacher reads other tokens than the student. "
            "Leave mixup out, or write rows anew: augment(dataset, method)."
        )


def check_inside(blend: Blend, args: TrainingArguments, *, student: nn.Module, teacher: Any) -> None:
    """Refuse terms that cannot look inside these networks, and say what depends on how rows are split."""
    own, other = blend.taps(ever=True)
    if other and teacher is None:
        raise ValueError(
            f"{blend} looks inside the teacher, which has several insides. Name the member to look into, "
            "Ensemble(members, features=0), or use terms on logits, such as KD()."
        )
    if (own or other) and args.torch_compile:
        raise ValueError(
            f"{blend} looks inside the networks, which compiled code does not allow. Leave torch_compile "
            "off, or use terms on logits, such as KD()."
        )
    check_taps(student, own)
    if isinstance(getattr(teacher, "model", None), nn.Module):
        check_taps(teacher.model, other)
    if isinstance(teacher, Teacher):
        teacher.check_taps(other)
    whole = [repr(term) for term in blend.terms if not getattr(term, "additive", True)]
    if whole and (args.gradient_accumulation_steps > 1 or args.world_size > 1):
        logger.warning(
            "%s compares the rows of a micro-batch with each other, so its gradient is that of micro-batches "
            "of %d rows, not of the whole optimizer step.",
            ", ".join(whole),
            args.per_device_train_batch_size,
        )


def check_data(
    train: Any,
    evaluation: Any,
    *,
    config: Any,
    objective: Blend,
    reader: Reader,
    read: Collection[str],
) -> None:
    """Refuse labels that are not the student's classes, where a label column can be read at no cost, and
    training data without a label under an objective that reads them.
    """
    reader.labels.check_student(config)
    several = evaluation if isinstance(evaluation, dict) else {}
    sets = {f"eval_dataset[{name!r}]": part for name, part in several.items()} or {"eval_dataset": evaluation}
    for split, data in {"train_dataset": train, **sets}.items():
        if objective.needs_teacher:
            reader.check_columns(data, split=split)
        _check_rows(data, split=split, config=config, objective=objective, reader=reader, read=read)
    if reader.args.process_index == 0:
        say_doubts(train, evaluation, config=config, label=reader.labels.column_of(train))


def _check_rows(
    data: Any, *, split: str, config: Any, objective: Blend, reader: Reader, read: Collection[str]
) -> None:
    """Look through one set of rows; through the first rows of a stream."""
    blanks = data.blanks if isinstance(data, FreshCopies) else {}
    data = data.rows if isinstance(data, FreshCopies) else data
    own, streamed = reads_by_itself(reader.args, reader.collator, data), isinstance(data, IterableDataset)
    if streamed and not own:
        data = first_rows(data, split=split)
    if not own:
        check_columns(data, read=read, split=split)
    if isinstance(data, list) and config is not None and isinstance(data[0], Mapping):
        names = [*(reader.args.label_names or []), *LABELS]
        name = next((name for name in names if name in data[0]), None)
        check_labels([as_python(row[name]) for row in data if name in row], config, split=split)
    if config is not None and not own and isinstance(data, (Dataset, list)):
        reader.check_tokens(data, split=split)
    if not isinstance(data, Dataset) or config is None:
        return
    column, known = reader.labels.column_of(data), 0
    if column is not None:
        known = check_labels(data.with_format(None)[column][:], config, split=split)
        check_labels([blanks[column]] if column in blanks else [], config, split=f"{split}, new copies")
    if streamed and column is not None:
        return  # its labels may come later
    if split == "train_dataset" and not known and objective.needs_labels and not own:
        raise ValueError(
            f"train_dataset has no labelled row (columns {data.column_names}), but {objective} reads hard "
            f"labels. {_where_labels_may_be(data, column)}To learn from the teacher alone, type "
            "objective=KD(temperature=4)."
        )


def check_columns(data: Any, *, read: Collection[str], split: str) -> None:
    """Refuse columns of which the models read none, and name those that may hold the texts and the labels."""
    features = getattr(data, "features", None) or {}
    if not isinstance(features, Mapping) or not features or {"text", "tokens", *read} & set(features):
        return
    texts = [name for name in features if getattr(features[name], "dtype", None) in _TEXT]
    labels = [name for name in features if name not in texts or name.lower() in LABEL_NAMES]
    texts = [name for name in texts if name not in labels]
    text, label = next(iter(texts), "..."), next(iter(labels), "...")
    raise ValueError(
        f"{split} has the columns {', '.join(features)}, and neither 'text' nor 'input_ids' among them. Type "
        f"hfdistill.load(path, text={text!r}, label={label!r}), or dataset.rename_columns({{{text!r}: "
        f"'text', {label!r}: 'label'}})."
    )


_TEXT = ("string", "large_string")


def _where_labels_may_be(data: Dataset, column: str | None) -> str:
    """Name the columns that may be meant, for a message; "" where there is none."""
    own = ("text", "text_pair", "tokens", "input_ids", "token_type_ids", "attention_mask", "idx", "id")
    others = [n for n in data.column_names if n not in own and not n.startswith("teacher")]
    if column is not None or not others:
        return ""
    likely = next((name for name in others if name.lower() in LABEL_NAMES), others[0])
    return (
        f"Is {likely!r} the label? Type load(path, label={likely!r}) or rename_column({likely!r}, 'label'). "
    )


_ALWAYS = ("loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch")
_KNOWN = ("transformers", "hfdistill")


def check_best_metric(trainer: Any) -> None:
    """Refuse a `metric_for_best_model` that no evaluation will give; Trainer finds out after the first one.

    What a `compute_metrics` gives is not known before it is asked, so nothing is refused where there is one,
    or where a subclass or a callback may add metrics of its own.
    """
    args, sets = trainer.args, trainer.eval_dataset
    if args.metric_for_best_model is None or args.eval_strategy == "no" or sets is None:
        return
    methods = [getattr(type(trainer), name) for name in ("evaluate", "evaluation_loop")]
    methods += [type(one).on_evaluate for one in trainer.callback_handler.callbacks]
    are_known = all(method.__module__.partition(".")[0] in _KNOWN for method in methods)
    if trainer.compute_metrics is not None or not are_known:
        return
    prefixes = [f"{name}_" for name in sets] if isinstance(sets, dict) else [""]
    known = [prefix + name for name in _ALWAYS for prefix in prefixes]
    if args.metric_for_best_model.removeprefix("eval_") not in [*known, *_ALWAYS[1:]]:
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r} is none of what evaluation gives without "
            f"compute_metrics. Type metric_for_best_model={known[0]!r}, or give compute_metrics=function, "
            "which returns it."
        )
