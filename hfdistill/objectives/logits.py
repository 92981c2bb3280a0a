"""Objectives on the logits: hard labels, Hinton's soft labels, logit matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from hfdistill.files.plain_data import as_python
from hfdistill.network.label_space import in_order, some
from hfdistill.network.task import missing
from hfdistill.network.trace import Trace
from hfdistill.objectives.base import Objective, Setting, positive, register
from hfdistill.objectives.row_weights import Trust, check_trust, shifted, trust
from hfdistill.schedules import Schedule, is_number

TINY = torch.finfo(torch.float32).tiny


def as_float64(logits: Tensor) -> Tensor:
    """Convert to float64, where the device has it: a KL is often the small difference of large numbers."""
    return logits.to(torch.float32 if logits.device.type == "mps" else torch.float64)


def standardised(logits: Tensor) -> Tensor:
    """Return each row less its mean, over its deviation (C - 1 degrees of freedom) + 1e-7: (B, C)."""
    return (logits - logits.mean(-1, keepdim=True)) / (logits.std(-1, keepdim=True) + 1e-7)


def refuse_standardised(name: str, setting: Setting) -> None:
    """Refuse standardised logits where they mean nothing: two of them, or several labels a row."""
    if setting.task == "multi_label":
        raise ValueError(
            f"{name}(standardise=True) puts the classes of a row on one scale, but multi-label classes are "
            "decided one by one. Leave standardise out."
        )
    if setting.classes == 2:
        raise ValueError(
            f"{name}(standardise=True) sees the same two numbers in every row of two logits, ±0.71, so the "
            "teacher's confidence is lost and the student gets no gradient. Leave standardise out, as in "
            "KD(temperature=4)."
        )


@register("cross_entropy")
class CrossEntropy(Objective):
    """Cross-entropy of the student with the hard labels; rows labelled -100 do not count.

    Single label: L = -(1/n) Σ_b log softmax(z_b)[y_b]; where words are labelled, n counts them. Multi-label:
    binary cross-entropy with logits, mean over the B·C labels that are not -100.

    Args:
        label_smoothing: ε in [0, 1): the target is (1 - ε) on the label and ε/C everywhere (Szegedy et al.
            2016, arXiv 1512.00567). None takes the run's `label_smoothing_factor`.
        class_weights: C positive weights, in the order of the student's classes or by their names, as in
            {"spam": 9, "ham": 1}. Single label: the weighted mean of `torch.nn.CrossEntropyLoss`.
            Multi-label: the weight of the positive label, `pos_weight`.

    Raises:
        ValueError: at construction for values out of range; at `bind` for regression, for a number of weights
            other than C or names that are not those of the classes, or for label smoothing that the run sets
            to another value or that is multi-label.
    """

    needs_labels: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False

    def __init__(
        self,
        *,
        label_smoothing: float | None = None,
        class_weights: Sequence[float] | Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        label_smoothing, class_weights = as_python(label_smoothing), as_python(class_weights)
        values: list[Any] | None = None
        if isinstance(class_weights, Mapping):
            class_weights = {name: as_python(weight) for name, weight in class_weights.items()}
            values = list(class_weights.values())
        elif class_weights is not None:
            values = in_order(class_weights)
        if label_smoothing is not None and not (is_number(label_smoothing) and 0 <= label_smoothing < 1):
            raise ValueError(f"label_smoothing lies in [0, 1), found {label_smoothing!r}. Usual: 0.1.")
        if class_weights is not None and not (values and all(is_number(w) and w > 0 for w in values)):
            raise ValueError(
                f"class_weights are positive numbers, one per class; found {class_weights!r}. Give a list in "
                "the order of the student's classes, or a dict by their names."
            )
        self.label_smoothing = label_smoothing
        by_name = values is None or isinstance(class_weights, Mapping)
        weights = None if by_name else torch.tensor(values, dtype=torch.float32)
        self.register_buffer("_weights", weights, persistent=False)  # by name: once bound
        self._weights: Tensor | None
        self.class_weights = class_weights if weights is None else weights.tolist()
        self._smoothing = label_smoothing or 0.0
        self._multi_label = False

    def bind(self, setting: Setting) -> None:
        """Take over the task and the run's label smoothing."""
        if setting.task == "regression" or (setting.task != "multi_label" and setting.classes == 1):
            raise ValueError(
                "CrossEntropy needs classes, but the student has one output. Use LabelMSE() and leave "
                "config.problem_type empty, or load the student with num_labels=2."
            )
        if isinstance(self.class_weights, Mapping):
            self._weights = torch.tensor(_in_order(self.class_weights, setting.class_names))
        elif self.class_weights is not None and len(self.class_weights) != setting.classes:
            raise ValueError(
                f"CrossEntropy has {len(self.class_weights)} class_weights for {setting.classes} classes. "
                "Give one weight per class, in the order of the student's id2label."
            )
        own, run = self.label_smoothing, setting.label_smoothing
        if own is not None and run and own != run:
            raise ValueError(
                f"Label smoothing is set twice: CrossEntropy(label_smoothing={own}) and "
                f"label_smoothing_factor={run} in the arguments. Leave one of them out."
            )
        self._smoothing = run if own is None else own
        self._multi_label = setting.task == "multi_label"
        if self._multi_label and self._smoothing:
            raise ValueError(
                "Label smoothing has no meaning for multi-label targets. Leave label_smoothing at 0."
            )

    def count(self, labels: Tensor) -> Tensor:
        """Count labelled rows (their class weights, where given); multi-label: labelled elements."""
        known = ~missing(labels)
        weights = self._by_class(labels.device)
        if weights is None or self._multi_label:
            return known.sum().float()
        return weights[labels.clamp(min=0)].where(known, 0.0).sum()

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Return the mean over labelled rows; see `Objective.forward`."""
        logits = student.logits.float()  # (B, C)
        weights = self._by_class(logits.device)
        if self._multi_label:
            known = ~missing(labels)
            targets = labels.float().where(known, 0.0)  # a NaN left in would reach the gradient
            each = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="none")
            total = each.where(known, 0.0).sum()
        else:
            total = F.cross_entropy(
                logits,
                labels,
                weight=weights,
                label_smoothing=self._smoothing,
                ignore_index=-100,
                reduction="sum",
            )
        return total / self.count(labels).clamp(min=TINY)

    def _by_class(self, device: torch.device) -> Tensor | None:
        if self._weights is None and self.class_weights is not None:
            raise ValueError(
                f"class_weights={self.class_weights!r} go by name, and the order of the classes is not known "
                "before bind, which a trainer calls. Call bind(Setting(...)), or give a list in their order."
            )
        return None if self._weights is None else self._weights.to(device)


def _in_order(weights: Mapping[Any, float], names: Sequence[str]) -> list[float]:
    """Return weights by class in the order of the classes; refuse other names than theirs."""
    by_name = {str(name): float(weight) for name, weight in weights.items()}
    numbers = [str(number) for number in range(len(names))]
    order = next((keys for keys in (names, numbers) if by_name.keys() == set(keys)), None)
    if order is None:
        unknown = [name for name in by_name if name not in names]
        missing = [name for name in names if name not in by_name]
        raise ValueError(
            f"class_weights names {some(list(by_name))}, and the student's classes are {some(names)}"
            f"{f'; it has no {some(unknown)}' if unknown else ''}"
            f"{f'; no weight for {some(missing)}' if missing else ''}. Give one weight for each class, 1 "
            "where it is to count as before."
        )
    return [by_name[name] for name in order]


class LabelledRows(Objective):
    """A term on rows with a label; the others do not count."""

    needs_labels: ClassVar[bool] = True

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of labelled rows."""
        return (~missing(labels)).sum().float()

    def mean(self, each: Tensor, labels: Tensor) -> Tensor:
        """Return the mean of (B,) over labelled rows, float32; 0 where there is none."""
        total = each.where(~missing(labels), 0.0).sum()
        return (total / self.count(labels).clamp(min=TINY)).float()


