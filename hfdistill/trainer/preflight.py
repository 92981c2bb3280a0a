"""What is looked at before the first step."""

from __future__ import annotations

import logging
from typing import Any

from datasets import Dataset, IterableDataset
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments

from hfdistill import labels as spaces
from hfdistill.arguments import option
from hfdistill.data import encode
from hfdistill.objectives import Blend

logger = logging.getLogger(__name__)


def refuse_data_parallel(args: TrainingArguments) -> None:
    """`nn.DataParallel` copies the student over threads, and the objective would see one copy's readings."""
    if args.n_gpu > 1:
        raise ValueError(
            f"This process sees {args.n_gpu} GPUs and would copy the student to each by nn.DataParallel, "
            "which mixes up student and teacher. Start one process per GPU: accelerate launch script.py. To "
            "use one GPU: CUDA_VISIBLE_DEVICES=0."
        )


def refuse_self_teaching(student: nn.Module, teacher: nn.Module | None) -> None:
    """A teacher that shares parameters with the student moves with it."""
    own = {id(parameter) for parameter in student.parameters()}
    if teacher is not None and any(id(parameter) in own for parameter in teacher.parameters()):
        raise ValueError(
            "Teacher and student share parameters, so the teacher would move with the student. Give the "
            "teacher as copy.deepcopy(model), or cut the student with shrink(teacher, layers=...), which "
            "copies."
        )


def encoded(data: Any, args: TrainingArguments, *, tokenizer: Any, teacher_inputs: frozenset[str]) -> Any:
    """Data with raw text, tokenised; anything else as it is."""
    if isinstance(data, dict):
        return {
            name: encoded(part, args, tokenizer=tokenizer, teacher_inputs=teacher_inputs)
            for name, part in data.items()
        }
    columns = getattr(data, "column_names", None) or []
    if not isinstance(data, (Dataset, IterableDataset)) or "text" not in columns or "input_ids" in columns:
        return data
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(
            "The data holds raw text, and there is no tokenizer to read it with. Type "
            "processing_class=AutoTokenizer.from_pretrained(...), or tokenise the data first."
        )
    token_types = "text_pair" in columns and "token_type_ids" in teacher_inputs
    return encode(data, tokenizer, max_length=option(args, "max_length"), token_types=token_types)


def check_data(train: Any, evaluation: Any, *, config: Any, objective: Blend) -> None:
    """Look through every label column that can be read at no cost.

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
        column = next((name for name in ("label", "labels", "label_ids") if name in data.column_names), None)
        known = 0
        if column is not None:
            spaces.check_class_names(getattr(data.features[column], "names", None) or [], config, split=split)
            known = spaces.check_labels(data.with_format(None)[column][:], config, split=split)
        if split == "train_dataset" and not known and objective.needs_labels:
            raise ValueError(
                f"train_dataset has no labelled row (columns {data.column_names}), but {objective} reads "
                "hard labels. To learn from the teacher alone, type objective=KD(temperature=4)."
            )


def judge_teacher(answers: list[int], gold: list[int]) -> dict[str, float]:
    """The teacher's accuracy on the first evaluation rows, with a warning where it is no better than chance.

    Args:
        answers: its class per row.
        gold: the label per row; not empty.
    """
    accuracy = sum(a == g for a, g in zip(answers, gold, strict=True)) / len(gold)
    chance = max(gold.count(label) for label in set(gold)) / len(gold)
    if accuracy <= chance:
        logger.warning(
            "The teacher is right on %.1f %% of %d evaluation rows; always answering the most frequent class "
            "is right on %.1f %%. It has nothing to teach. Is its head trained, is this its tokenizer, are "
            "its classes in the data's order (label_map=)?",
            100 * accuracy,
            len(gold),
            100 * chance,
        )
    return {"teacher_accuracy": accuracy, "teacher_rows": len(gold)}
