"""Soft labels beyond KD: target and other classes apart (DKD), correlations (DIST), weighted rows (WSL)."""

from __future__ import annotations

import warnings
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from hfdistill.network.trace import Trace
from hfdistill.objectives.base import Objective, Setting, positive, register
from hfdistill.objectives.logits import LabelledRows, as_float64, refuse_standardised, standardised
from hfdistill.objectives.row_weights import Trust, check_trust, trust
from hfdistill.schedules import Schedule, is_number


class RowsOfOneClass(LabelledRows):
    """A soft loss that reads each row's class: rows labelled -100 do not count."""

    def bind(self, setting: Setting) -> None:
        """Refuse all but one label of several classes."""
        _refuse_other_tasks(type(self).__name__, setting)


@register("dkd")
class DKD(RowsOfOneClass):
    """Decoupled KD: L = T² · (1/n) Σ_b (α·TCKD_b + β·NCKD_b) over the n labelled rows.

    With p = softmax(z/T) and y the row's label, TCKD = KL((p_t[y], 1 - p_t[y]) ‖ (p_s[y], 1 - p_s[y])) says
    how sure the teacher is of the label, and NCKD = KL(p̂_t ‖ p̂_s), p̂ the softmax over the other C - 1
    classes, says how it ranks the rest. KD is TCKD + (1 - p_t[y])·NCKD: a sure teacher hides what it thinks
    of the rest, and DKD brings it back. Reduction: batchmean over labelled rows. Computed in float64, as KD
    is.

    Zhao, Cui, Song, Qiu, Liang 2022, arXiv 2203.08679; α, β and T are its names. For many classes
    (Banking77), where the teacher is sure; the paper adds CrossEntropy() with weight 1 and warms up over 20
    epochs: `CrossEntropy() + Linear(0, 1, until=0.1) * DKD()`. Smaller β (0.5 to 2) where the teacher is
    far better than the student. Not for rows without labels: they do not count, so use KD there.

    Args:
        alpha: α ≥ 0, the weight of the target class.
        beta: β ≥ 0, the weight of the others.
        temperature: T > 0, or a schedule of it.
        standardise: compare standardised logits; see `KD`.

    Raises:
        ValueError: at construction for values out of range; at `bind` for tasks other than one label of
            several classes, and for two classes where nothing is left to learn (α = 0, or standardised
            logits).

    Warns:
        UserWarning: at `bind` with two classes, where NCKD is 0 and DKD is α·KD.
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float | Schedule = 4.0,
        standardise: bool = False,
    ) -> None:
        super().__init__()
        _check_weights("DKD", {"alpha": alpha, "beta": beta}, usual="alpha=1, beta=8")
        self.alpha, self.beta = alpha, beta
        self.temperature = positive(temperature, "DKD needs a temperature", usual="1 to 4")
        self.standardise = standardise

    def bind(self, setting: Setting) -> None:
        """Refuse other tasks; two classes leave KD."""
        super().bind(setting)
        if self.standardise:
            refuse_standardised("DKD", setting)
        if setting.classes > 2:
            return
        message = "DKD with two classes has one class beside the target, so its non-target term is 0 for ever"
        instead = f"KD(temperature={self.temperature!r})"
        if not self.alpha:
            raise ValueError(f"{message}, and alpha=0 leaves no other. Use {instead}.")
        _warn(f"{message} and beta does nothing: it is {self.alpha:g} * KD. Use {instead}.")

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Return the mean over labelled rows; see `Objective.forward`."""
        temperature = self.now(self.temperature)
        s, t = as_float64(student.logits), as_float64(teacher.logits)  # (B, C)
        if self.standardise:
            s, t = standardised(s), standardised(t)
        target, others = decoupled(s / temperature, t / temperature, labels)
        return self.mean(temperature**2 * (self.alpha * target + self.beta * others), labels)


