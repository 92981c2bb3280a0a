"""A teacher that has nothing to teach, is trained too little, or can hardly be outgrown by its student."""

from __future__ import annotations

import math

from hfdistill.evaluation.report import Report
from hfdistill.files.plain_data import printable

ENOUGH_ROWS = 5
"""Rows of a class from which on it tells something of a teacher that it finds none of them."""


def doubt_of_teacher(report: Report) -> str:
    """Return the gravest sentence on a teacher that holds its student back; "" without one."""
    return nothing_to_teach(report) or undertrained(report) or bounded_by_teacher(report)


def nothing_to_teach(report: Report) -> str:
    """Return a sentence that a teacher is no better than guessing without reading; "" where it is better.

    One label of several, and labels of words: its accuracy is at most the share of the most frequent class.
    Real values: its correlation with the labels is undefined or at most 0. Several labels a row: it finds
    none (micro F1 of 0).
    """
    teacher = report.teacher
    if teacher is None or teacher.metrics is None:
        return ""
    advice = (
        "It has nothing to teach. Is its head trained, is this its tokenizer, are its classes in the data's "
        "order?"
    )
    if report.task == "regression":
        value = teacher.metrics.get("pearson")
        if value is None or value <= 0:
            shown = "undefined" if value is None else f"{value:.3f}"
            return f"The teacher's correlation with the labels is {shown}. {advice}"
        return ""
    if report.task == "multi_label":
        return f"The teacher finds no label. {advice}" if not teacher.metrics.get("micro_f1") else ""
    accuracy = teacher.metrics.get("accuracy")
    most = max((each.share for each in report.classes), default=0.0)
    if accuracy is None or accuracy > most:
        return ""
    return (
        f"The teacher is right on {100 * accuracy:.1f} % of {report.data.scored}; always answering the most "
        f"frequent class is right on {100 * most:.1f} %. {advice}"
    )


def undertrained(report: Report) -> str:
    """Return a sentence that a teacher was trained too little to teach well; "" where nothing says so.

    It finds none of five rows or more of a class; or the same student trained on the labels alone is right
    more often than the one that learned from it, or than it, by more than chance (95 %).
    """
    teacher, found = report.teacher, []
    if teacher is None:
        return ""
    missed = [c for c in report.classes if c.rows >= ENOUGH_ROWS and c.teacher_recall == 0]
    if missed:
        named = ", ".join(f"the {each.rows} rows of {printable(each.label)}" for each in missed[:3])
        more = f" and those of {len(missed) - 3} more classes" if len(missed) > 3 else ""
        found.append(f"The teacher finds none of {named}{more}")
    loss = next((each for each in report.differences if each.other == "baseline" and each.high < 0), None)
    if loss is not None:
        found.append(
            f"The same student trained on the labels alone is better by {-100 * loss.mean:.1f} points than "
            "with the teacher"
        )
    elif (ahead := _ahead(report)) > 0:
        found.append(
            f"The student trained on the labels alone is right on {100 * ahead:.1f} points more than the "
            "teacher"
        )
    advice = (
        "The teacher is trained too little, or on other rows: train it longer or on more labels, or take "
        "another one, before students learn from it."
    )
    return ". ".join([*found, advice]) if found else ""


def _ahead(report: Report) -> float:
    """Return by what share the baseline is right more often than the teacher; 0 where that may be chance."""
    scores = [
        (model.metrics or {}) if model is not None else {} for model in (report.baseline, report.teacher)
    ]
    own, theirs = (each.get("accuracy") for each in scores)
    errors = [error for each in scores if (error := each.get("accuracy_se")) is not None]
    if own is None or theirs is None or len(errors) < 2:
        return 0.0
    return own - theirs if own - theirs > 1.96 * math.hypot(*errors) else 0.0


def bounded_by_teacher(report: Report) -> str:
    """Return a sentence that a better student needs a better teacher; "" where it does not.

    It does where one label of several is given, the student answers as its teacher on nine rows of ten and is
    not right more often, and the teacher is wrong on one of ten or more.
    """
    teacher, student = report.teacher, report.student
    if report.task != "single_label" or teacher is None or teacher.metrics is None:
        return ""
    accuracy, alike = teacher.metrics.get("accuracy"), (student.fidelity or {}).get("agreement")
    if accuracy is None or alike is None or accuracy > 0.9 or alike < 0.9:
        return ""
    reached = (student.metrics or {}).get("accuracy")
    if reached is not None and reached > accuracy:
        return ""
    recalls = sorted((c.teacher_recall, c.label) for c in report.classes if c.teacher_recall is not None)[:3]
    named = ", ".join(f"{printable(label)} ({100 * share:.0f} %)" for share, label in recalls)
    return (
        f"The teacher is right on {100 * accuracy:.1f} % of {report.data.scored}, and the student answers as "
        f"it does on {100 * alike:.1f} %: it can hardly become better than that. A few labels, above all of "
        f"the classes that the teacher knows least{f': {named}' if named else ''}, help more than longer "
        "training."
    )
