"""The part of test_divided: a student whose weights or gradients FSDP2 or DeepSpeed divides among processes.

accelerate knows both for GPUs and their like alone: here two gloo processes on CPU pass for them.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

import pytest
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification
from transformers.integrations import is_deepspeed_zero3_enabled

from hfdistill import (
    KD,
    CrossEntropy,
    DistillationTrainer,
    EMATeacher,
    HiddenMSE,
    MiniLMv2,
    Peer,
    Step,
    Theseus,
    shrink,
    with_exits,
)
from hfdistill.files.checkpoint import CheckpointError, read_manifest
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.trainer.conftest import quiet_arguments

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_OFFLOAD_PARAMS": "false",
}
KINDS = ["logits", "inside", "ema", "peer", "theseus", "exits", "loaded"]
STEPS, FEW = 20, 6
"""Optimizer steps of the slow test, and of the fast one."""


@contextlib.contextmanager
def passing_for_gpus(**settings: str):
    """While open, accelerate takes these gloo processes for GPUs, and such settings for its launcher's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ACCELERATE_USE_CPU", raising=False)
        patch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
        for name, value in settings.items():
            patch.setenv(name, value)
        if "LOCAL_RANK" in os.environ:
            backend = ("gloo", DistributedType.MULTI_GPU)
            patch.setattr(PartialState, "_prepare_backend", lambda *_: backend)
        yield


def make(folder: Path, kind: str, processes: int, **options) -> DistillationTrainer:
    """21 rows in windows of 16: two steps an epoch, of which the second is cut short."""
    settings = {
        "per_device_train_batch_size": 8 // processes,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.1,
        "max_grad_norm": 1.0,
        "use_cpu": processes == 1,
        "ddp_find_unused_parameters": True if kind == "theseus" else None,
    }
    arguments = quiet_arguments(folder / kind, **{**settings, **options})
    theirs = {"teacher": make_bert(3, seed=1, hidden_size=32 if kind == "inside" else 24)}
    theirs["objective"] = 0.5 * CrossEntropy() + 0.5 * KD()
    student = make_bert(2, seed=2)
    if kind == "inside":
        theirs["objective"] += HiddenMSE() + MiniLMv2()
    if kind == "ema":
        theirs["teacher"] = EMATeacher(decay=0.5)
    if kind == "peer":
        theirs = {"teacher": Peer(make_bert(3, seed=1))}
    if kind == "theseus":
        student = shrink(make_bert(4, seed=1), layers=[1, 2])
        theirs = {"teacher": None, "callbacks": [Theseus(make_bert(4, seed=1), rate=Step({0: 0.5, 0.9: 1}))]}
    if kind == "exits":
        student = with_exits(student)
    if kind == "loaded":  # by Transformers, which divides them among processes for ZeRO-3
        own = folder / "from"
        with arguments.main_process_first():
            make_bert(3, seed=1).save_pretrained(own)
        loaded = theirs["teacher"] = AutoModelForSequenceClassification.from_pretrained(own)
        assert hasattr(loaded.classifier.weight, "ds_id") == is_deepspeed_zero3_enabled()
        student = shrink(AutoModelForSequenceClassification.from_pretrained(own), layers=[1, 3])
    return DistillationTrainer(
        student, arguments, train_dataset=make_dataset(21), eval_dataset=make_dataset(10),
        processing_class=make_tokenizer(), **theirs,
    )  # fmt: skip


def trained(folder: Path, kind: str, processes: int, steps: int = STEPS) -> None:
    """One run; what it saves lies in a folder of its kind."""
    trainer = make(folder, kind, processes, max_steps=steps)
    trainer.train()
    trainer.save_model(str(folder / kind))
    if trainer.is_world_process_zero():
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        (folder / kind / "logs.json").write_text(json.dumps(logs))
        projections = {name: value.detach().clone() for name, value in trainer.blend.state_dict().items()}
        save_file(projections, folder / kind / "objective.safetensors")


def resumed(folder: Path, kind: str, processes: int) -> None:
    """A run that goes on from its third step, in the middle of an epoch; and one from a damaged one."""
    options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 5, "optim": "adamw_torch"}
    options |= {"eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True}
    straight = make(folder / "straight", kind, processes, **options, learning_rate=1e-3)
    straight.train()
    straight.save_model(str(folder / "straight" / kind))
    checkpoint = folder / "straight" / kind / "checkpoint-3"
    again = make(folder / "straight", kind, processes, **options, learning_rate=1e-3)
    again.train(resume_from_checkpoint=str(checkpoint))
    again.save_model(str(folder / "again" / kind))
    straight.accelerator.wait_for_everyone()
    manifest = read_manifest(checkpoint)
    name = max(manifest["files"], key=lambda name: ("distcp" in name or "rank_1" in name, name))
    message = ""
    if straight.is_world_process_zero():
        with (checkpoint / name).open("ab") as stream:
            stream.write(b"more")
    straight.accelerator.wait_for_everyone()
    try:
        make(folder / "straight", kind, processes, **options).train(resume_from_checkpoint=str(checkpoint))
    except CheckpointError as error:
        message = str(error)
    if straight.is_world_process_zero():
        facts = {"files": sorted(manifest["files"]), "damaged": name, "message": message}
        (folder / "again" / kind / "facts.json").write_text(json.dumps(facts))


def run(folder: Path, processes: int, kinds: list[str], again: list[str]) -> None:
    for kind in kinds:
        trained(folder, kind, processes)
    for kind in again:
        resumed(folder, kind, processes)


def main(folder: Path, processes: int) -> None:
    """What the fast suite looks at: one kind under FSDP2, after others in the same processes."""
    with passing_for_gpus(**FSDP2) if processes > 1 else contextlib.nullcontext():
        trained(folder, "inside", processes, FEW)
        if processes > 1:
            resumed(folder, "ema", processes)


if __name__ == "__main__":
    name, *kinds = sys.argv[2:]
    again = [kind.removeprefix("again-") for kind in kinds if kind.startswith("again-")]
    kinds = [kind for kind in kinds if not kind.startswith("again-")]
    processes = int(os.environ.get("WORLD_SIZE", 1))
    settings = {"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"} if name.endswith("full") else {}
    with passing_for_gpus(**settings):
        run(Path(sys.argv[1]), processes, kinds, again)
