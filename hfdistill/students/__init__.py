"""Students: ways to build the small model. All give a `PreTrainedModel`."""

from hfdistill.students.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification, bilstm_from_teacher
from hfdistill.students.cnn import CNNConfig, CNNForSequenceClassification, cnn_from_teacher
from hfdistill.students.early_exit import EarlyExitForSequenceClassification, with_exits
from hfdistill.students.importance import block_importance, most_important
from hfdistill.students.refit import Refit
from hfdistill.students.shrink import shrink
from hfdistill.students.static import StaticConfig, StaticForSequenceClassification, static_from_teacher
from hfdistill.students.vocabulary import prune_vocabulary

__all__ = [
    "BiLSTMConfig",
    "BiLSTMForSequenceClassification",
    "CNNConfig",
    "CNNForSequenceClassification",
    "EarlyExitForSequenceClassification",
    "Refit",
    "StaticConfig",
    "StaticForSequenceClassification",
    "bilstm_from_teacher",
    "block_importance",
    "cnn_from_teacher",
    "most_important",
    "prune_vocabulary",
    "shrink",
    "static_from_teacher",
    "with_exits",
]
