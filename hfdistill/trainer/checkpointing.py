"""A Trainer whose checkpoints are complete or absent, and which publishes no pickle."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from safetensors import safe_open
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer_utils import HubStrategy, TrainOutput, has_length

from hfdistill.files import checkpoint
from hfdistill.files.checkpoint import CheckpointError, telling_failed_writes
from hfdistill.files.hub import publishing
from hfdistill.files.plain_data import as_read_back
from hfdistill.files.run_lock import FolderInUse, only_run
from hfdistill.trainer.arguments import option, rows_a_step
from hfdistill.trainer.checks import check_best_metric
from hfdistill.trainer.interrupts import Interrupts
from hfdistill.trainer.loss_window import SkippedSteps
from hfdistill.trainer.publishing import Publisher
from hfdistill.trainer.sharding import Sharding
from hfdistill.trainer.streams import Passes


class RunEvents(TrainerCallback):
    """Calls the trainer's own methods at the public events of a run, before the user's callbacks."""

    def __init__(self, trainer: CheckpointingTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Call `begin_run`: the optimizer exists, and the student's checkpoint has been read."""
        self.trainer.begin_run()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Call `begin_epoch`: the next epoch begins, or the rest of one that is resumed."""
        self.trainer.begin_epoch()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Call `end_epoch`: the data or the run has ended."""
        self.trainer.end_epoch(is_cut=control.should_training_stop or control.should_epoch_stop)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Call `end_step`: the optimizer has moved, and nothing has been logged or saved yet."""
        self.trainer.end_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Call `end_run`: the run is over, and the best model, where one was asked for, has been read."""
        self.trainer.end_run()


