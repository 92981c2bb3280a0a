"""Which lines of ours read a number of a tensor in a step: on a GPU, Python waits there for the device.

No GPU is needed: what reads a number, looks for non-zeros or selects by a mask asks the dispatcher for it.
What Transformers and torch read by themselves is theirs, and in a plain run as well.
"""

import ast
import collections
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertForSequenceClassification, TrainerCallback

import hfdistill
from hfdistill import (
    DIST,
    KD,
    RKD,
    AttentionKL,
    CachedTeacher,
    CrossEntropy,
    DistillationArguments,
    DistillationTrainer,
    ExitCrossEntropy,
    ExitKD,
    HiddenMSE,
    LabelMSE,
    LogitMSE,
    MiniLMv2,
    with_exits,
)
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.trainer.conftest import quiet_arguments

PACKAGE = Path(hfdistill.__file__).parent
ASKS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.is_nonzero.default,
}
LOGITS = 0.5 * CrossEntropy() + 0.5 * KD(temperature=4)
IN_THE_CHECK = {("trainer/distillation.py", "_raise_if_not_finite")}
"""One flag an optimizer step, in the place of the two that Trainer reads in each micro-batch."""


class Waiting(TorchDispatchMode, TrainerCallback):
    """Counts who reads, in the steps after the first."""

    def __init__(self):
        super().__init__()
        self.counts, self.steps = collections.Counter(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masked = func is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if self.steps and (func in ASKS or masked):
            frame = sys._getframe(1)
            while frame is not None and "torch" in Path(frame.f_code.co_filename).parts:
                frame = frame.f_back
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(PACKAGE):
                self.counts[str(path.relative_to(PACKAGE)), frame.f_code.co_name] += 1
        return func(*args, **(kwargs or {}))

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1


def reads(trainer):
    """Where lines of ours read in a step, and how often."""
    waiting = Waiting()
    trainer.add_callback(waiting)
    with waiting:
        trainer.train()
    assert waiting.steps == 3
    return {place: count / 2 for place, count in waiting.counts.items()}


@pytest.fixture
def make(tmp_path):
    def build(student, data=None, *, accumulate=1, **options):
        args = quiet_arguments(
            tmp_path / "run", kind=DistillationArguments, max_steps=3, per_device_train_batch_size=4,
            gradient_accumulation_steps=accumulate, logging_steps=100, teacher_check_rows=0,
            mixup=options.pop("mixup", None),
        )  # fmt: skip
        data = make_dataset(40) if data is None else data
        return DistillationTrainer(
            student, args, train_dataset=data, processing_class=make_tokenizer(), **options
        )

    return build


@pytest.mark.parametrize(
    "objective",
    [
        LOGITS,
        LOGITS + HiddenMSE() + MiniLMv2(),
        LOGITS + AttentionKL() + RKD(),
        CrossEntropy() + DIST(inter=0),
        KD(weight_by="label") + LogitMSE(),
    ],
    ids=str,
)
def test_a_live_teacher(make, monkeypatch, objective):
    monkeypatch.setattr("hfdistill.objectives.attention.reads_back_for_free", lambda device: False)
    trainer = make(make_bert(2), teacher=make_bert(2, seed=1), objective=objective, accumulate=2)
    assert reads(trainer) == dict.fromkeys(IN_THE_CHECK, 1)


def test_other_widths_and_other_orders_of_classes(make):
    teacher = make_bert(2, seed=1, labels={0: "positive", 1: "negative"}, hidden_size=32)
    trainer = make(make_bert(2), teacher=teacher, objective=LOGITS + HiddenMSE())
    assert reads(trainer) == dict.fromkeys(IN_THE_CHECK, 1)


def test_recorded_answers(make, tmp_path):
    trainer = make(make_bert(1), teacher=make_bert(2), objective=LOGITS, teacher_cache=tmp_path / "answers")
    assert reads(trainer) == dict.fromkeys(IN_THE_CHECK, 1)


def test_recorded_answers_are_looked_up_before_the_student_is_at_work(make, tmp_path, monkeypatch):
    """By ids that a GPU gives back at once only where it has nothing to do; a live teacher comes second."""
    order = []
    trace, forward = CachedTeacher.trace, BertForSequenceClassification.forward

    def looked_up(self, *args, **kwargs):
        order.append("answers")
        return trace(self, *args, **kwargs)

    def computed(self, *args, **kwargs):
        order.append("student" if self.config.num_hidden_layers == 1 else "teacher")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(CachedTeacher, "trace", looked_up)
    monkeypatch.setattr(BertForSequenceClassification, "forward", computed)
    for cache, expected in ((None, ["student", "teacher"]), (tmp_path / "a", ["answers", "student"])):
        trainer = make(make_bert(1), teacher=make_bert(2), objective=LOGITS, teacher_cache=cache)
        trainer.train()
        assert order[-6:] == 3 * expected


def test_rows_without_labels_and_mixtures_of_rows(make):
    data = make_dataset(40).remove_columns("label")
    trainer = make(make_bert(1), data, teacher=make_bert(2), objective=KD(), mixup=0.4)
    assert reads(trainer) == dict.fromkeys(IN_THE_CHECK, 1)


def test_values_some_of_which_are_missing(make):
    texts = make_dataset(40)["text"][:]
    data = Dataset.from_dict({"text": texts, "label": [float("nan"), 1.0] * 20})
    options = {"labels": {0: "value"}, "num_labels": 1, "problem_type": "regression"}
    trainer = make(make_bert(1, **options), data, teacher=make_bert(2, **options),
                   objective=LabelMSE() + LogitMSE())  # fmt: skip
    assert reads(trainer) == dict.fromkeys(IN_THE_CHECK, 1)


def test_exits(make):
    student, objective = with_exits(make_bert(3)), LOGITS + ExitCrossEntropy() + ExitKD()
    trainer = make(student, teacher=make_bert(3, seed=1), objective=objective)
    assert reads(trainer) == dict.fromkeys(IN_THE_CHECK, 1)


@pytest.mark.parametrize(
    "path",
    sorted([*(PACKAGE / "objectives").glob("*.py"), *(PACKAGE / "trainer").glob("*.py")]),
    ids=lambda p: p.name,
)
def test_nothing_of_a_step_is_made_on_a_device_out_of_python_numbers(path):
    """`torch.tensor(x, device=…)` waits for all that is queued there; `.to(…, non_blocking=True)` does not.

    teacher_cache.py does so before the first step.
    """
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "torch.tensor":
            at_once = [word for word in call.keywords if word.arg == "device"]
            assert not at_once or path.name == "teacher_cache.py", f"line {call.lineno}"