@register("label_mse")
class LabelMSE(LabelledRows):
    """Squared error of the student's output against the gold value, for regression: L = (1/n) Σ (z - y)².

    Rows whose value is NaN are unlabelled and do not count.

    Raises:
        ValueError: at `bind` for other tasks.
    """

    needs_teacher: ClassVar[bool] = False

    def bind(self, setting: Setting) -> None:
        """Refuse classes."""
        if setting.task != "regression":
            raise ValueError(
                f"LabelMSE fits regression, but the task is {setting.task}. Use CrossEntropy() instead."
            )

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Return the mean over labelled rows; see `Objective.forward`."""
        values = student.logits.float().view(-1)
        gold = labels.float().where(~missing(labels), values.detach())  # a NaN would reach the gradient
        return self.mean((values - gold).square(), labels)


@register("kd")
class KD(Objective):
    """Hinton's soft labels: L = T² · (1/B) Σ_b KL(softmax(z_t/T) ‖ softmax(z_s/T)).

    Multi-label: T² times the mean over B·C of KL between Bernoullis of sigmoid(z/T). T² keeps the size of the
    gradient when T changes. Reduction: batchmean. Computed in float64, where the device has it: at high T the
    value is the small difference of large numbers, of which float32 keeps few digits.

    Hinton, Vinyals, Dean 2015, arXiv 1503.02531. High temperatures show what the teacher thinks of the wrong
    classes; T → ∞ is the squared error of centred logits. With two classes there is one wrong class, and the
    temperature only sets how much confident rows count. Usual: 1 to 8.

    `standardise=True` puts each row of logits, the student's and the teacher's, to mean 0 and standard
    deviation 1 before the temperature (Sun, Ren, Li, Wang, Cao 2024, arXiv 2403.01427): the student copies
    how the teacher ranks and spaces classes, not how large its logits are. The paper takes T = 2 and a
    weight near 9. For many classes and a much larger teacher; the size of the student's logits is then
    free, so look at calibration.

    Where the teacher errs and labels can be trusted, `probability_shift=True` swaps its largest probability
    with that of the label in each row where they are not the same class (Wen, Lai, Qian 2019, arXiv
    1911.07471; TextBrewer, arXiv 2002.12620): what it says of the other classes is kept. Rows without a label
    stay as they are. Not where labels are noisy: it would teach the noise.

    `weight_by` weighs rows: L = T² · (1/B) Σ_b w_b KL_b. "confidence" takes w = max_c p_t(c) at T = 1, which
    needs no label (the weight of CWTM, Furlanello et al. 2018, arXiv 1805.04770, which puts it on hard labels
    and divides it by its sum over the batch; here it is left as it is, so that the value does not depend on
    how rows are split). "entropy" takes w = 1 - H(p_t)/log C, which is 0 where the teacher knows nothing: for
    teachers that are often unsure, such as zero-shot ones. "label" takes w = 1/(1 + CE(y, z_t)) (MT-BERT, Wu,
    Wu, Huang 2021, arXiv 2106.01023), which halves a row on which the teacher is at a loss and drops one on
    which it is surely wrong; a row without a label weighs 1. `WSL` also asks what the student knows by now.

    Args:
        temperature: T > 0, or a schedule of it.
        standardise: compare standardised logits.
        probability_shift: put the teacher right where it contradicts the label.
        weight_by: "confidence", "entropy" or "label"; None weighs all rows alike.

    Raises:
        ValueError: at construction for T ≤ 0 or another `weight_by`; at `bind` for regression (one output has
            no distribution), for standardised logits of two classes (they are constant), and for
            standardised, shifted or weighted rows of several labels.
    """

    def __init__(
        self,
        *,
        temperature: float | Schedule = 4.0,
        standardise: bool = False,
        probability_shift: bool = False,
        weight_by: Trust | None = None,
    ) -> None:
        super().__init__()
        self.probability_shift = probability_shift
        self.weight_by = None if weight_by is None else check_trust("KD", weight_by)
        self.temperature = positive(temperature, "KD needs a temperature", usual="1 to 8")
        self.standardise = standardise
        self._multi_label = False

    def bind(self, setting: Setting) -> None:
        """Choose softmax or sigmoid."""
        if setting.task == "regression" or (setting.task != "multi_label" and setting.classes == 1):
            raise ValueError(
                "KD compares distributions over classes, and one output has none: its KL is 0 for ever. "
                "Use LogitMSE() for regression."
            )
        if self.standardise:
            refuse_standardised("KD", setting)
        if setting.task == "multi_label" and (self.probability_shift or self.weight_by):
            raise ValueError(
                f"{self!r} needs rows of which one class is right, but multi-label classes are decided one "
                "by one. Leave probability_shift and weight_by out."
            )
        self._multi_label = setting.task == "multi_label"

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Return the mean over all rows; see `Objective.forward`."""
        temperature = self.now(self.temperature)
        s, t = as_float64(student.logits), as_float64(teacher.logits)  # (B, C)
        weights = 1.0 if self.weight_by is None else trust(t, labels, by=self.weight_by)
        if self.probability_shift:
            t = shifted(t, labels)
        if self.standardise:
            s, t = standardised(s), standardised(t)
        s, t = s / temperature, t / temperature
        if self._multi_label:
            kl = t.sigmoid() * (F.logsigmoid(t) - F.logsigmoid(s))
            kl = (kl + (-t).sigmoid() * (F.logsigmoid(-t) - F.logsigmoid(-s))).mean()
        else:
            each = F.kl_div(F.log_softmax(s, -1), F.log_softmax(t, -1), reduction="none", log_target=True)
            kl = (weights * each.sum(-1)).mean()
        return (temperature**2 * kl).float()


@register("logit_mse")
class LogitMSE(Objective):
    """Squared error of the logits: L = (1/(B·C)) Σ (z_s - φ·z_t)². No temperature.

    Ba and Caruana 2014, arXiv 1312.6184; Tang et al. 2019, arXiv 1903.12136 (BERT into a BiLSTM). Fits
    every task: for regression it is the way to learn from a teacher. With a scale φ that climbs to 1 it is
    annealing KD (see `Stairs`), for students far smaller than their teacher.

    Args:
        scale: φ > 0, or a schedule of it; None is 1.

    Raises:
        ValueError: for a scale that is not above 0.
    """

    def __init__(self, *, scale: float | Schedule | None = None) -> None:
        super().__init__()
        self.scale = None if scale is None else positive(scale, "LogitMSE needs a scale", usual="Stairs(10)")

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Return the mean over all rows and classes; see `Objective.forward`."""
        scale = 1.0 if self.scale is None else self.now(self.scale)
        return F.mse_loss(student.logits.float(), scale * teacher.logits.float())
