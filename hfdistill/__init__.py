"""Distil BERT-style classifiers into small, fast students, and prove what was kept."""

from hfdistill.arguments import DistillationArguments, fast_bf16
from hfdistill.card import write_card
from hfdistill.checkpoint import CheckpointError, newest_checkpoint
from hfdistill.data import load
from hfdistill.hub import HubUnreachable
from hfdistill.labels import LabelSpaceError
from hfdistill.layermap import LayerMap
from hfdistill.measure import measure
from hfdistill.objectives import (
    DIST,
    DKD,
    KD,
    PKD,
    RKD,
    WSL,
    AttentionKL,
    Blend,
    CrossEntropy,
    EmbeddingMSE,
    HiddenCosine,
    HiddenMSE,
    InfoNCE,
    LabelMSE,
    LogitMSE,
    MiniLM,
    MiniLMv2,
    Objective,
    TinyBERTAttention,
    register,
)
from hfdistill.pretrained import load_classifier
from hfdistill.report import Report
from hfdistill.schedules import After, Constant, Cosine, Linear, Schedule, Stairs, Step, Until
from hfdistill.students import shrink
from hfdistill.study import compare_runs, write_section
from hfdistill.teachers import CachedTeacher, CacheError, Contents, ModelTeacher, Teacher, record
from hfdistill.trace import Tap, Trace
from hfdistill.trainer import DistillationTrainer, NonFiniteError

__all__ = [
    "DIST",
    "DKD",
    "KD",
    "PKD",
    "RKD",
    "WSL",
    "After",
    "AttentionKL",
    "Blend",
    "CacheError",
    "CachedTeacher",
    "CheckpointError",
    "Constant",
    "Contents",
    "Cosine",
    "CrossEntropy",
    "DistillationArguments",
    "DistillationTrainer",
    "EmbeddingMSE",
    "HiddenCosine",
    "HiddenMSE",
    "HubUnreachable",
    "InfoNCE",
    "LabelMSE",
    "LabelSpaceError",
    "LayerMap",
    "Linear",
    "LogitMSE",
    "MiniLM",
    "MiniLMv2",
    "ModelTeacher",
    "NonFiniteError",
    "Objective",
    "Report",
    "Schedule",
    "Stairs",
    "Step",
    "Tap",
    "Teacher",
    "TinyBERTAttention",
    "Trace",
    "Until",
    "compare_runs",
    "fast_bf16",
    "load",
    "load_classifier",
    "measure",
    "newest_checkpoint",
    "record",
    "register",
    "shrink",
    "write_card",
    "write_section",
]

__version__ = "0.1.0"
