"""Distil BERT-style classifiers into small, fast students, and prove what was kept."""

from hfdistill.arguments import DistillationArguments
from hfdistill.labels import LabelSpaceError
from hfdistill.objectives import KD, Blend, CrossEntropy, LabelMSE, LogitMSE, Objective, register
from hfdistill.teachers import ModelTeacher, Teacher
from hfdistill.trace import Trace
from hfdistill.trainer import DistillationTrainer, NonFiniteError

__all__ = [
    "KD",
    "Blend",
    "CrossEntropy",
    "DistillationArguments",
    "DistillationTrainer",
    "LabelMSE",
    "LabelSpaceError",
    "LogitMSE",
    "ModelTeacher",
    "NonFiniteError",
    "Objective",
    "Teacher",
    "Trace",
    "register",
]

__version__ = "0.1.0"
