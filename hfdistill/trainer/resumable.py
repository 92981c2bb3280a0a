"""A Trainer whose checkpoints are complete or absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer
from transformers.trainer_utils import TrainOutput, rotate_checkpoints

from hfdistill import checkpoint
from hfdistill.arguments import option


class ResumableTrainer(Trainer):
    """A `Trainer` that saves each checkpoint whole, and resumes from whole ones alone.

    Checkpoints keep Trainer's names and files, plus a manifest with the sha256 of every file.
    """

    _staging: Path | None = None

    def run_facts(self) -> dict[str, Any]:
        """What must be the same when a run is resumed; plain data, kept in each checkpoint's manifest."""
        return {}

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """As Trainer's. True resumes from the newest checkpoint that is whole; a damaged one is never read.

        Raises:
            CheckpointError: where the named checkpoint is damaged or belongs to other settings.
            ValueError: where True is given and there is none.
        """
        folder: Path | None = None
        if resume_from_checkpoint is True:
            folder = checkpoint.newest_complete(Path(self.args.output_dir))
            if folder is None:
                raise ValueError(f"No valid checkpoint found in output directory ({self.args.output_dir})")
        elif resume_from_checkpoint:
            folder = Path(resume_from_checkpoint)
        if folder is not None:
            manifest = checkpoint.verify(folder)
            if not option(self.args, "allow_changed"):
                checkpoint.check_same_run(manifest, self.run_facts(), folder=folder)
        return super().train(None if folder is None else str(folder), *args, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save beside the checkpoints, seal, and rename into place."""
        run_dir = Path(super()._get_output_dir(trial))
        if self.args.should_save:
            checkpoint.clear_staging(run_dir)
        self.accelerator.wait_for_everyone()
        self._staging = run_dir / checkpoint.STAGING
        try:
            super()._save_checkpoint(model, trial)
        finally:
            staging, self._staging = self._staging, None
        self.accelerator.wait_for_everyone()
        name = f"checkpoint-{self.state.global_step}"
        if self.state.best_model_checkpoint == str(staging / name):
            self.state.best_model_checkpoint = str(run_dir / name)
        if self.args.should_save:
            self.state.save_to_json(str(staging / name / "trainer_state.json"))
            checkpoint.publish(staging / name, run_dir / name, run=self.run_facts())
            staging.rmdir()
            best = self.state.best_model_checkpoint
            rotate_checkpoints(
                str(run_dir), save_total_limit=self.args.save_total_limit, best_model_checkpoint=best
            )
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(run_dir / name))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Trainer calls this while the checkpoint is still staged; it is pushed once it is in place."""
        if self._staging is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As Trainer's, without the pickled training_args.bin, which nothing reads back."""
        super()._save(output_dir, state_dict)
        Path(output_dir or self.args.output_dir, "training_args.bin").unlink(missing_ok=True)
