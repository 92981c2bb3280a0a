"""Scores of logits, in float64: what each task reports, and how close a student comes to its teacher."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from scipy.special import log_expit, log_softmax
from scipy.stats import rankdata
from sklearn.metrics import f1_score

from hfdistill.evaluation.metrics.agreement import agreement
from hfdistill.evaluation.metrics.calibration import expected_calibration_error

Array = np.ndarray[Any, np.dtype[Any]]
Scores = dict[str, float | None]

_PREFIXES = ("B-", "I-", "E-", "S-", "L-", "U-")  # of tags that make up entities
Z95 = 1.959963984540054


def scores(kind: str, logits: Array, labels: Array) -> Scores:
    """Return the scores of a model of this task on labelled rows.

    single_label: accuracy, accuracy_se, macro_f1, ece (15 bins), nll. multi_label (label set = logits > 0):
    subset_accuracy, subset_accuracy_se, micro_f1, macro_f1, nll (mean over rows and labels). regression: mse,
    pearson, spearman. token: as single_label with words as rows, but no standard error, since the words of a
    text are not drawn one by one. A standard error is `sqrt(p(1-p)/n)`. Macro F1 is the mean over classes
    that occur in labels or predictions (scikit-learn's rule for one label a row, here for several, too). A
    correlation with a constant is undefined: None.

    Args:
        kind: the task, as `hfdistill.network.task.task_kind` names it.
        logits: (rows, C); regression (rows, 1).
        labels: class ids (rows,), 0/1 (rows, C), or numbers (rows,).
    """
    x = logits.astype(np.float64)
    if kind == "single_label":
        return _single_label(x, labels)
    if kind == "token":
        return {name: v for name, v in _single_label(x, labels).items() if name != "accuracy_se"}
    if kind == "multi_label":
        return _multi_label(x, labels)
    y = labels.astype(np.float64)
    return {
        "mse": float(np.mean((x[:, 0] - y) ** 2)),
        "pearson": pearson(x[:, 0], y),
        "spearman": pearson(rankdata(x[:, 0]), rankdata(y)),
    }


def fidelity(kind: str, student: Array, teacher: Array) -> Scores:
    """Return how close the student's logits come to the teacher's, labels or not.

    single_label: agreement, kl. multi_label: agreement (equal label sets), label_agreement (equal decisions),
    kl (mean over rows and labels). regression: pearson_teacher, mse_teacher. kl is KL(teacher || student) at
    T = 1, in nats. Both logits are (rows, C), in one class order.
    """
    s, t = student.astype(np.float64), teacher.astype(np.float64)
    if kind == "regression":
        return {"mse_teacher": float(np.mean((s - t) ** 2)), "pearson_teacher": pearson(s[:, 0], t[:, 0])}
    if kind in ("single_label", "token"):
        log_s, log_t = log_softmax(s, axis=1), log_softmax(t, axis=1)
        kl = (np.exp(log_t) * (log_t - log_s)).sum(axis=1).mean()
        return {"agreement": agreement(s.argmax(axis=1), t.argmax(axis=1)), "kl": float(kl)}
    p = np.exp(log_expit(t))
    kl = (p * (log_expit(t) - log_expit(s)) + (1 - p) * (log_expit(-t) - log_expit(-s))).mean()
    return {
        "agreement": agreement(s > 0, t > 0),
        "label_agreement": float(np.mean((s > 0) == (t > 0))),
        "kl": float(kl),
    }


def paired_interval(
    first: Array, second: Array, *, lengths: Sequence[int] | None = None
) -> tuple[float, float, float]:
    """Return the difference of two accuracies on the same rows, with its 95 % interval: (mean, low, high).

    Bonett and Price 2012 (adjusted Wald): one row is added to each kind of disagreement, so the interval
    keeps its width when the models hardly disagree. It covers the choice of rows, not that of training seeds.
    Words are chosen by the text: with d_i the difference in right words of text i and n_i its words, the
    variance is Σ (d_i - D·n_i)² / (Σ n_i)², D = Σ d_i / Σ n_i, which for texts of one word is that of rows.

    Args:
        first: whether the first model is right, bool (rows,).
        second: the same of the second; the result is first minus second.
        lengths: the words of each text, where rows are words.

    Example:
        >>> paired_interval(np.array([True, True]), np.array([True, True]))[0]
        0.0
    """
    n, each = len(first), first.astype(np.int64) - second
    texts = np.ones(n, dtype=np.int64) if lengths is None else np.array([x for x in lengths if x])
    won = np.add.reduceat(each, np.cumsum(texts) - texts)
    won, texts = np.append(won, [1, -1]), np.append(texts, [1, 1])
    centre = float(won.sum()) / (n + 2)
    half = Z95 * math.sqrt(((won - centre * texts) ** 2).sum()) / (n + 2)
    return int(each.sum()) / n, max(centre - half, -1.0), min(centre + half, 1.0)


def pearson(a: Array, b: Array) -> float | None:
    """Return Pearson's correlation of two columns (rows,); None where one is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:  # whose mean, rounded, may be another number
        return None
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(np.clip(a @ b / scale, -1.0, 1.0)) if scale > 0 else None


def _single_label(x: Array, labels: Array) -> Scores:
    log_p, predicted = log_softmax(x, axis=1), x.argmax(axis=1)
    accuracy = float(np.mean(predicted == labels))
    return {
        "accuracy": accuracy,
        "accuracy_se": math.sqrt(accuracy * (1 - accuracy) / len(labels)),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "ece": expected_calibration_error(np.exp(log_p), labels),
        "nll": float(-log_p[np.arange(len(labels)), labels].mean()),
    }


def _multi_label(x: Array, labels: Array) -> Scores:
    predicted, truth = x > 0, labels > 0
    accuracy = agreement(predicted, truth)
    occur = np.flatnonzero((predicted | truth).any(axis=0))
    # a second column, of which there is none: scikit-learn takes a single one for the classes "yes" and "no"
    several = [np.pad(sets, ((0, 0), (0, 1))) for sets in (truth, predicted)]
    return {
        "subset_accuracy": accuracy,
        "subset_accuracy_se": math.sqrt(accuracy * (1 - accuracy) / len(labels)),
        "micro_f1": float(f1_score(*several, average="micro", zero_division=0)),
        "macro_f1": float(f1_score(*several, labels=occur, average="macro", zero_division=0))
        if len(occur)
        else 0.0,
        "nll": float(-np.where(truth, log_expit(x), log_expit(-x)).mean()),
    }


def entity_f1(
    predicted: Array, labels: Array, *, lengths: Sequence[int], names: Sequence[str]
) -> float | None:
    """Micro F1 of whole entities, type and both ends: 2·hits / (found + there), by seqeval.

    As conlleval counts (Tjong Kim Sang and De Meulder 2003, arXiv cs/0306050). None where the classes are no
    tags of entities (B-PER, I-PER, O), or where seqeval is not installed: `pip install 'hfdistill[tokens]'`.

    Class ids are (words,); `lengths` are the words of each text, which add up to all words.

    Example:
        >>> import numpy as np
        >>> entity_f1(np.array([0, 1]), np.array([0, 1]), lengths=[2], names=["NOUN", "VERB"]) is None
        True
    """
    tagged = {name for name in names if name.startswith(_PREFIXES)}
    if not tagged or set(names) - tagged - {"O"} or find_spec("seqeval") is None:
        return None
    from seqeval.metrics import f1_score as f1_of_entities

    answers, true, start = [], [], 0
    for length in lengths:
        part = slice(start, start + length)
        answers.append([names[i] for i in predicted[part]])
        true.append([names[i] for i in labels[part]])
        start += length
    with warnings.catch_warnings():  # of the division that zero_division decides
        warnings.simplefilter("ignore")
        return float(f1_of_entities(true, answers, zero_division=0))
