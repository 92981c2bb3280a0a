"""The public names: what `hfdistill.NAME` is, for every NAME in `__all__`."""

from hfdistill.arguments import DistillationArguments, fast_bf16
from hfdistill.card import write_card
from hfdistill.checkpoint import CheckpointError, newest_checkpoint
from hfdistill.crossfit import out_of_fold
from hfdistill.data import DistillationCollator, load
from hfdistill.exit_curve import exit_curve
from hfdistill.export import ExportReport, QualityGateError, export
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
    ExitCrossEntropy,
    ExitKD,
    HiddenCosine,
    HiddenMSE,
    InfoNCE,
    LabelMSE,
    LogitMSE,
    MiniLM,
    MiniLMv2,
    Objective,
    TinyBERTAttention,
    WeightedCrossEntropy,
    register,
)
from hfdistill.pretrained import load_classifier
from hfdistill.recipe import Recipe, RecipeError, read_recipe
from hfdistill.recipe.run import run_recipe
from hfdistill.report import Report
from hfdistill.schedules import After, Constant, Cosine, Linear, Schedule, Stairs, Step, Until
from hfdistill.students import (
    BiLSTMConfig,
    BiLSTMForSequenceClassification,
    StaticConfig,
    StaticForSequenceClassification,
    bilstm_from_teacher,
    block_importance,
    most_important,
    prune_vocabulary,
    shrink,
    static_from_teacher,
    with_exits,
)
from hfdistill.study import compare_runs, write_section
from hfdistill.teachers import (
    CachedTeacher,
    CacheError,
    Contents,
    EMATeacher,
    Ensemble,
    FoldTeacher,
    ModelTeacher,
    Peer,
    Teacher,
    record,
)
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
    "BiLSTMConfig",
    "BiLSTMForSequenceClassification",
    "Blend",
    "CacheError",
    "CachedTeacher",
    "CheckpointError",
    "Constant",
    "Contents",
    "Cosine",
    "CrossEntropy",
    "DistillationArguments",
    "DistillationCollator",
    "DistillationTrainer",
    "EMATeacher",
    "EmbeddingMSE",
    "Ensemble",
    "ExitCrossEntropy",
    "ExitKD",
    "ExportReport",
    "FoldTeacher",
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
    "Peer",
    "QualityGateError",
    "Recipe",
    "RecipeError",
    "Report",
    "Schedule",
    "Stairs",
    "StaticConfig",
    "StaticForSequenceClassification",
    "Step",
    "Tap",
    "Teacher",
    "TinyBERTAttention",
    "Trace",
    "Until",
    "WeightedCrossEntropy",
    "bilstm_from_teacher",
    "block_importance",
    "compare_runs",
    "exit_curve",
    "export",
    "fast_bf16",
    "load",
    "load_classifier",
    "measure",
    "most_important",
    "newest_checkpoint",
    "out_of_fold",
    "prune_vocabulary",
    "read_recipe",
    "record",
    "register",
    "run_recipe",
    "shrink",
    "static_from_teacher",
    "with_exits",
    "write_card",
    "write_section",
]
