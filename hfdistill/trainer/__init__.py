"""The trainer and what it drags along."""

from hfdistill.trainer.distillation import DistillationTrainer
from hfdistill.trainer.ledger import NonFiniteError
from hfdistill.trainer.resumable import ResumableTrainer

__all__ = ["DistillationTrainer", "NonFiniteError", "ResumableTrainer"]
