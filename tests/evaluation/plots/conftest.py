import dataclasses

import pytest

from hfdistill.evaluation.report import Speed
from tests.conftest import make_report


@pytest.fixture(scope="session")
def report():
    return make_report({})


def with_classes(report, labels):
    """The report with other classes, each of which the student confuses with the next."""
    from hfdistill.evaluation.report import MAX_CELLS, Cell, Confusion

    n = len(labels)
    entry = report.classes[0]
    classes = tuple(
        dataclasses.replace(entry, label=label, rows=9, student_recall=i / n, teacher_recall=(i * i % n) / n)
        for i, label in enumerate(labels)
    )
    cells = tuple(Cell(i, (i + 1) % n, n - i) for i in range(n))
    confusions = tuple(Confusion(against, n * n <= MAX_CELLS, cells) for against in ("labels", "teacher"))
    return dataclasses.replace(report, classes=classes, confusions=confusions)


def timed(report, latency_ms, accuracy, size_mb):
    """The report of a student that is as fast, as good and as large as said."""
    speeds = [Speed(ms, ms, 3, 1000 / ms, 4, 8, 2) for ms in (latency_ms, 10.0)]
    metrics = {**report.student.metrics, "accuracy": accuracy}
    student = dataclasses.replace(report.student, speed=speeds[0], size_mb=size_mb, metrics=metrics)
    teacher = dataclasses.replace(report.teacher, speed=speeds[1], size_mb=90.0)
    return dataclasses.replace(report, student=student, teacher=teacher)
