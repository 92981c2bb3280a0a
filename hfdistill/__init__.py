"""Distil BERT-style classifiers into small, fast students, and prove what was kept."""

from hfdistill.arguments import DistillationArguments, fast_bf16
from hfdistill.card import write_card
from hfdistill.checkpoint import CheckpointError, newest_checkpoint
from hfdistill.data import load
from hfdistill.hub import HubUnreachable
from hfdistill.labels import LabelSpaceError
from hfdistill.measure import measure
from hfdistill.objectives import (
    DIST,
    DKD,
    KD,
    WSL,
    Blend,
    CrossEntropy,
    LabelMSE,
    LogitMSE,
    Objective,
    register,
)
from hfdistill.pretrained import load_classifier
from hfdistill.report import Report
from hfdistill.schedules import After, Constant, Cosine, Linear, Schedule, Stairs, Step, Until
from hfdistill.students import shrink
from hfdistill.teachers import ModelTeacher, Teacher
from hfdistill.trace import Trace
from hfdistill.trainer import DistillationTrainer, NonFiniteError

__all__ = [
    "DIST",
    "DKD",
    "KD",
    "WSL",
    "After",
    "Blend",
    "CheckpointError",
    "Constant",
    "Cosine",
    "CrossEntropy",
    "DistillationArguments",
    "DistillationTrainer",
    "HubUnreachable",
    "LabelMSE",
    "LabelSpaceError",
    "Linear",
    "LogitMSE",
    "ModelTeacher",
    "NonFiniteError",
    "Objective",
    "Report",
    "Schedule",
    "Stairs",
    "Step",
    "Teacher",
    "Trace",
    "Until",
    "fast_bf16",
    "load",
    "load_classifier",
    "measure",
    "newest_checkpoint",
    "register",
    "shrink",
    "write_card",
]

__version__ = "0.1.0"
