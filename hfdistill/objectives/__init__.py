"""The terms of a distillation loss."""

from hfdistill.objectives.attention import AttentionKL, MiniLM, MiniLMv2, TinyBERTAttention
from hfdistill.objectives.base import Blend, Objective, Setting, as_blend, register, registered
from hfdistill.objectives.between_rows import RKD, InfoNCE
from hfdistill.objectives.defaults import default_objective, recommended_objective
from hfdistill.objectives.exits import ExitCrossEntropy, ExitKD
from hfdistill.objectives.hidden import PKD, EmbeddingMSE, HiddenCosine, HiddenMSE
from hfdistill.objectives.logits import KD, CrossEntropy, LabelMSE, LogitMSE
from hfdistill.objectives.soft_labels import DIST, DKD, WSL, WeightedCrossEntropy
