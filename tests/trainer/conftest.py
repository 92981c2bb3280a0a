"""Tiny runs whose gradients can be looked at."""

from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments


class GradientRecorder(TrainerCallback):
    """Keeps the gradient of every optimizer step, as one float64 vector."""

    def __init__(self):
        self.steps: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        grads = [p.grad.detach().double().view(-1) for p in model.parameters() if p.grad is not None]
        self.steps.append(torch.cat(grads))


class SaveAt(TrainerCallback):
    """Saves a checkpoint after these steps, in a run that saves at none by itself."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save |= state.global_step in self.steps


def quiet_arguments(folder: Path, *, kind=TrainingArguments, **options) -> TrainingArguments:
    """SGD, no clipping, no schedule: scale errors show, which Adam would hide."""
    settings = {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "learning_rate": 0.0,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "seed": 7,
    }
    return kind(**{**settings, **options})


@pytest.fixture
def arguments(tmp_path):
    return lambda **options: quiet_arguments(tmp_path / "run", **options)
