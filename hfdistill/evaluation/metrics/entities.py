"""Entities found among words."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec

from hfdistill.evaluation.metrics.scores import Array

_PREFIXES = ("B-", "I-", "E-", "S-", "L-", "U-")


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
    from seqeval.metrics import f1_score

    answers, true, start = [], [], 0
    for length in lengths:
        part = slice(start, start + length)
        answers.append([names[i] for i in predicted[part]])
        true.append([names[i] for i in labels[part]])
        start += length
    with warnings.catch_warnings():  # of the division that zero_division decides
        warnings.simplefilter("ignore")
        return float(f1_score(true, answers, zero_division=0))
