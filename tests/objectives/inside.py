"""Networks, traces and float64 references for the objectives that look inside."""

import numpy as np
import pytest
import torch

from hfdistill import Tap, Trace
from hfdistill.network.architectures import ModelSpec
from hfdistill.objectives import Setting

EACH = ("query", "key", "value")
every_third_case = pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
"""Of 1000 random cases, the even of which are padded on the right; `-m slow` looks at all of them."""


def setting(student=(), teacher=(), **changes):
    """BERTs of depth 4, width 8 and 2 heads, but for what is given."""
    sizes = {"model_type": "bert", "depth": 4, "width": 8, "heads": 2, "classes": 2}
    own, other = (ModelSpec(**{**sizes, **dict(network)}) for network in (student, teacher))
    return Setting(**{"task": "single_label", "classes": 2, "student": own, "teacher": other, **changes})


def bound(objective, student=(), teacher=(), **changes):
    objective.bind(setting(student, teacher, **changes))
    return objective


def traced(readings, mask=None):
    """A trace from {("hidden", 1): values}."""
    readings = {Tap(*tap): torch.as_tensor(values) for tap, values in readings.items()}
    rows = len(next(iter(readings.values())))
    return Trace(torch.zeros(rows, 2), None if mask is None else torch.as_tensor(mask), readings)


def value(objective, student, teacher, mask=None, teacher_mask=None):
    """The loss of two dicts of readings."""
    own, other = traced(student, mask), traced(teacher, mask if teacher_mask is None else teacher_mask)
    return objective(own, other, torch.zeros(len(own.logits), dtype=torch.long))


def case(number, *, scale=1.0):
    """Sizes and a ragged mask, padded left or right, and a generator."""
    random = np.random.default_rng(number)
    rows, tokens = int(random.integers(2, 6)), int(random.integers(1, 10))
    mask = np.arange(tokens) < random.integers(1, tokens + 1, size=(rows, 1))
    mask = mask[:, ::-1] if number % 2 else mask

    def draw(*shape):
        return (scale * random.standard_normal(shape)).astype(np.float32)

    return random, draw, rows, tokens, mask.copy()


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