class CheckpointingTrainer(Trainer):
    """A `Trainer` that saves each checkpoint whole, and resumes from whole ones alone.

    Checkpoints keep Trainer's names and files, plus a manifest with the sha256 of every file. A subclass says
    what else belongs to a run: `run_facts`, `save_extra_state`, `load_extra_state`, and the four methods at
    the events of a run, `begin_run`, `begin_epoch`, `end_step` and `end_run`.
    """

    def __init__(self, *positional: Any, callbacks: list[Any] | None = None, **options: Any) -> None:
        self._staging: Path | None = None
        self._resumed: Path | None = None
        self._began = 0.0
        self._epoch = 0
        self._steps_an_epoch = 1
        self._passes: Passes | None = None  # through data without a length
        super().__init__(*positional, callbacks=[RunEvents(self), *(callbacks or [])], **options)
        self._publisher = Publisher(self.args)
        self._interrupts = Interrupts(self._newest_of_this_run)
        self.add_callback(SkippedSteps(self.accelerator))
        self.add_callback(self._interrupts)  # behind all others, which hear of a save before it ends the run

    @property
    def sharding(self) -> Sharding:
        """How the accelerator divides the student among the processes."""
        return Sharding.of(self.accelerator)

    # ---- what a subclass adds ----

    def run_facts(self) -> dict[str, Any]:
        """Return plain data that each checkpoint records, and that must be the same when a run resumes."""
        return {}

    def save_extra_state(self, folder: Path) -> None:
        """Write into a checkpoint what a run needs beyond Trainer's files; called on every process."""

    def load_extra_state(self, folder: Path) -> None:
        """Read what `save_extra_state` wrote, once the student and the optimizer are read."""

    def begin_run(self) -> None:
        """Start the count of epochs, finish reading the checkpoint, and check what chooses the best one."""
        check_best_metric(self)
        self._epoch = self.state.global_step // self._steps_an_epoch - 1
        if self._resumed is not None:
            self.load_extra_state(self._resumed)

    def begin_epoch(self) -> None:
        """Count the epoch, from 0."""
        self._epoch += 1

    def end_epoch(self, *, is_cut: bool) -> None:
        """Count the steps of a pass through data without a length, unless something else has ended it.

        A pass too short for one step is refused: Trainer takes it for the end of the run.
        """
        if self._passes is not None and not self.state.global_step and not self.control.should_epoch_stop:
            raise ValueError(
                "train_dataset is a stream that ended before the first step, which takes "
                f"{self.args.gradient_accumulation_steps} batches of {self.args.train_batch_size} rows on "
                "each process. Lower gradient_accumulation_steps, or look at what made the stream: a filter, "
                "or a generator that was read before."
            )
        if self._passes is not None and not is_cut:
            self._passes.end(number=self._epoch, step=self.state.global_step)

    def end_step(self) -> None:
        """Called when the optimizer has moved."""

    def end_run(self) -> None:
        """Refuse weights that Trainer has not read as the best model has them, and wait for uploads."""
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._check_weights(Path(self.state.best_model_checkpoint))
        self._publisher.finish()

    # ---- resuming ----

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """As in Trainer. True resumes from the newest checkpoint that is whole; a damaged one is never read.

        Raises:
            CheckpointError: where the named checkpoint is damaged or belongs to other settings.
            FolderInUse: a ValueError, where another run saves its checkpoints there at this moment.
            KeyboardInterrupt: after Ctrl-C, once a checkpoint is saved; the message says where to go on.
            SystemExit: likewise after SIGTERM, with 143, and SIGUSR1, with 75.
            ValueError: where True is given and there is none.
        """
        with contextlib.ExitStack() as closed_at_the_end:
            trial = kwargs.get("trial", args[0] if args else None)  # trials may run side by side
            self._hold_folder(Path(self._get_output_dir(trial)), closed_at_the_end)
            self._check_processes()
            self.sharding.settle(self.model)
            self._find_checkpoint(resume_from_checkpoint)
            closed_at_the_end.enter_context(self._interrupts.watching(processes=self.args.world_size))
            return super().train(None if self._resumed is None else str(self._resumed), *args, **kwargs)

    def _hold_folder(self, folder: Path, closed_at_the_end: contextlib.ExitStack) -> None:
        """Take the folder of the checkpoints, and the time that this run begins at, the same for all."""
        refusal: Exception | None = None
        if self.is_world_process_zero() and self.args.save_strategy != "no":
            try:
                closed_at_the_end.enter_context(only_run(folder))
            except FolderInUse as error:
                refusal = error
            except OSError as error:
                refusal = CheckpointError(
                    f"No checkpoint can be written to {folder} ({error}). Choose another output_dir, or "
                    "save_strategy='no'."
                )
        self._began, refusal = broadcast_object_list([time.time(), refusal])
        if refusal is not None:
            raise refusal

    def _check_processes(self) -> None:
        """Refuse to train on processes that were not told the same."""
        if self.args.world_size == 1:
            return
        everybodys = self.of_all(as_read_back(self.run_facts()))
        odd = {name for facts in everybodys for name in facts if facts[name] != everybodys[0].get(name)}
        if odd:
            differ = {name: sorted({repr(facts.get(name)) for facts in everybodys}) for name in sorted(odd)}
            raise ValueError(
                "The processes of this run were not told the same: "
                + "; ".join(f"{name}: {' or '.join(values)}" for name, values in differ.items())
                + ". Start all of them by one command, with the same code, data and arguments."
            )

    def _find_checkpoint(self, resume_from_checkpoint: str | bool | None) -> None:
        """Find the checkpoint to go on from, and check it: one for all processes, or a refusal for all."""
        refusal: Exception | None = None
        self._resumed = None
        if resume_from_checkpoint is True:
            self._resumed = self._newest_of_all(Path(self.args.output_dir))
            if self._resumed is None:
                where = f"output directory ({self.args.output_dir})"
                if self.args.world_size > 1:
                    where += (
                        " of all processes. Nodes with disks of their own need save_on_each_node=True; for a "
                        "new run leave resume_from_checkpoint out"
                    )
                refusal = ValueError(f"No valid checkpoint found in {where}")
        elif resume_from_checkpoint:
            self._resumed = Path(resume_from_checkpoint)
        try:
            if self._resumed is not None:
                self._check_run(checkpoint.verify(self._resumed), self._resumed)
                self._check_weights(self._resumed)
        except Exception as error:  # raised below, where the others hear of it
            refusal = error
        self._agree_on_checkpoint(refusal)

    def _newest_of_all(self, folder: Path) -> Path | None:
        """Return the newest checkpoint that every process finds whole: nodes may have disks of their own."""
        everybodys = self.of_all(checkpoint.names_in(folder))
        order, names = everybodys[0], set.intersection(*map(set, everybodys))
        while True:
            newest = checkpoint.newest_complete(folder, among=names)
            found = self.of_all(None if newest is None else newest.name)
            if len(set(found)) == 1:
                return newest
            names.discard(max(filter(None, found), key=order.index))

    def _agree_on_checkpoint(self, refusal: Exception | None) -> None:
        """Raise on every process if one of them cannot resume, or would resume from another checkpoint."""
        name = None if self._resumed is None else self._resumed.name
        everybodys = self.of_all((name, None if refusal is None else str(refusal)))
        if refusal is not None:
            raise refusal
        for process, (_, text) in enumerate(everybodys):
            if text is not None:
                raise CheckpointError(f"Process {process} cannot go on: {text}")
        if len({name for name, _ in everybodys}) > 1:
            chosen = "; ".join(f"process {i}: {name or 'none'}" for i, (name, _) in enumerate(everybodys))
            raise CheckpointError(
                f"The processes would go on from different checkpoints ({chosen}). Type "
                "train(resume_from_checkpoint=True), which takes the newest that all of them have; nodes "
                "with disks of their own need save_on_each_node=True."
            )

    def of_all(self, value: Any) -> list[Any]:
        """Return the value of each process, in the order of their ranks."""
        return [value] if self.args.world_size == 1 else list(gather_object([value]))

    def _newest_of_this_run(self) -> Path | None:
        """Return the newest checkpoint from which this run can resume."""
        newest = checkpoint.newest_complete(Path(self.args.output_dir))
        manifest = None if newest is None else checkpoint.read_manifest(newest)
        ours = manifest is not None and manifest["run"].get("began") == self._began
        return newest if ours and not self.args.save_only_model else None

    def _check_run(self, manifest: dict[str, Any] | None, folder: Path) -> None:
        """Refuse a checkpoint from which this run cannot resume exactly."""
        if manifest is None:
            return
        self._began = manifest["run"].get("began", self._began)
        if not any("optim" in name or "global_step" in name for name in manifest["files"]):
            raise CheckpointError(
                f"{folder} holds no optimizer state (it was saved with save_only_model=True), so the run "
                "cannot go on from it. Start a new one from its weights, with model=the folder."
            )
        if not option(self.args, "allow_changed"):
            checkpoint.check_same_run(manifest, self.run_facts(), folder=folder)

    def _check_weights(self, folder: Path) -> None:
        """Refuse weights that are not the student's: Trainer would warn, and train the rest from scratch."""
        names = _weights_in(folder)
        if names is None or self.sharding:  # FSDP and DeepSpeed read back files of their own
            return
        own = self.accelerator.unwrap_model(self.model, keep_torch_compile=False).state_dict()
        stored = {own[name].data_ptr() for name in names & own.keys()}
        tied = {name for name in own.keys() - names if own[name].data_ptr() in stored}
        ignored = tied | set(getattr(self.model, "_keys_to_ignore_on_save", None) or ())
        odd = sorted((names ^ own.keys()) - ignored)
        if odd:
            raise CheckpointError(
                f"The checkpoint's weights are not this model's: {', '.join(odd[:4])} stand on one side "
                "only. Build the student as it was built for that run, or start another with train(), in a "
                "new output_dir."
            )

    def set_initial_training_values(self, args: Any, dataloader: Any) -> tuple[Any, ...]:
        """As in Trainer; no epoch is left for a run that is resumed at its end.

        Trainer takes one step more where that end lies within an epoch. A pass through data without a length
        is an epoch, once the checkpoint that the run goes on from knows its steps.
        """
        epochs, self._steps_an_epoch, *others, batches, max_steps = super().set_initial_training_values(
            args, dataloader
        )
        self._passes = None if has_length(dataloader) else Passes(rows=rows_a_step(args))
        if self._passes is not None and not args.ignore_data_skip:
            self._passes.load(self._resumed)
            if self._passes.steps is not None:
                self._steps_an_epoch = self._passes.steps
                batches = self._passes.steps * args.gradient_accumulation_steps
        if self._resumed is not None:
            done = TrainerState.load_from_json(str(self._resumed / "trainer_state.json")).global_step
            epochs = min(epochs, done // self._steps_an_epoch) if done >= max_steps else epochs
        return (epochs, self._steps_an_epoch, *others, batches, max_steps)

    # ---- saving ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in Trainer, a whole model for FSDP and ZeRO-3, too; every process has to call it.

        Without training_args.bin: a pickle that holds the Hub's token, and nobody reads.
        """
        folder = Path(output_dir or self.args.output_dir)
        failing = telling_failed_writes(folder, newest=self._newest_of_this_run)
        with failing, self.sharding.saving_whole_model(), self._saving_on_each_node():
            super().save_model(output_dir, _internal_call=True)
        if self.args.should_save:
            (folder / "training_args.bin").unlink(missing_ok=True)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    @contextlib.contextmanager
    def _saving_on_each_node(self) -> Iterator[None]:
        """Have weights written by each process that is to save: `save_pretrained` asks for process 0, too."""
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if not self.args.save_on_each_node or self.sharding or not hasattr(model, "should_save_on_this_rank"):
            yield
            return
        model.should_save_on_this_rank = bool
        try:
            yield
        finally:
            del model.should_save_on_this_rank

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save beside the checkpoints, seal, and rename into place."""
        run_dir = Path(super()._get_output_dir(trial))
        try:
            with telling_failed_writes(run_dir, newest=self._newest_of_this_run):
                self._publish_checkpoint(model, trial, run_dir)
        except CheckpointError:
            with contextlib.suppress(OSError):
                checkpoint.clear_staging(run_dir)  # a disk that is full needs the room
            raise
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(run_dir / f"checkpoint-{self.state.global_step}"))

    def _publish_checkpoint(self, model: nn.Module, trial: Any, run_dir: Path) -> None:
        """Write a checkpoint and put it in place; the oldest make room."""
        if self.args.should_save:
            checkpoint.clear_staging(run_dir)
        self.accelerator.wait_for_everyone()
        name = f"checkpoint-{self.state.global_step}"
        self._staging = run_dir / checkpoint.STAGING
        try:
            super()._save_checkpoint(model, trial)
        finally:
            staging, self._staging = self._staging, None
        self.save_extra_state(staging / name)
        self.accelerator.wait_for_everyone()
        self._find_best(run_dir, staged=staging / name)
        if self.args.should_save:
            if self._passes is not None:
                self._passes.save(staging / name)
            self.state.save_to_json(str(staging / name / "trainer_state.json"))
            checkpoint.publish(staging / name, run_dir / name, run={**self.run_facts(), "began": self._began})
        self.accelerator.wait_for_everyone()  # nothing is deleted before each node has the new one
        if self.args.should_save:
            keep = (str(run_dir / name), self.state.best_model_checkpoint)
            checkpoint.rotate(run_dir, limit=self.args.save_total_limit, protected=keep)
            staging.rmdir()
        self.accelerator.wait_for_everyone()

    def _find_best(self, run_dir: Path, *, staged: Path) -> None:
        """Correct the path of the best checkpoint, which Trainer looks for beside the staged one."""
        best = run_dir / f"checkpoint-{self.state.best_global_step}"
        if self.state.best_global_step and (best.is_dir() or best.name == staged.name):
            self.state.best_model_checkpoint = str(best)

    # ---- the Hub ----

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """As in Trainer; a repository that cannot be made is refused before the first step."""
        with publishing(self.args.hub_model_id or Path(self.args.output_dir).absolute().name):
            super().init_hf_repo(*args, **kwargs)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in Trainer, without pickles, and with the card of `write_card` where it is of this run.

        Raises:
            HubUnreachable: the Hub gives no answer.
            PublishError: the Hub refused or failed. Nothing here has changed; push again.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        tags = kwargs.pop("tags", None) or []
        tags = [tags] if isinstance(tags, str) else list(tags)
        tags += [tag for tag in getattr(self.model, "model_tags", None) or [] if tag not in tags]
        name = kwargs.pop("model_name", None) or Path(self.args.hub_model_id or self.args.output_dir).name
        self.create_model_card(model_name=name, tags=tags or None, **kwargs)
        self._publisher.finish()
        return self._publisher.push(
            str(self.hub_model_id),
            commit_message or "End of training",
            began=self._began,
            token=token,
            revision=revision,
            blocking=blocking,
        )

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """As in Trainer, but a card that was measured since this run began is kept."""
        if not self._publisher.has_measured_card(self._began):
            super().create_model_card(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload the model of a checkpoint once it is in place; Trainer itself calls this too early."""
        if self._staging is not None or not self.is_world_process_zero():
            return
        self._publisher.report_failures()
        if self.args.hub_strategy == HubStrategy.END:
            return
        if self._publisher.is_busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(self.args.output_dir)
        by_steps = self.args.save_strategy == "steps"
        at = f"step {self.state.global_step}" if by_steps else f"epoch {int(self.state.epoch or 0)}"
        message = f"Training in progress, {at}"
        folder, repository = Path(checkpoint_folder), str(self.hub_model_id)
        self._publisher.push_checkpoint(folder, repository, message, began=self._began)


def _weights_in(folder: Path) -> set[str] | None:
    """Return the names of a checkpoint's weights; None for an adapter's, or another format."""
    index, whole = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    if not whole.is_file():
        return None
    with safe_open(whole, framework="pt") as file:
        return set(file.keys())
