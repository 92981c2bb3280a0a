"""The trainer and what it drags along."""

from hfdistill.trainer.checkpointing import ResumableTrainer
from hfdistill.trainer.distillation import DistillationTrainer
from hfdistill.trainer.loss_window import NonFiniteError

__all__ = ["DistillationTrainer", "NonFiniteError", "ResumableTrainer"]
