"""The page of a run, as each of many trials of it runs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfdistill.recipe.run import Run
from hfdistill.recipe.run_defaults import ANSWERS, can_be_recorded, precision


def trial_page(
    page: Mapping[str, Any], run: Run, folder: Path, *, teacher_varies: bool = False
) -> dict[str, Any]:
    """Return a page with the teacher that `run` has made, its answers recorded once, and nothing measured.

    A fine-tuned teacher is named by its folder. Answers are recorded where the objective reads nothing else
    of the teacher, no other model teaches in between, and the page does not ask for fresh copies.

    Args:
        page: the content of the page.
        run: of this page; its teacher is made.
        folder: where answers are recorded.
        teacher_varies: whether trials have different teachers.
    """
    made, recipe = copy.deepcopy(dict(page)), run.recipe
    if recipe.teacher is not None and recipe.teacher[0] == "finetune" and not teacher_varies:
        made["teacher"] = {"pretrained": {"source": run.origin}}
    others_teach = teacher_varies or recipe.assistants or recipe.generations > 1
    if can_be_recorded(recipe, run.rows) and not others_teach:
        made.setdefault("teacher_cache", str(folder / ANSWERS))
    made["training"] |= {"load_best_model_at_end": False, "teacher_check_rows": 0}
    if precision(recipe.training).get("bf16") and not run.args.bf16:  # which moves this teacher too far
        made["training"]["bf16"] = False
    return made | {"measure": None, "export": None}
