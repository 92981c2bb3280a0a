"""The objectives of a run that names none: the textbook one, and the recommended one."""

from __future__ import annotations

from collections.abc import Callable

from hfdistill.network.layer_map import Layers
from hfdistill.network.task import TaskKind
from hfdistill.objectives.attention import MiniLMv2, TinyBERTAttention
from hfdistill.objectives.base import Blend, Objective, Setting, as_blend
from hfdistill.objectives.hidden import HiddenMSE
from hfdistill.objectives.logits import KD, CrossEntropy, LabelMSE, LogitMSE
from hfdistill.schedules import Linear


def default_objective(
    task: TaskKind,
    *,
    hard: Objective | None = None,
    has_teacher: bool = True,
    mutual: bool = False,
    ripening: bool = False,
) -> Blend:
    """Weigh hard labels and teacher alike: 0.5 * CrossEntropy() + 0.5 * KD(temperature=4).

    Args:
        task: for regression it is 0.5 * LabelMSE() + 0.5 * LogitMSE().
        hard: another term for the hard labels.
        has_teacher: False where there is no teacher: the hard labels alone.
        mutual: True where the teacher learns too: CrossEntropy() + KD(temperature=1), as in deep mutual
            learning.
        ripening: True where the teacher knows nothing at first: CrossEntropy() + Linear(0, 1) *
            KD(temperature=1), as mean teachers are used.
    """
    regression = task == "regression"
    hard = hard or (LabelMSE() if regression else CrossEntropy())
    if not has_teacher:
        return 1.0 * hard
    if mutual or ripening:
        soft = LogitMSE() if regression else KD(temperature=1)
        return hard + (Linear(0, 1) * soft if ripening else soft)
    return 0.5 * hard + 0.5 * (LogitMSE() if regression else KD(temperature=4))


def recommended_objective(
    setting: Setting, *, layers: Layers = "uniform", check: Callable[[Blend], None] | None = None
) -> tuple[Blend, list[str]]:
    """Add hidden states and attention to the default objective, as far as two networks let them be compared.

    0.5 * CrossEntropy() + 0.5 * KD(temperature=4) + HiddenMSE() + TinyBERTAttention()

    Where the attention of every head cannot be compared, relations of query, key and value take its place
    (`MiniLMv2`); where nothing inside can be, and for a student without attention, the logits are left. For
    regression the first two terms are LabelMSE and LogitMSE.

    Args:
        setting: of the run: the task, and the sizes of both networks.
        layers: which layer of the student learns from which one of the teacher.
        check: raises ValueError for an objective that cannot look inside, whatever the sizes.

    Returns:
        The objective, not yet bound, and a sentence for each term that was left out: why.
    """
    blend, reasons = default_objective(setting.task), list[str]()
    if setting.student is None or setting.teacher is None:
        whose = "student" if setting.student is None else "teacher"
        return blend, [f"the {whose} has no layers that are known"]
    if not setting.student.heads:
        return blend, ["the student has no attention"]
    if not setting.same_tokens:
        return blend, ["student and teacher read different tokens"]
    attention = TinyBERTAttention(layers=layers)
    tried: list[list[Objective]] = [[HiddenMSE(layers=layers)], [attention, MiniLMv2()]]
    for choices in tried:
        for term in choices:
            reason = _misfit(term, setting, check)
            if reason is None:
                blend = blend + term
                break
            reasons.append(reason)
    return blend, list(dict.fromkeys(reasons))


def _misfit(term: Objective, setting: Setting, check: Callable[[Blend], None] | None) -> str | None:
    """Return one sentence on why a term cannot be used; None where it can."""
    try:
        term.bind(setting)
        if check is not None:
            check(as_blend(term))
    except ValueError as error:
        return str(error).split(". ")[0].rstrip(".")
    return None
