"""`Calibration` mends a teacher's confidence: a temperature and a class prior, fitted on a few labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hfdistill.network.label_space import short, some
from hfdistill.teachers.text.class_names import column_of, folded_name


@dataclass(frozen=True)
class Calibration:
    """Logits z become z/T + b: a temperature T, and a shift b of each class.

    Args:
        temperature: T; above 1 makes the answers less sure.
        shift: b, one number a class; None for 0.
    """

    temperature: float = 1.0
    shift: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.temperature, (int, float)) and 0 < self.temperature < math.inf):
            raise ValueError(f"temperature is a number above 0, found {self.temperature!r}. Usual: 1 to 5.")

    def __call__(self, logits: Tensor) -> Tensor:
        """Return calibrated logits, (N, C); the same tensor where there is nothing to change."""
        if self.temperature != 1:
            logits = logits / self.temperature
        return logits if self.shift is None else logits + logits.new_tensor(self.shift)

    @classmethod
    def of_prior(
        cls, prior: Mapping[str, float] | Sequence[float], classes: Sequence[str], *, temperature: float = 1.0
    ) -> Calibration:
        """Return the calibration for known shares of the classes: b = log(share · C).

        It is right for a teacher that takes all classes for equally frequent, as zero-shot ones do.

        Raises:
            ValueError: for classes without a share, unknown ones, or shares that do not sum to 1.

        Example:
            >>> both = Calibration.of_prior({"spam": 0.1, "ham": 0.9}, ["ham", "spam"])
            >>> both(torch.zeros(1, 2)).softmax(-1)
            tensor([[0.9000, 0.1000]])
        """
        named = dict(prior) if isinstance(prior, Mapping) else dict(zip(classes, prior, strict=False))
        if set(named) != set(classes) or len(prior) != len(classes):
            odd = sorted(set(named) ^ set(classes)) or list(classes)
            raise ValueError(
                f"prior gives each class a share, and {some(odd)} do not match. Name each class."
            )
        shares = [float(named[name]) for name in classes]
        if not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 0.01:
            raise ValueError(
                f"prior is {short(shares)}: shares lie above 0 and sum to 1. Divide counts by their sum."
            )
        return cls(temperature, tuple(math.log(share * len(shares)) for share in shares))


def fit_calibration(
    logits: Tensor, labels: Tensor, *, multi_label: bool = False, prior: bool = True
) -> Calibration:
    """Return the temperature and class shifts under which labelled rows are likeliest.

    It minimises Σ_i CE(z_i/T + b, y_i) + (log T)²/2 + |b|²/2 (multi-label: binary cross-entropy), so that few
    rows move little: temperature scaling (Guo et al. 2017, arXiv 1706.04599) with the bias of vector scaling,
    both under a normal prior. b is centred.

    Args:
        logits: (N, C), of rows that the teacher has not learnt from.
        labels: (N,), rows labelled -100 do not count; multi-label (N, C) of 0 and 1.
        multi_label: whether classes are decided one by one.
        prior: fit b too, not T alone.
    """
    known = (labels != -100) if labels.dim() == 1 else (labels != -100).all(1)
    if not known.any():
        raise ValueError("calibrate= has no row with a label. Give texts and their labels.")
    logits, labels = logits[known].double(), labels[known]
    level = torch.zeros((), dtype=torch.float64, requires_grad=True)  # log T
    shift = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=prior)
    parameters = [level, shift] if prior else [level]
    optimizer = torch.optim.LBFGS(parameters, max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        moved = logits * (-level).exp() + shift
        fit = (
            F.binary_cross_entropy_with_logits(moved, labels.double(), reduction="sum")
            if multi_label
            else F.cross_entropy(moved, labels.long(), reduction="sum")
        )
        total: Tensor = fit + level.square() / 2 + shift.square().sum() / 2
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    moved = shift.detach() if multi_label else shift.detach() - shift.detach().mean()
    return Calibration(float(level.detach().exp()), tuple(moved.tolist()) if prior else None)


def label_ids(labels: Sequence[Any], classes: Sequence[str], *, multi_label: bool = False) -> Tensor:
    """Return labels, by name or number, as a tensor: (N,), -100 for None and NaN; multi-label (N, C).

    Raises:
        ValueError: for a label that is no class; see `column_of`.
    """
    if multi_label:
        return _targets(labels, classes)
    columns = {folded_name(name): i for i, name in enumerate(classes)}
    ids = []
    for row, label in enumerate(labels):
        label = label.item() if hasattr(label, "item") else label
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        absent = label is None or label != label or (label == -100 and not isinstance(label, str))
        column = -100 if absent else column_of(label, columns)
        if column is None:
            raise ValueError(
                f"Row {row} is labelled {short(label)}, and the classes are {some(classes)}. Name one."
            )
        ids.append(column)
    return torch.tensor(ids, dtype=torch.int64)


def _targets(labels: Sequence[Any], classes: Sequence[str]) -> Tensor:
    """Return 0 or 1 for each class of each row, (N, C)."""
    for row, own in enumerate(labels):
        fits = isinstance(own, (list, tuple)) and len(own) == len(classes)
        if not (fits and all(isinstance(value, (int, float)) for value in own)):
            raise ValueError(
                f"Row {row} is labelled {short(own)}, and 0 or 1 for each of the classes {some(classes)} was "
                "expected. Write as many numbers, in this order."
            )
    return torch.tensor(labels, dtype=torch.float32).reshape(len(labels), len(classes))
