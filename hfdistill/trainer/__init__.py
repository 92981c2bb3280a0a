"""The trainer and its parts."""

from hfdistill.trainer.checkpointing import CheckpointingTrainer
from hfdistill.trainer.distillation import DistillationTrainer
from hfdistill.trainer.loss_window import NonFiniteError
