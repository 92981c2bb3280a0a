"""The page of a run, as each of many trials of it runs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfdistill.recipe import schema
from hfdistill.recipe.check import RECOMMENDED, Recipe
from hfdistill.recipe.run import Run


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
    kind = None if recipe.teacher is None else recipe.teacher[0]
    if kind == "finetune" and not teacher_varies:
        made["teacher"] = {"pretrained": {"source": run.origin}}
    inside = _looks_inside(recipe)
    is_fixed = kind is not None and kind != "cached" and not schema.TEACHERS[kind].moves
    is_recorded = is_fixed and not inside and run.rows.task != "token" and not recipe.splits.fresh_copies
    if is_recorded and not (teacher_varies or recipe.assistants or recipe.generations > 1):
        made.setdefault("teacher_cache", str(folder / "answers"))
    made["training"] |= {"load_best_model_at_end": False, "teacher_check_rows": 0}
    return made | {"measure": None, "export": None}


def _looks_inside(recipe: Recipe) -> bool:
    """Return whether a page's objective reads more of the teacher than its logits."""
    from hfdistill.objectives import Objective

    if recipe.objective is None or recipe.objective == RECOMMENDED:
        return recipe.objective is not None and schema.STUDENTS[recipe.student.kind].has_attention
    return any(type(term).taps is not Objective.taps for term in recipe.objective.terms)
