"""The table of classes: what a student lost of each, and which of its teacher's errors it inherited."""

from __future__ import annotations

from hfdistill.evaluation.report import ClassReport, Report, show
from hfdistill.files.markdown import escape, table

MANY, WORST = 20, 10


def class_table(report: Report) -> str:
    """Return a line per class as Markdown; of more than 20 classes the 10 that inherited most errors."""
    chosen, note = list(report.classes), ""
    if len(chosen) > MANY:
        chosen = sorted(chosen, key=_weakness)[:WORST]
        note = f"The {WORST} of {len(report.classes)} classes that inherited most errors or lost most."
    unit = "words" if report.task == "token" else "rows"
    columns = ["class", unit, "share", "student finds"]
    if report.teacher is not None:
        columns += ["teacher finds", "teacher wrong", "repeated"]
        columns += ["repeated by the undistilled"] if report.baseline is not None else []
        columns += ["corrected", "added"]
        note = f"{note} {_READING}".strip()
    lines = table(columns, [_line(c, report) for c in chosen])
    return f"{lines}\n\n{note}" if note else lines


_READING = (
    "Teacher wrong: of the class, those that the teacher gets wrong. Repeated: of these, the student gives "
    "the same wrong answer. Corrected: of these, the student is right. Added: those that the teacher gets "
    "right and the student wrong."
)


def _line(c: ClassReport, report: Report) -> list[str]:
    line = [escape(c.label, limit=60), f"{c.rows:,}", f"{100 * c.share:.1f} %", _share(c.student_recall)]
    if report.teacher is None:
        return line
    both = [c.baseline_same_wrong] if report.baseline is not None else []
    counts = [c.teacher_wrong, c.same_wrong, *both, c.corrected, c.new]
    return [*line, _share(c.teacher_recall), *("-" if n is None else f"{n:,}" for n in counts)]


def _weakness(c: ClassReport) -> tuple[int, float]:
    """Return a sort key: most inherited errors first, then the largest loss of recall, or the lowest one."""
    own = 2.0 if c.student_recall is None else c.student_recall
    return -(c.same_wrong or 0), own - (c.teacher_recall or 0.0)


def _share(value: float | None) -> str:
    return show(value, "accuracy")
