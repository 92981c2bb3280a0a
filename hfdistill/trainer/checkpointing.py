"""A Trainer whose checkpoints are complete or absent."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import transformers.trainer
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from hfdistill.files import checkpoint
from hfdistill.files.hub import publishing, withheld
from hfdistill.trainer.arguments import option

logger = logging.getLogger(__name__)

MEASURED = "## How this card was made"
"""Stands in every card that `write_card` drew, and in no draft of Trainer's."""
_LOCAL = "_training_args.bin"
"""Trainer uploads no file whose name begins with an underscore."""


class ResumableTrainer(Trainer):
    """A `Trainer` that saves each checkpoint whole, and resumes from whole ones alone.

    Checkpoints keep Trainer's names and files, plus a manifest with the sha256 of every file.
    """

    _staging: Path | None = None
    _began: float = 0.0

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
        self._began = time.time()
        folder: Path | None = None
        if resume_from_checkpoint is True:
            folder = checkpoint.newest_complete(Path(self.args.output_dir))
            if folder is None:
                raise ValueError(f"No valid checkpoint found in output directory ({self.args.output_dir})")
        elif resume_from_checkpoint:
            folder = Path(resume_from_checkpoint)
        if folder is not None:
            self._check(checkpoint.verify(folder), folder)
        return super().train(None if folder is None else str(folder), *args, **kwargs)

    def _check(self, manifest: dict[str, Any] | None, folder: Path) -> None:
        """Refuse a checkpoint that cannot be gone on from exactly."""
        if manifest is None:
            return
        self._began = manifest["run"].get("began", self._began)
        if not any("optim" in name or "global_step" in name for name in manifest["files"]):
            raise checkpoint.CheckpointError(
                f"{folder} holds no optimizer state (it was saved with save_only_model=True), so the run "
                "cannot go on from it. Start a new one from its weights, with model=the folder."
            )
        if not option(self.args, "allow_changed"):
            checkpoint.check_same_run(manifest, self.run_facts(), folder=folder)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, which takes a step more where a run is resumed that ended within an epoch."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return None
        return super()._run_epoch(*args, **kwargs)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """As Trainer's, but weights that do not fit the model are an error."""
        super()._issue_warnings_after_load(load_result)
        tied = set(getattr(self.model, "_keys_to_ignore_on_save", None) or ())
        odd = sorted({*load_result.missing_keys, *load_result.unexpected_keys} - tied)
        if odd:
            raise checkpoint.CheckpointError(
                f"The checkpoint's weights are not this model's: {', '.join(odd[:4])} stand on one side "
                "only. Build the student as it was built for that run, or choose a new output_dir."
            )

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
        self._find_best(run_dir, staged=staging / name)
        if self.args.should_save:
            self.state.save_to_json(str(staging / name / "trainer_state.json"))
            checkpoint.publish(staging / name, run_dir / name, run={**self.run_facts(), "began": self._began})
            keep = (str(run_dir / name), self.state.best_model_checkpoint)
            checkpoint.rotate(run_dir, limit=self.args.save_total_limit, protected=keep)
            staging.rmdir()
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(run_dir / name))

    def _find_best(self, run_dir: Path, *, staged: Path) -> None:
        """Trainer looks for the best checkpoint beside the staged one, where it is not."""
        best = run_dir / f"checkpoint-{self.state.best_global_step}"
        if self.state.best_global_step and (best.is_dir() or best.name == staged.name):
            self.state.best_model_checkpoint = str(best)

    # ---- the Hub ----

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer's; a repository that cannot be is refused before the first step."""
        with publishing(self.args.hub_model_id or Path(self.args.output_dir).absolute().name):
            super().init_hf_repo(*args, **kwargs)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, without pickles, and with the card of `write_card` where it is of this run.

        Raises:
            HubUnreachable: the Hub gives no answer.
            PublishError: the Hub refused or failed. Nothing here has changed; push again.
        """
        with self._without_pickles(), publishing(self.hub_model_id or self.args.hub_model_id):
            return super().push_to_hub(*args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer's; its draft takes the place of no card that was measured since this run began."""
        if not (self._is_of_this_run("README.md") and MEASURED in self._read("README.md")):
            super().create_model_card(*args, **kwargs)

    def _is_of_this_run(self, name: str) -> bool:
        path = Path(self.args.output_dir, name)
        return path.is_file() and path.stat().st_mtime >= self._began

    def _read(self, name: str) -> str:
        return Path(self.args.output_dir, name).read_text(encoding="utf-8")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As Trainer's, once the checkpoint is in place; its files are torch's where hub_strategy asks."""
        if self._staging is not None:
            return
        self._tell_failed_pushes()
        with self._without_pickles():
            super()._push_from_checkpoint(checkpoint_folder)
        Path(self.args.output_dir, _LOCAL).unlink(missing_ok=True)

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        self._tell_failed_pushes()

    def _tell_failed_pushes(self) -> None:
        """Trainer looks at no outcome of a push in the background."""
        jobs = getattr(getattr(self, "push_in_progress", None), "jobs", [])
        for job in [job for job in jobs if job.done() and not job.cancelled()]:
            try:
                with publishing(self.hub_model_id):
                    job.result()
            except Exception as error:  # the run itself is well
                logger.warning("A checkpoint was not pushed, and the run went on: %s", error)
                jobs.remove(job)

    @contextmanager
    def _without_pickles(self) -> Iterator[None]:
        """Trainer's uploads of the output folder leave out what `push_to_hub` does, and what is outdated."""
        hub, folder = transformers.trainer.hf_api, Path(self.args.output_dir)

        def upload(**options: Any) -> Any:
            if "path_in_repo" not in options:  # a checkpoint has one
                stale = [] if self._is_of_this_run("report.json") else ["report.json"]
                options["ignore_patterns"] = [*options["ignore_patterns"], *withheld(folder), *stale]
            return hub().upload_folder(**options)

        transformers.trainer.hf_api = lambda: SimpleNamespace(
            create_repo=hub().create_repo, upload_folder=upload
        )
        try:
            with _arguments_kept_local():
                yield
        finally:
            transformers.trainer.hf_api = hub

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As Trainer's, without the pickled training_args.bin, which nothing reads back."""
        with _arguments_kept_local():
            super()._save(output_dir, state_dict)
        Path(output_dir or self.args.output_dir, _LOCAL).unlink(missing_ok=True)


@contextmanager
def _arguments_kept_local() -> Iterator[None]:
    """Trainer pickles its arguments, the Hub's token among them; under this name they are never uploaded."""
    name = transformers.trainer.TRAINING_ARGS_NAME
    transformers.trainer.TRAINING_ARGS_NAME = _LOCAL
    try:
        yield
    finally:
        transformers.trainer.TRAINING_ARGS_NAME = name
