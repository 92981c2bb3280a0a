"""What a run decides where its page is silent, so as to take less time: its precision, recorded answers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hfdistill.recipe import schema
from hfdistill.recipe.check import RECOMMENDED, Recipe, teacher_kind
from hfdistill.recipe.recommended import enough_rows
from hfdistill.recipe.rows import Rows
from hfdistill.trainer.arguments import fast_bf16, rows_a_step

DEFAULTS = {"report_to": "none", "logging_steps": 0.05, "save_total_limit": 2, "disable_tqdm": True}
"""What a page says under `training` where it says nothing: twenty losses a run, two checkpoints kept."""
ANSWERS = "answers"
"""The folder of recorded answers in that of a run."""


def precision(training: Mapping[str, Any]) -> dict[str, bool]:
    """Return bf16 where the machine multiplies it in hardware and nothing else chooses a precision.

    Example:
        >>> precision({"fp16": True}), precision({"bf16": False})
        ({}, {})
    """
    is_chosen = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no"
    if is_chosen or training.keys() & {"bf16", "fp16", "deepspeed"}:
        return {}
    return {"bf16": fast_bf16(use_cpu=bool(training.get("use_cpu")))}


def is_worth_recording(recipe: Recipe, rows: Rows, args: Any) -> bool:
    """Return whether the answers of a page's teacher are read more than once and can be recorded."""
    live = {"pretrained", "finetune"}  # others are asked about texts, have members, or change
    is_model = teacher_kind(recipe) in live
    is_chain = bool(recipe.assistants) or recipe.generations > 1 or recipe.theseus is not None
    is_rewritten = recipe.objective == RECOMMENDED and enough_rows(rows) is None
    rows_read = args.max_steps * rows_a_step(args)
    epochs = args.num_train_epochs if args.max_steps <= 0 else rows_read / max(1, len(rows.train))
    machines = args.world_size > int(os.environ.get("LOCAL_WORLD_SIZE", args.world_size))  # without one disk?
    is_plain = not (is_chain or is_rewritten or args.mixup or machines)
    is_plain = is_plain and rows.stream is None  # how often its rows come is not known
    return is_model and is_plain and epochs > 1 and can_be_recorded(recipe, rows)


def can_be_recorded(recipe: Recipe, rows: Rows) -> bool:
    """Return whether a page's teacher gives the same answers to the same rows, one for each text."""
    kind = teacher_kind(recipe)
    is_fixed = kind is not None and kind != "cached" and not schema.TEACHERS[kind].moves
    return is_fixed and rows.task != "token" and not recipe.splits.fresh_copies and not _looks_inside(recipe)


def _looks_inside(recipe: Recipe) -> bool:
    """Return whether a page's objective reads more of the teacher than its logits."""
    from hfdistill.objectives import Objective

    if recipe.objective is None or recipe.objective == RECOMMENDED:
        return recipe.objective is not None and schema.STUDENTS[recipe.student.kind].has_attention
    return any(type(term).taps is not Objective.taps for term in recipe.objective.terms)
