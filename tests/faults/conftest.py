"""A tiny run, and how it is refused."""

from contextlib import contextmanager

import pytest
from datasets import Dataset
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hfdistill import DistillationArguments, DistillationTrainer
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.trainer.conftest import quiet_arguments
from tests.what_to_type import FIX


def rows(labels, text="a good film"):
    return Dataset.from_dict({"text": [f"{text} {i}" for i in range(len(labels))], "label": labels})


def named(count):
    """The class names c0, c1, … of a model."""
    return {number: f"c{number}" for number in range(count)}


@pytest.fixture
def build(tmp_path):
    """A trainer of a tiny student; what is not named is right. `args` are its arguments."""

    def make(student=None, teacher=None, train=None, evaluation=None, *, args=None, **options):
        settings = {"per_device_train_batch_size": 8, "max_steps": 1, "teacher_check_rows": 0, **(args or {})}
        return DistillationTrainer(
            make_bert(2, seed=2) if student is None else student,
            quiet_arguments(tmp_path / "run", kind=DistillationArguments, **settings),
            teacher=make_bert(3, seed=1) if teacher is None else teacher,
            train_dataset=make_dataset(16) if train is None else train,
            eval_dataset=evaluation,
            **{"processing_class": make_tokenizer(), **options},
        )

    return make


@pytest.fixture
def refused():
    """A block that must end in an error which says what to type, before any optimizer has taken a step."""

    @contextmanager
    def block(words, kind=Exception):
        steps = []
        handle = register_optimizer_step_pre_hook(lambda *step: steps.append(step))
        try:
            with pytest.raises(kind, match=words) as caught:
                yield
        finally:
            handle.remove()
        assert FIX.search(str(caught.value)), f"it does not say what to type: {caught.value}"
        assert not steps

    return block
