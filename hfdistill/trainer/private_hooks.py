"""Every private part of Transformers that the trainer overrides or relies on, with the reason of each.

A test compares this table with the installed Transformers and with our source, so that another release is
told by one sentence there and not by the middle of a run. Everything else goes through what Trainer
documents: methods without an underscore, and the events of `TrainerCallback`.
"""

from __future__ import annotations

from typing import NamedTuple


class Hook(NamedTuple):
    """A private method of Trainer that ours overrides.

    Args:
        parameters: the names that Trainer calls it by, in order.
        reason: what ours does there, and why no public place will do.
        if_changed: where to look when Trainer's is another.
    """

    parameters: tuple[str, ...]
    reason: str
    if_changed: str


OVERRIDDEN = {
    "_save_checkpoint": Hook(
        ("model", "trial"),
        "Trainer writes checkpoint-N in place, file by file; ours are written beside it and renamed, so that "
        "a killed run leaves a whole checkpoint or none. The event on_save comes after.",
        "CheckpointingTrainer._save_checkpoint: does Trainer's still write everything into "
        "_get_output_dir(trial)/checkpoint-N before it returns?",
    ),
    "_get_output_dir": Hook(
        ("trial",),
        "It says where Trainer's _save_checkpoint writes: our staging folder while one is saved.",
        "CheckpointingTrainer._get_output_dir: who else asks for the folder while a checkpoint is saved?",
    ),
    "_push_from_checkpoint": Hook(
        ("checkpoint_folder",),
        "Trainer calls it on a checkpoint that is not in place yet, and uploads pickles; ours waits for the "
        "rename and uploads by HfApi what may be published.",
        "CheckpointingTrainer._push_from_checkpoint and Publisher: is there a new strategy of pushing?",
    ),
    "_get_grad_norm": Hook(
        ("model", "grad_norm"),
        "The last call before the optimizer moves, and the only place that has the gradient's norm: "
        "projections and a peer are clipped here, and a step that is not finite stops. on_pre_optimizer_step "
        "has no norm, and working it out again would read every gradient a second time.",
        "DistillationTrainer._get_grad_norm: is it still called once a step, after clipping, before "
        "optimizer.step()?",
    ),
    "_set_signature_columns_if_needed": Hook(
        (),
        "Trainer drops the columns that the student does not read; the teacher reads others.",
        "DistillationTrainer._set_signature_columns_if_needed: does Trainer still keep the columns of "
        "_signature_columns?",
    ),
    "_get_train_sampler": Hook(
        ("train_dataset",),
        "Batches of like length in an order that (seed, epoch) alone decide; the public get_train_dataloader "
        "would have to repeat all of Trainer's data loading for it.",
        "DistillationTrainer._get_train_sampler: does get_train_dataloader still ask it for the sampler?",
    ),
}

ATTRIBUTES = {
    "_signature_columns": "the list that _set_signature_columns_if_needed fills",
}
"""Private attributes of a Trainer that ours reads or writes."""

CONSTANTS = {
    "transformers.trainer.TRAINING_ARGS_NAME": "training_args.bin",
    "transformers.trainer.TRAINER_STATE_NAME": "trainer_state.json",
    "transformers.trainer_utils.PREFIX_CHECKPOINT_DIR": "checkpoint",
    "transformers.utils.SAFE_WEIGHTS_NAME": "model.safetensors",
    "transformers.utils.SAFE_WEIGHTS_INDEX_NAME": "model.safetensors.index.json",
}
"""Names of files that Trainer writes and ours looks for."""
