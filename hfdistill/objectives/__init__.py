"""The terms of a distillation loss."""

from hfdistill.network.task import TaskKind
from hfdistill.objectives.attention import AttentionKL, MiniLM, MiniLMv2, TinyBERTAttention
from hfdistill.objectives.base import Blend, Objective, Setting, as_blend, register, registered
from hfdistill.objectives.between_rows import RKD, InfoNCE
from hfdistill.objectives.exits import ExitCrossEntropy, ExitKD
from hfdistill.objectives.hidden import PKD, EmbeddingMSE, HiddenCosine, HiddenMSE
from hfdistill.objectives.logits import KD, CrossEntropy, LabelMSE, LogitMSE
from hfdistill.objectives.soft_labels import DIST, DKD, WSL, WeightedCrossEntropy
from hfdistill.schedules import Linear


def default_objective(
    task: TaskKind,
    *,
    hard: Objective | None = None,
    taught: bool = True,
    mutual: bool = False,
    ripening: bool = False,
) -> Blend:
    """Weigh hard labels and teacher alike: 0.5 * CrossEntropy() + 0.5 * KD(temperature=4).

    Args:
        task: for regression it is 0.5 * LabelMSE() + 0.5 * LogitMSE().
        hard: another term for the hard labels.
        taught: False where there is no teacher: the hard labels alone.
        mutual: True where the teacher learns too: CrossEntropy() + KD(temperature=1), as in deep mutual
            learning.
        ripening: True where the teacher knows nothing at first: CrossEntropy() + Linear(0, 1) *
            KD(temperature=1), as mean teachers are used.
    """
    regression = task == "regression"
    hard = hard or (LabelMSE() if regression else CrossEntropy())
    if not taught:
        return 1.0 * hard
    if mutual or ripening:
        soft = LogitMSE() if regression else KD(temperature=1)
        return hard + (Linear(0, 1) * soft if ripening else soft)
    return 0.5 * hard + 0.5 * (LogitMSE() if regression else KD(temperature=4))
