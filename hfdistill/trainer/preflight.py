"""What is looked at before the first step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, IterableDataset
from torch import nn
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    TrainingArguments,
)
from transformers.integrations import is_deepspeed_zero3_enabled

from hfdistill import labels as spaces
from hfdistill.anatomy import longest_input
from hfdistill.arguments import option
from hfdistill.data import encode
from hfdistill.objectives import Blend
from hfdistill.teachers import Teacher
from hfdistill.trace import check_taps

logger = logging.getLogger(__name__)


def refuse_data_parallel(args: TrainingArguments) -> None:
    """`nn.DataParallel` copies the student over threads, and the objective would see one copy's readings."""
    if args.n_gpu > 1:
        raise ValueError(
            f"This process sees {args.n_gpu} GPUs and would copy the student to each by nn.DataParallel, "
            "which mixes up student and teacher. Start one process per GPU: accelerate launch script.py. To "
            "use one GPU: CUDA_VISIBLE_DEVICES=0."
        )


def check_teacher(teacher: nn.Module | None, *, student: nn.Module) -> None:
    """Refuse a teacher that would move with the student, or that DeepSpeed would take apart.

    Raises:
        ValueError: for parameters shared with the student, and for ZeRO-3.
    """
    if teacher is None:
        return
    own = {id(parameter) for parameter in student.parameters()}
    if any(id(parameter) in own for parameter in teacher.parameters()):
        raise ValueError(
            "Teacher and student share parameters, so the teacher would move with the student. Give the "
            "teacher as copy.deepcopy(model), or cut the student with shrink(teacher, layers=...), which "
            "copies."
        )
    if is_deepspeed_zero3_enabled():
        raise ValueError(
            "DeepSpeed ZeRO-3 shards every model that is loaded under it, the teacher too. Use ZeRO-1 or "
            "ZeRO-2: a BERT-sized teacher fits on each GPU whole."
        )


@dataclass(frozen=True)
class Reader:
    """Turns raw text into ids that student and teacher can both read; any other data stays as it is.

    Args:
        args: the run's.
        configs: of student and teacher; None where there is none.
        collator: the user's own, which then reads the text itself, unless it only pads.
        inputs: what the teacher reads.
    """

    args: TrainingArguments
    configs: Sequence[Any]
    collator: Any
    inputs: frozenset[str]

    def __call__(self, data: Any, tokenizer: Any) -> Any:
        """The data, tokenised where it holds raw text.

        Raises:
            ValueError: for text without a tokenizer, or one that knows more tokens than a model.
        """
        if isinstance(data, dict):
            return {name: self(part, tokenizer) for name, part in data.items()}
        columns = getattr(data, "column_names", None) or []
        raw = {"text", "tokens"} & set(columns)
        if not isinstance(data, (Dataset, IterableDataset)) or not raw or "input_ids" in columns:
            return data
        if reads_by_itself(self.args, self.collator, data):
            return data
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ValueError(
                "The data holds raw text, and there is no tokenizer to read it with. Type "
                "processing_class=AutoTokenizer.from_pretrained(...), or tokenise the data first."
            )
        self._check_vocabulary(tokenizer)
        if "text" not in columns:
            self._check_words(data)
        rooms = [option(self.args, "max_length"), *(longest_input(c) for c in self.configs if c is not None)]
        token_types = "text_pair" in columns and "token_type_ids" in self.inputs
        with self.args.main_process_first(desc="tokenisation"):
            room = min((room for room in rooms if room), default=None)
            return self._filled(encode(data, tokenizer, max_length=room, token_types=token_types))

    def _filled(self, data: Any) -> Any:
        """The data with None, which `concatenate_datasets` leaves in rows without a label, filled in."""
        config = next((config for config in self.configs if config is not None), None)
        if config is None or not isinstance(data, Dataset) or "label" not in data.column_names:
            return data
        if None not in data.with_format(None)["label"][:]:
            return data
        blank = spaces.unlabelled(1, config.num_labels, spaces.task_kind(config))[0].tolist()
        return data.map(_fill, fn_kwargs={"blank": blank}, batched=True)

    def _check_words(self, data: Any) -> None:
        """Words with a label each are for models that label tokens, with these names in this order."""
        config = next((config for config in self.configs if config is not None), None)
        if config is not None and spaces.task_kind(config) != "token":
            raise ValueError(
                "The data holds lists of words (column 'tokens'), and the student gives a text one label. "
                "Load it with load_classifier(..., task='token'), or join the words to a column 'text'."
            )
        names = getattr(getattr((data.features or {}).get("label"), "feature", None), "names", None)
        spaces.check_class_names(names or [], config, split=str(data.split or "the data"))

    def _check_vocabulary(self, tokenizer: PreTrainedTokenizerBase) -> None:
        for role, config in zip(("student", "teacher"), self.configs, strict=True):
            size = getattr(config, "vocab_size", None)
            if size is not None and size < len(tokenizer):
                raise ValueError(
                    f"The tokenizer has {len(tokenizer)} tokens and the {role}'s embedding {size}. Use the "
                    f"{role}'s own tokenizer, or type {role}.resize_token_embeddings({len(tokenizer)})."
                )


