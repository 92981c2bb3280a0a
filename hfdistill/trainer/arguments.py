"""The settings that belong to a run, and what they ask of a student."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from hfdistill.files.plain_data import as_python
from hfdistill.files.progress import Shown
from hfdistill.network.architectures import word_embeddings
from hfdistill.schedules import is_number


def _setting(default: Any, text: str) -> Any:
    """Return a field with the help that `HfArgumentParser` shows."""
    return field(default=default, metadata={"help": text})


@dataclass
class DistillationArguments(TrainingArguments):
    """`TrainingArguments` and the few settings of a distillation run that are not part of its objective.

    Plain `TrainingArguments` are accepted everywhere; these fields then have their defaults.

    Args:
        length_grouping: put rows of similar length into one batch, in an order that (seed, epoch) alone
            decide.
        max_length: tokens kept of a text that the trainer tokenises; None for the tokenizer's limit.
        teacher_check_rows: rows of the evaluation data on which the teacher's accuracy is logged before the
            first step; 0 for none.
        mixup: the a of Beta(a, a) of MixKD (arXiv 2011.00593; 0.4 is usual): as many mixtures of rows as
            there are rows, for the teacher to label. Doubles the time of a step.
        freeze_embeddings: leave the student's table of word embeddings as it is. Most weights of a small
            student are in it, so that a step of three layers takes about 0.7 of the time and the optimizer
            a third of the memory; for a student that was cut from its teacher, whose table is the teacher's.
        student_dropout: probability of every dropout layer of the student during `train()`; None for those
            that it has. They, and its config, are as before afterwards. With 0 the student answers a row as
            surely as its teacher.
        allow_changed: resume although objective, teacher or label map are not the checkpoint's.

    Example:
        >>> args = DistillationArguments("out", max_length=128, mixup=0.4)
    """

    length_grouping: bool = _setting(
        True, "Put rows of like length into one batch, in an order that (seed, epoch) alone decide."
    )
    max_length: int | None = _setting(
        None,
        "Tokens kept of a text that is tokenised here; default: what the tokenizer allows. A teacher with a "
        "tokenizer of its own reads what its model and tokenizer can.",
    )
    teacher_check_rows: int = _setting(
        512, "Rows of the evaluation data on which the teacher's accuracy is looked at first; 0 for none."
    )
    mixup: float | None = _setting(
        None,
        "Show as many mixtures of rows as there are rows, for the teacher to judge: the a of Beta(a, a) "
        "(MixKD, arXiv 2011.00593; 0.4 is usual). Doubles the time of a step.",
    )
    freeze_embeddings: bool = _setting(
        False,
        "Leave the student's table of word embeddings as it is: for students that were cut from their "
        "teacher.",
    )
    student_dropout: float | None = _setting(
        None,
        "Probability of each dropout layer of the student while it trains, 0 for none; default: as its "
        "config says.",
    )
    allow_changed: bool = _setting(
        False, "Resume although the objective, the teacher or the label map are not the checkpoint's."
    )

    def __post_init__(self) -> None:
        for name in ("max_length", "teacher_check_rows", "mixup", "student_dropout"):
            setattr(self, name, as_python(getattr(self, name)))
        if not isinstance(self.teacher_check_rows, int) or self.teacher_check_rows < 0:
            raise ValueError(
                f"teacher_check_rows is a number of rows from 0 up, found {self.teacher_check_rows!r}. Type "
                "0 for none, a number above theirs for all."
            )
        if not torch.accelerator.is_available():
            self.use_cpu = True  # Trainer refuses bf16 otherwise
        rate = self.student_dropout
        if rate is not None and not (is_number(rate) and 0 <= rate < 1):
            raise ValueError(
                "student_dropout is the probability of a dropout layer, at least 0 and below 1, found "
                f"{rate!r}. Pass student_dropout=0 for none, or leave it out for the student's own."
            )
        super().__post_init__()


def fast_bf16(*, use_cpu: bool = False) -> bool:
    """Return True where this machine multiplies bfloat16 matrices in hardware: recent GPUs, CPUs with AMX.

    Args:
        use_cpu: ask about the CPU, though there is a GPU.
    """
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def rows_a_step(args: TrainingArguments) -> int:
    """Return the rows of an optimizer step, on all processes."""
    return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)


def option(args: TrainingArguments, name: str) -> Any:
    """Return a field of DistillationArguments, or its default where `args` are plain TrainingArguments."""
    default = next(f.default for f in fields(DistillationArguments) if f.name == name)
    return getattr(args, name, default)


def shown(args: TrainingArguments) -> Shown:
    """Return how this process shows what comes before Trainer's own bar."""
    if args.process_index != 0:
        return "none"
    return "log" if args.disable_tqdm else "bar"


def freeze(student: nn.Module, args: TrainingArguments) -> None:
    """Leave the table of word embeddings as it is, where `freeze_embeddings` says so.

    Positions, token types and the norm behind them learn, so that every block still gets gradients.
    """
    if not option(args, "freeze_embeddings"):
        return
    table = word_embeddings(student)
    if table is None:
        raise ValueError(
            "freeze_embeddings leaves the table of word embeddings as it is, and "
            f"{type(student).__name__} has none. Leave it out."
        )
    table.requires_grad_(False)
