"""Teachers that change during a run: trained or moved, saved, resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast
from torch import nn
from transformers import TrainerCallback

from hfdistill.files.checkpoint import CheckpointError
from hfdistill.teachers import Teacher
from hfdistill.trainer.checks import check_moving
from hfdistill.trainer.extra_parameters import ProjectionTrainer


class AfterStep(TrainerCallback):
    """Tells the teacher that the student has moved, before the step is logged or saved.

    Args:
        teacher: who teaches now; a recorded teacher takes a live one's place.
    """

    def __init__(self, teacher: Callable[[], Teacher | None]) -> None:
        self.teacher = teacher

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **options: Any) -> None:
        """An optimizer step is done."""
        if (teacher := self.teacher()) is not None:
            teacher.after_step(model, step=state.global_step)


class MovingTeacherTrainer(ProjectionTrainer):
    """A `Trainer` whose teacher may change: its model stands in each checkpoint, and beside the student."""

    teacher: Teacher | None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        check_moving(self.teacher, self.args, fresh=self.model_init is not None)
        if self.teacher is not None:
            self.add_callback(AfterStep(lambda: self.teacher))

    @property
    def _moving(self) -> Any:
        """The teacher that changes; None where there is none."""
        return self.teacher if self.teacher is not None and self.teacher.saved_as else None

    def _learners(self) -> dict[str, nn.Module]:
        """As for projections, and the teacher's model where it learns."""
        learns = self.teacher is not None and self.teacher.learns
        return {**super()._learners(), **({self._moving.saved_as: self._moving.model} if learns else {})}

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self._moving and self.args.world_size > 1:  # as DDP does for the student
            for value in self._moving.model.state_dict().values():
                broadcast(value)
        return prepared

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As Trainer's, with the teacher's model in a folder of its own."""
        super()._save(output_dir, state_dict)
        if self._moving and self.args.should_save:
            folder = Path(output_dir or self.args.output_dir, self._moving.saved_as)
            self._moving.model.save_pretrained(folder)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As Trainer's, and the teacher's model."""
        if checkpoint is not None:
            self._load_teacher(checkpoint)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_best_model(self) -> None:
        """As Trainer's, and the teacher of that step."""
        super()._load_best_model()
        self._load_teacher(str(self.state.best_model_checkpoint))

    def _load_teacher(self, checkpoint: str) -> None:
        """Put a teacher that changes where it stood.

        Raises:
            CheckpointError: where the checkpoint does not hold it.
        """
        if not self._moving:
            return
        model, folder = self._moving.model, Path(checkpoint, self._moving.saved_as)
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{folder} is missing: the {type(self._moving).__name__} of this run changes as it goes, and "
                "a fresh one would undo what it has become. Resume from another checkpoint, or start a new "
                "run."
            )
        saved = type(model).from_pretrained(folder, dtype=model.dtype, trust_remote_code=False)
        model.load_state_dict(saved.state_dict())
