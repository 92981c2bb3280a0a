"""The part of test_two_recorders: each process records, trains from what was recorded, writes what it saw."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hfdistill import KD, CrossEntropy, DistillationTrainer, HiddenMSE, record
from hfdistill.teachers.cache import recording
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.trainer.conftest import quiet_arguments


def main(folder: Path, processes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "ROWS_PER_SHARD", 4)  # several shards to share
        _main(folder, processes)


def _main(folder: Path, processes: int) -> None:
    trainer = DistillationTrainer(
        make_bert(2, seed=2),
        quiet_arguments(folder / "run", learning_rate=0.1, per_device_train_batch_size=8 // processes),
        teacher=make_bert(3, seed=1, hidden_size=32),
        objective=0.5 * CrossEntropy() + 0.5 * KD() + HiddenMSE(),
        teacher_cache=folder / "answers",
        train_dataset=make_dataset(21),
        processing_class=make_tokenizer(),
    )
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
    asked = trainer.accelerator.gather(torch.tensor([sum(calls) - 16])).tolist()
    if trainer.accelerator.is_main_process:
        weights = [p.detach().view(-1) for p in [*trainer.model.parameters(), *trainer.blend.parameters()]]
        save_file({"weights": torch.cat(weights)}, folder / "tensors.safetensors")
        (folder / "facts.json").write_text(json.dumps({"asked": asked, "rows": len(logits.store)}))