def decoupled(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return TCKD and NCKD of each row.

    Args:
        student: logits over the temperature, (B, C), C ≥ 2.
        teacher: the same.
        labels: (B,); a row labelled -100 is taken for class 0, for the caller to leave out.

    Returns:
        Two tensors (B,).
    """
    y = labels.clamp(min=0)[:, None]  # (B, 1)
    others = torch.arange(student.shape[-1] - 1, device=labels.device)  # (C - 1,)
    others = others + (others >= y)  # (B, C - 1): every class but y
    (s_two, s_rest), (t_two, t_rest) = (_two_and_rest(z, y, others) for z in (student, teacher))
    return _kl(s_two, t_two), _kl(s_rest, t_rest)


def _two_and_rest(logits: Tensor, y: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of target against the rest (B, 2), and within the rest (B, C - 1)."""
    rest = logits.gather(-1, others)
    two = torch.cat([logits.gather(-1, y), rest.logsumexp(-1, keepdim=True)], dim=-1)
    return two.log_softmax(-1), rest.log_softmax(-1)


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher ‖ student) of each row of log-probabilities, (B,)."""
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)


@register("dist")
class DIST(Objective):
    """Correlations instead of equality: L = T² · (inter·L_inter + intra·L_intra).

    With Y = softmax(z/T), (B, C), and ρ Pearson's correlation, L_inter = 1 - (1/B) Σ_b ρ(Y_s[b], Y_t[b]) asks
    for the teacher's order of classes within a row, and L_intra = 1 - (1/C) Σ_c ρ(Y_s[:, c], Y_t[:, c]) for
    its order of rows within a class. Reduction: mean over rows, mean over classes. Computed in float64, as KD
    is.

    Huang, You, Wang, Qian, Xu 2022, arXiv 2205.10536. For a teacher much stronger than the student, whose
    probabilities the student cannot match exactly. The authors weigh it 2 beside CrossEntropy() and take
    T = 1 (ImageNet) or 4 (CIFAR-100). L_intra reads the batch as one: it depends on how rows are batched (per
    device, per micro-batch), and wants 16 rows or more; for a single row it is 0.

    A row or column that does not vary, to 1e-8 of its size, has no correlation: ρ is 1 where both sides do
    not vary, else 0, without a gradient. (The authors add 1e-8 to the denominator instead, so that a class
    nearly absent from the batch costs 1 even where student and teacher agree.)

    Args:
        inter: weight ≥ 0 of the rows' term.
        intra: weight ≥ 0 of the columns' term.
        temperature: T > 0, or a schedule of it.

    Raises:
        ValueError: at construction for values out of range; at `bind` for tasks other than one label of
            several classes, and for two classes with intra=0, where nothing is left to learn.

    Warns:
        UserWarning: at `bind` with two classes, where L_inter is constant.
    """

    additive: ClassVar[bool] = False

    def __init__(
        self, *, inter: float = 1.0, intra: float = 1.0, temperature: float | Schedule = 1.0
    ) -> None:
        super().__init__()
        _check_weights("DIST", {"inter": inter, "intra": intra}, usual="inter=1, intra=1")
        self.inter, self.intra = inter, intra
        self.temperature = positive(temperature, "DIST needs a temperature", usual="1 to 4")

    def bind(self, setting: Setting) -> None:
        """Refuse other tasks; two classes leave the intra-class term."""
        if setting.task == "token":
            raise ValueError(
                "DIST correlates the rows of a batch, and the words of a few texts are no such rows. Use "
                "KD() where words are labelled."
            )
        _refuse_other_tasks("DIST", setting)
        if setting.classes > 2 or not self.inter:
            return
        message = "DIST with two classes has inter-class correlations of 1 or -1 alone, without a gradient"
        if not self.intra:
            raise ValueError(f"{message}, and intra=0 leaves no other term. Use KD(temperature=4).")
        _warn(f"{message}, and only the intra-class term teaches. Use DIST(inter=0), or KD(temperature=4).")

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Return the means over rows and over classes; see `Objective.forward`."""
        temperature = self.now(self.temperature)
        s, t = (
            (as_float64(trace.logits) / temperature).softmax(-1) for trace in (student, teacher)
        )  # (B, C)
        loss = s.new_zeros(())
        if self.inter:
            loss = loss + self.inter * _one_less_correlation(s, t).mean()
        if self.intra and len(s) > 1:
            loss = loss + self.intra * _one_less_correlation(s.T, t.T).mean()
        return (temperature**2 * loss).float()


def _one_less_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - ρ of each pair of rows, as ½‖u - v‖² of their directions: exactly 0 where they are equal."""
    (u, u_varies), (v, v_varies) = _direction(student), _direction(teacher)
    far = (u - v).square().sum(-1) / 2
    return far.where(u_varies & v_varies, (u_varies | v_varies).to(far.dtype))


def _direction(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row less its mean, at length 1, and whether it varies at all."""
    centred = rows - rows.mean(-1, keepdim=True)
    number = torch.finfo(rows.dtype)
    share, smallest = max(1e-8, 64 * number.eps), number.tiny**0.5 / number.eps  # whose square is still exact
    length = centred.norm(dim=-1, keepdim=True)
    varies = length > (share * rows.norm(dim=-1, keepdim=True)).clamp(min=smallest)
    return centred / length.where(varies, 1.0), varies[..., 0]