def collator(configs: Sequence[Any], tokenizer: Any) -> Any:
    """What pads labels with the tokens, where tokens are labelled; else None, for Trainer's own choice."""
    config = next((config for config in configs if config is not None), None)
    if config is None or not isinstance(tokenizer, PreTrainedTokenizerBase):
        return None
    return DataCollatorForTokenClassification(tokenizer) if spaces.task_kind(config) == "token" else None


def _fill(batch: dict[str, list[Any]], blank: Any) -> dict[str, list[Any]]:
    return {"label": [blank if label is None else label for label in batch["label"]]}


def check_inside(blend: Blend, args: TrainingArguments, *, student: nn.Module, teacher: Any) -> None:
    """Refuse terms that cannot look inside these networks, and say what depends on how rows are split."""
    own, other = blend.taps(ever=True)
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


def reads_by_itself(args: TrainingArguments, collator: Any, data: Any) -> bool:
    """Whether the user's own code makes the model's inputs: a transform, a collator, columns kept for one."""
    pads = (DataCollatorWithPadding, DataCollatorForTokenClassification)
    own_collator = collator is not None and not isinstance(collator, pads)
    transformed = isinstance(data, Dataset) and data.format["type"] == "custom"
    return own_collator or transformed or not args.remove_unused_columns


def check_data(train: Any, evaluation: Any, *, config: Any, objective: Blend, reader: Reader) -> None:
    """Look through every label column that can be read at no cost.

    Args:
        train: training data.
        evaluation: evaluation data, or several sets by name.
        config: the student's.
        objective: bound.
        reader: knows whether labels may come from the user's own code.

    Raises:
        LabelSpaceError: for labels that are not the student's classes.
        ValueError: for training data without a label under an objective that reads them.
    """
    sets = {"train_dataset": train}
    if isinstance(evaluation, dict):
        sets |= {f"eval_dataset[{name!r}]": part for name, part in evaluation.items()}
    else:
        sets["eval_dataset"] = evaluation
    for split, data in sets.items():
        if not isinstance(data, Dataset) or config is None:
            continue
        if len(data) == 0:
            raise ValueError(f"{split} has no row. Check the split's name and the filters before it.")
        names = [*(reader.args.label_names or []), "label", "labels", "label_ids"]
        column = next((name for name in names if name in data.column_names), None)
        known = 0
        if column is not None:
            spaces.check_class_names(getattr(data.features[column], "names", None) or [], config, split=split)
            known = spaces.check_labels(data.with_format(None)[column][:], config, split=split)
        own = reads_by_itself(reader.args, reader.collator, data)
        if split == "train_dataset" and not known and objective.needs_labels and not own:
            raise ValueError(
                f"train_dataset has no labelled row (columns {data.column_names}), but {objective} reads "
                "hard labels. To learn from the teacher alone, type objective=KD(temperature=4)."
            )


def judge_teacher(answers: list[int], gold: list[int], *, unit: str = "rows") -> dict[str, float]:
    """The teacher's accuracy on the first evaluation rows, with a warning where it is no better than chance.

    Args:
        answers: its class per row.
        gold: the label per row; not empty.
        unit: "words" where tokens are labelled.
    """
    accuracy = sum(a == g for a, g in zip(answers, gold, strict=True)) / len(gold)
    chance = max(gold.count(label) for label in set(gold)) / len(gold)
    if accuracy <= chance:
        logger.warning(
            "The teacher is right on %.1f %% of %d evaluation %s; always answering the most frequent class "
            "is right on %.1f %%. It has nothing to teach. Is its head trained, is this its tokenizer, are "
            "its classes in the data's order (label_map=)?",
            100 * accuracy,
            len(gold),
            unit,
            100 * chance,
        )
    return {"teacher_accuracy": accuracy, f"teacher_{unit}": len(gold)}
