"""A goal in Python: data, a teacher and limits become a page, and the page is run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from hfdistill.data.in_memory import splits_in_memory
from hfdistill.data.label_columns import with_listed_classes
from hfdistill.files.plain_data import whole_folder
from hfdistill.recipe.check import check
from hfdistill.recipe.goal.fit import fit_recipe
from hfdistill.recipe.goal.outcome import FitResult
from hfdistill.recipe.goal.target import TRAINING
from hfdistill.recipe.page import Page


def fit_student(
    data: Any,
    teacher: str | Path | PreTrainedModel,
    folder: str | Path,
    *,
    keep: float | str = 0.98,
    max_ms: float | None = None,
    max_mb: float | None = None,
    goal: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    objective: str | Sequence[Any] | None = None,
    tokenizer: Any = None,
) -> FitResult:
    """Find the fastest student that keeps a share of its teacher's quality within a budget.

    1. Every candidate (static, CNN, BiLSTM, 1 to N of the teacher's layers, half the neurons, half the width)
       is measured untrained, in PyTorch, and where that misses the limits in ONNX, in 8 bits, and with half
       of the tokens (those of the training texts first). What misses them is never trained.
    2. The rest is tried by successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): cuts begin
       fitted to the teacher by least squares (`Refit`), which needs no training; the best third is trained
       for a third of the epochs, the best third of these to the end, by the teacher's recorded answers.
    3. It ends as soon as a student keeps what was asked for with its whole interval: r = q_student/q_teacher
       on the same rows, at 95 % over all comparisons (Bonferroni). Else the best is given, with what is
       missing and what would help.

    Students are compared on a share of the training rows (`goal={"choose": 0.2}`, or another split) that none
    learns from. The rows of the validation or test split are looked at once, for the report. A teacher that
    was fine-tuned on the training rows knows them by heart: students look worse on a share of these than they
    are, so name another split where there is one.

    Sizes and milliseconds are those of this machine and its threads now. Started again after a kill, it goes
    on with what is measured and trained; limits may be changed.

    Args:
        data: Hub id, file, folder or rows in memory, as in `load`, with labels or without.
        teacher: a classifier: Hub id, folder or model.
        folder: where to write: `student/` with report, card and picture, `onnx/` where it runs so,
            `best.yaml`, and `goal/` with what was measured.
        keep: share of the teacher's metric, 0.98 or "98%".
        max_ms: milliseconds for one row at most.
        max_mb: megabytes of the weights' file at most.
        goal: further keys of a page's `goal` section: metric, choose, candidates, int8, texts.
        options: further keys of a page's `data` section: text, label, evaluation, train_rows, unlabelled, ….
        training: keys of a page's `training` section: num_train_epochs (default 3), seed, ….
        objective: that of a page, "recommended" or terms; default cross-entropy and KD on recorded answers.
        tokenizer: of a teacher that is given as a model.

    Returns:
        What was found. `print(result)`.

    Raises:
        RecipeError: a share, limit or name that cannot be, all of them at once.
        ValueError: before anything is trained: no candidate is within the limits (with what each measures), a
            metric that is not the task's, too few rows, or a folder with trials on other rows.

    Example:
        >>> result = fit_student("reviews.csv", "org/teacher", "out", keep="98%", max_ms=5)  # doctest: +SKIP
        >>> print(result)  # doctest: +SKIP
    """
    folder = Path(folder)
    limits = {"keep": keep, "max_ms": max_ms, "max_mb": max_mb}
    values: dict[str, Any] = {
        "teacher": {"pretrained": {"source": "teacher"}},
        "data": {"source": "data", **(options or {})},
        "training": {**TRAINING, **(training or {}), "output_dir": str(folder)},
        "goal": {name: value for name, value in {**limits, **(goal or {})}.items() if value is not None},
    }
    if objective is not None:
        values["objective"] = objective
    check(Page("goal", values))  # before anything is written
    values["data"]["source"] = _data_on_disk(data, folder / "inputs" / "data")
    values["teacher"] = {"pretrained": {"source": _teacher_on_disk(teacher, tokenizer, folder)}}
    return fit_recipe(check(Page("goal", values)))


def _data_on_disk(data: Any, folder: Path) -> str:
    """Return the path of the data; rows in memory are written, so that a killed search can go on."""
    if isinstance(data, (str, Path)):
        return str(data)
    with whole_folder(folder) as staged:
        if isinstance(data, Mapping) and data and all(isinstance(p, (str, Path)) for p in data.values()):
            for name, path in data.items():
                kind = Path(path).suffixes[-2 if str(path).lower().endswith(".gz") else -1 :]
                shutil.copy(Path(path).expanduser(), staged / f"{name}{''.join(kind)}")
        else:
            splits = {"train": data} if isinstance(data, Dataset) else splits_in_memory(data)
            for name, rows in splits.items():
                with_listed_classes(rows).to_parquet(staged / f"{name}.parquet")
    return str(folder)


def _teacher_on_disk(teacher: str | Path | PreTrainedModel, tokenizer: Any, folder: Path) -> str:
    """Return the path of a teacher: a model in memory is written with its tokenizer."""
    if isinstance(teacher, (str, Path)):
        return str(teacher)
    if tokenizer is None:
        raise ValueError("The teacher is a model, and nothing reads its texts. Pass tokenizer=.")
    path = folder / "inputs" / "teacher"
    with whole_folder(path) as staged:
        teacher.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
    return str(path)
