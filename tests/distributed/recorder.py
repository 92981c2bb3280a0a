"""The part of test_two_recorders: each process records, trains from what was recorded, writes what it saw."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hfdistill import KD, CacheError, CrossEntropy, DistillationTrainer, HiddenMSE, record
from hfdistill.teachers.cache import recording
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.trainer.conftest import quiet_arguments


def main(folder: Path, processes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "ROWS_PER_SHARD", 4)  # several shards to share
        _main(folder, processes)


def make(folder: Path, processes: int, cache: Path) -> DistillationTrainer:
    return DistillationTrainer(
        make_bert(2, seed=2),
        quiet_arguments(folder / "run", learning_rate=0.1, per_device_train_batch_size=8 // processes),
        teacher=make_bert(3, seed=1, hidden_size=32),
        objective=0.5 * CrossEntropy() + 0.5 * KD() + HiddenMSE(),
        teacher_cache=cache,
        train_dataset=make_dataset(21),
        processing_class=make_tokenizer(),
    )


def apart(folder: Path, processes: int) -> None:
    """Record in a folder of each process's own, as machines without a common disk do; then copy one there."""
    own = folder / f"apart-{os.environ.get('RANK', 0)}"
    message = ""
    try:
        make(folder, processes, own).train()
    except CacheError as error:
        message = str(error)
    (folder / f"{own.name}.txt").write_text(message)
    shutil.copytree(folder / "answers", own, dirs_exist_ok=True)
    trainer = make(folder, processes, own)
    trainer.train()
    if trainer.is_world_process_zero():
        save_file({"weights": weights_of(trainer)}, folder / "apart.safetensors")


def weights_of(trainer: DistillationTrainer) -> torch.Tensor:
    return torch.cat(
        [p.detach().view(-1) for p in [*trainer.model.parameters(), *trainer.blend.parameters()]]
    )


def _main(folder: Path, processes: int) -> None:
    trainer = make(folder, processes, folder / "answers")
    assert trainer.accelerator.num_processes == processes, "accelerate started another number of processes"
    calls = []
    trainer.teacher.model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    trainer.train()
    logits = record(
        make_bert(1, seed=5),
        make_dataset(32),
        folder=folder / "alone",
        tokenizer=make_tokenizer(),
        tokens_per_batch=64,
    )
    asked = trainer.accelerator.gather(torch.tensor([sum(calls) - 17])).tolist()
    if trainer.accelerator.is_main_process:
        save_file({"weights": weights_of(trainer)}, folder / "tensors.safetensors")
        (folder / "facts.json").write_text(json.dumps({"asked": asked, "rows": len(logits.store)}))
    apart(folder, processes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