@register("wsl")
class WSL(RowsOfOneClass):
    """Weighted soft labels: L = T² · (1/n) Σ_b w_b · KL(softmax(z_t/T) ‖ softmax(z_s/T)), n labelled rows.

    w_b = 1 - exp(-c_s/(c_t + 1e-7)), with c_s and c_t the cross-entropies of student and teacher with the
    row's label at T = 1. It is near 0 where the student already knows the row better than the teacher, near
    1 where the teacher does. No gradient passes through w. The paper writes cross-entropy with the soft
    labels in place of KL: the gradient is the same, and KL is 0 where student and teacher agree. Reduction:
    batchmean over labelled rows. Computed in float64, as KD is.

    Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang 2021, arXiv 2102.00650; its loss is
    `CrossEntropy() + 2.5 * WSL()`. For teachers that are wrong on some labelled rows, where KD would teach
    the mistake. Fits two classes. Not where labels are noisy: it trusts them to judge the teacher. Rows
    without a label do not count.

    Args:
        temperature: T > 0, or a schedule of it.

    Raises:
        ValueError: at construction for T ≤ 0; at `bind` for tasks other than one label of several classes.
    """

    def __init__(self, *, temperature: float | Schedule = 2.0) -> None:
        super().__init__()
        self.temperature = positive(temperature, "WSL needs a temperature", usual="1 to 4")

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Return the mean over labelled rows; see `Objective.forward`."""
        temperature = self.now(self.temperature)
        s, t = as_float64(student.logits), as_float64(teacher.logits)  # (B, C)
        c_s, c_t = (F.cross_entropy(z.detach(), labels, reduction="none") for z in (s, t))  # -100 gives 0
        weights = -torch.expm1(-c_s / (c_t + 1e-7))  # (B,)
        kl = _kl((s / temperature).log_softmax(-1), (t / temperature).log_softmax(-1))
        return self.mean(temperature**2 * weights * kl, labels)


@register("weighted_cross_entropy")
class WeightedCrossEntropy(RowsOfOneClass):
    """Hard labels, each weighted by the teacher's support for it: L = (1/n) Σ_b w_b CE(y_b, z_s,b).

    `by="confidence"`: w = max_c p_t(c) at T = 1, CWTM of born-again networks (Furlanello, Lipton, Tschannen,
    Itti, Anandkumar 2018, arXiv 1805.04770), which divides w by its sum over the batch; here the mean is over
    the n labelled rows, so that the value does not depend on how rows are split. `by="label"`: w = 1/(1 +
    CE(y, z_t)) (the weight of MT-BERT, Wu, Wu, Huang 2021, arXiv 2106.01023): a label that the teacher finds
    absurd weighs little. Reduction: mean over labelled rows. Computed in float64, as KD is.

    `by="label"` is for noisy labels, with a teacher that has not seen the row it judges: one that has learnt
    the noise by heart finds nothing absurd, so use `out_of_fold`. Not for a teacher weaker than the labels:
    there it is `CrossEntropy()` that corrects the teacher, or `KD(probability_shift=True)`.

    Args:
        by: "confidence" or "label".

    Raises:
        ValueError: at construction for another `by`; at `bind` for tasks other than one label of several
            classes.
    """

    def __init__(self, *, by: Trust = "confidence") -> None:
        super().__init__()
        self.by = check_trust("WeightedCrossEntropy", by)

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Return the mean over labelled rows; see `Objective.forward`."""
        s, t = as_float64(student.logits), as_float64(teacher.logits)  # (B, C)
        each = F.cross_entropy(s, labels, ignore_index=-100, reduction="none")  # (B,)
        return self.mean(trust(t, labels, by=self.by) * each, labels)


def _refuse_other_tasks(name: str, setting: Setting) -> None:
    if setting.task == "multi_label":
        raise ValueError(
            f"{name} compares classes of which one is right, but the task is multi_label. Use KD(), which "
            "compares each class on its own there."
        )
    if setting.task == "regression" or setting.classes == 1:
        raise ValueError(
            f"{name} compares distributions over classes, and one output has none. Use LogitMSE() there."
        )


def _check_weights(name: str, weights: dict[str, float], *, usual: str) -> None:
    values = ", ".join(f"{key}={value!r}" for key, value in weights.items())
    if not all(is_number(value) and value >= 0 for value in weights.values()):
        raise ValueError(
            f"{name} weighs its two terms with numbers from 0 up, found {values}. Usual: {usual}."
        )
    if not any(weights.values()):
        raise ValueError(f"{name} without weight on either term learns nothing: {values}. Usual: {usual}.")


def _warn(message: str) -> None:
    """Warn, and do not log: the formula is the caller's to change, and -W may make it an error."""
    warnings.warn(message, UserWarning, stacklevel=4)
