"""A student's answers beside its teacher's and baseline's: what was lost, inherited, corrected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hfdistill.evaluation.metrics.scores import Array, paired_interval
from hfdistill.evaluation.report import MAX_CELLS, Cell, ClassReport, Confusion, Difference, Errors


def differences(
    task: str, logits: Mapping[str, Array], labels: Array, *, lengths: Sequence[int] = ()
) -> tuple[Difference, ...]:
    """Return the student's accuracy minus the others'; none for regression or without labels.

    `lengths` are the labelled words of each text, for tokens.
    """
    if task == "regression" or len(labels) == 0:
        return ()
    metric = "subset_accuracy" if task == "multi_label" else "accuracy"
    right = {role: right_rows(task, values, labels) for role, values in logits.items()}
    others = [role for role in ("teacher", "baseline") if role in right]
    by_text = lengths if task == "token" else None
    intervals = {r: paired_interval(right["student"], right[r], lengths=by_text) for r in others}
    return tuple(Difference(role, metric, *interval) for role, interval in intervals.items())


def right_rows(task: str, logits: Array, labels: Array) -> Array:
    """Return which rows a model gets wholly right, (rows,) bool; of one label a row or several."""
    if task == "multi_label":
        return np.asarray(((logits > 0) == (labels > 0)).all(axis=1))
    return np.asarray(logits.argmax(axis=1) == labels)


def errors(logits: Mapping[str, Array], labels: Array) -> Errors | None:
    """Count what became of the teacher's errors; None without teacher or labels.

    Logits are (rows, C) in one class order, labels class ids (rows,).
    """
    if "teacher" not in logits or len(labels) == 0:
        return None
    answers = {role: values.argmax(axis=1) for role, values in logits.items()}
    right = {role: answer == labels for role, answer in answers.items()}
    return Errors(**_inherited(np.ones(len(labels), bool), right, answers))


def classes(
    task: str, logits: Mapping[str, Array], labels: Array, names: list[str]
) -> tuple[ClassReport, ...]:
    """Return one entry per class; arguments as for `errors`, labels of multi-label rows are (rows, C)."""
    if task == "regression":
        return ()
    several, reports = labels.ndim == 2, []
    answers = {r: values > 0 if several else values.argmax(axis=1) for r, values in logits.items()}
    for i, name in enumerate(names):
        inside = labels[:, i] > 0 if several else labels == i
        says = {role: answer[:, i] if several else answer == i for role, answer in answers.items()}
        rows = int(inside.sum())
        recall = {role: float(said[inside].mean()) if rows else None for role, said in says.items()}
        inherited: dict[str, Any] = {"teacher_wrong": None, "same_wrong": None}
        if "teacher" in logits and len(labels):
            right = {role: said == inside for role, said in says.items()}
            asked, given = (np.ones_like(inside), says) if several else (inside, answers)
            inherited = _inherited(asked, right, given)
        reports.append(
            ClassReport(
                label=name,
                rows=rows,
                share=rows / len(labels) if len(labels) else 0.0,
                student_recall=recall["student"],
                teacher_recall=recall.get("teacher"),
                **inherited,
            )
        )
    return tuple(reports)


def _inherited(asked: Array, right: Mapping[str, Array], answers: Mapping[str, Array]) -> dict[str, Any]:
    """Count what became of the teacher's errors on the rows, or decisions, that are asked about."""
    wrong = asked & ~right["teacher"]
    same = {role: int((wrong & (answer == answers["teacher"])).sum()) for role, answer in answers.items()}
    return {
        "teacher_wrong": int(wrong.sum()),
        "same_wrong": same["student"],
        "corrected": int((wrong & right["student"]).sum()),
        "new": int((asked & right["teacher"] & ~right["student"]).sum()),
        "baseline_same_wrong": same.get("baseline"),
    }


def confusions(
    task: str, logits: Mapping[str, Array], known: Mapping[str, Array], labels: Array
) -> tuple[Confusion, ...]:
    """Count the student's answers beside the labels and the teacher's; none for several labels or numbers.

    Logits are those of all rows by role, (rows, C) in one class order; `known` those of the labelled rows.
    """
    if task not in ("single_label", "token"):
        return ()
    matrices, count = [], logits["student"].shape[1]
    if len(labels):
        matrices.append(_confusion("labels", labels, known["student"].argmax(axis=1), count))
    if "teacher" in logits:
        teacher, student = (logits[role].argmax(axis=1) for role in ("teacher", "student"))
        matrices.append(_confusion("teacher", teacher, student, count))
    return tuple(matrices)


def _confusion(against: str, rows: Array, columns: Array, count: int) -> Confusion:
    """Return counts of pairs of class ids; of many classes only where they differ, the most frequent."""
    pairs, numbers = np.unique(rows.astype(np.int64) * count + columns, return_counts=True)
    complete = count**2 <= MAX_CELLS
    if not complete:
        differ = pairs // count != pairs % count
        pairs, numbers = pairs[differ], numbers[differ]
        largest = np.argsort(-numbers, kind="stable")[: MAX_CELLS // 10]
        pairs, numbers = pairs[largest], numbers[largest]
    cells = (
        Cell(int(pair // count), int(pair % count), int(n)) for pair, n in zip(pairs, numbers, strict=True)
    )
    return Confusion(against, complete, tuple(cells))
