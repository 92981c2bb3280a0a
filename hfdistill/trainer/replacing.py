"""A trainer that gives back what `Theseus` took, however a run ends."""

from __future__ import annotations

from typing import Any

from transformers.trainer_utils import TrainOutput

from hfdistill.trainer.changing_teacher import MovingTeacherTrainer
from hfdistill.trainer.theseus import Theseus


class ReplacingTrainer(MovingTeacherTrainer):
    """A `Trainer` whose student is frozen, and its blocks replaced, for no longer than it trains."""

    def _replacements(self) -> list[Theseus]:
        return [each for each in self.callback_handler.callbacks if isinstance(each, Theseus)]

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As Trainer's."""
        try:
            return super().train(*args, **kwargs)
        finally:  # Trainer tells its callbacks nothing of a run that fails or is interrupted
            for each in self._replacements():
                each.release()

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        for each in self._replacements():  # before there is an optimizer, and DDP around the student
            each.freeze(self.model, self.args)
        return super()._prepare_for_training(*args, **kwargs)
