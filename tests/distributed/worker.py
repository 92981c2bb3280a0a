"""The part of test_two_processes: each process trains on several row counts and writes what it saw."""

import json
import math
import os
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from safetensors.torch import save_file

from hfdistill import (
    KD,
    After,
    CrossEntropy,
    Delete,
    DistillationArguments,
    DistillationTrainer,
    EMATeacher,
    Ensemble,
    ExitCrossEntropy,
    ExitKD,
    FreshCopies,
    HiddenMSE,
    MiniLMv2,
    ModelTeacher,
    NonFiniteError,
    Objective,
    Peer,
    Step,
    Theseus,
    Until,
    shrink,
    with_exits,
)
from hfdistill.data import encode
from hfdistill.trainer.mixup import SHARE
from tests.conftest import make_bert, make_byte_tokenizer, make_roberta, make_sentences, make_tokenizer
from tests.trainer.conftest import GradientRecorder, SaveAt, quiet_arguments
from tests.word_material import make_tagger, make_words

TEXTS, CLASSES = zip(*make_sentences(24), strict=True)
EVALUATED = make_sentences(40)
MULTI = [[float(i % 2), float(i % 3 == 0), float(i % 5 == 0)] for i in range(24)]
BINARY = {"problem_type": "multi_label_classification", "labels": {0: "a", 1: "b", 2: "c"}}


class LearnedScale(Objective):
    """Cross-entropy of the labelled rows, their logits scaled by numbers that are learned."""

    needs_labels, needs_teacher = True, False

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(2))

    def count(self, labels):
        return (labels >= 0).sum().float()

    def forward(self, student, teacher, labels):
        known = labels >= 0
        if not known.any():  # without a gradient for the scale
            return student.logits.sum() * 0.0
        return torch.nn.functional.cross_entropy(self.scale * student.logits[known], labels[known])


OBJECTIVES = {
    "one label": 0.5 * KD() + 5 * LearnedScale(),
    "theseus": 1.0 * CrossEntropy(),
    "inside": CrossEntropy() + 2 * HiddenMSE() + MiniLMv2(),
    "exits": CrossEntropy() + ExitCrossEntropy() + ExitKD() + KD(),
    "stages": Until(0.5) * HiddenMSE() + After(0.5) * KD(),
}
CASES = [
    (24, "plain"),
    (21, "plain"),
    (18, "plain"),
    (17, "missing"),
    (21, "one label"),
    (21, "multi"),
    (19, "iterable"),
    (21, "split"),
    (21, "inside"),
    (21, "stages"),
    (21, "ensemble"),
    (21, "tokens"),
    (21, "peer"),
    (21, "ema"),
    (21, "exits"),
    (10, "copies"),
    (21, "theseus"),
]
MOVING = {"peer": lambda: Peer(make_bert(3, seed=1)), "ema": lambda: EMATeacher(decay=0.5)}


def run(folder: Path, rows: int, kind: str, processes: int, **options):
    """One epoch in windows of 16 rows, whatever the number of processes."""
    classes = {
        "plain": list(CLASSES),
        "missing": [-100 if i % 3 == 1 else y for i, y in enumerate(CLASSES)],
        "one label": [y if i == 3 else -100 for i, y in enumerate(CLASSES)],  # one process has none
        "multi": MULTI,
    }
    data = Dataset.from_dict({"text": list(TEXTS[:rows]), "label": classes.get(kind, CLASSES)[:rows]})
    data = make_words(rows) if kind == "tokens" else data
    train = data.to_iterable_dataset() if kind == "iterable" else data
    shape = BINARY if kind == "multi" else {}
    recorder = GradientRecorder()
    settings = {
        "per_device_train_batch_size": 8 // processes,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.1,
    }
    if kind == "iterable":
        settings["max_steps"] = 2
    if kind == "split":  # the batch size is then that of all processes together
        settings |= {"per_device_train_batch_size": 8, "accelerator_config": {"split_batches": True}}
        settings["train_sampling_strategy"] = "sequential"
    if kind == "copies":
        train = FreshCopies(data, Delete(p=0.3), seed=5)
    if kind == "theseus":
        settings["ddp_find_unused_parameters"] = True
    make = make_tagger if kind == "tokens" else make_bert
    inside = {"hidden_size": 32} if kind in ("inside", "exits", "stages") else {}
    teacher = make(3, seed=1, **shape, **inside)
    if kind == "ensemble":
        other = ModelTeacher(make_roberta(seed=4), tokenizer=make_byte_tokenizer())
        teacher = Ensemble([teacher, other], weights="confidence")
    model, callbacks = make(2, seed=2, **shape), [recorder]
    if kind == "theseus":
        callbacks.append(Theseus(make_bert(4, seed=1), rate=Step({0: 0.5, 0.9: 1})))
        model, teacher = shrink(make_bert(4, seed=1), layers=[1, 2]), None
    trainer = DistillationTrainer(
        with_exits(model) if kind == "exits" else model,
        quiet_arguments(
            folder / f"run-{rows}-{kind}", per_device_eval_batch_size=4, **{**settings, **options}
        ),
        teacher=MOVING[kind]() if kind in MOVING else teacher,
        objective=OBJECTIVES.get(kind),
        train_dataset=train,
        eval_dataset=data,
        processing_class=make_tokenizer(),
        callbacks=callbacks,
        compute_metrics=lambda p: {"rows": len(p.label_ids)},
    )
    return trainer, recorder


def mixtures(folder: Path, processes: int) -> dict[str, float]:
    """What a run with mixtures of rows came to, on each process."""
    settings = {"mixup": 0.4, "learning_rate": 0.1, "per_device_train_batch_size": 8 // processes}
    trainer = DistillationTrainer(
        make_bert(2, seed=2),
        quiet_arguments(folder / "mixup", kind=DistillationArguments, **settings),
        teacher=make_bert(3, seed=1),
        objective=0.5 * CrossEntropy() + 0.5 * KD(),
        train_dataset=Dataset.from_dict({"text": list(TEXTS), "label": list(CLASSES)}),
        processing_class=make_tokenizer(),
    )
    shares, read = [], trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, *a, **o: (
        shares.append(inputs[SHARE].sum()) or read(model, inputs, *a, **o)
    )
    trainer.train()
    gather = trainer.accelerator.gather
    weights = torch.cat([p.detach().view(-1) for p in trainer.model.parameters()])
    return {
        "weights": gather(weights.double().sum()[None]).tolist(),
        "shares": gather(torch.stack(shares)[None]).tolist(),
        "first": trainer.state.log_history[0],
    }


def evaluations(folder: Path, processes: int) -> list[dict[str, float]]:
    """What an evaluation on 1 row, 2 rows, … says."""
    trainer, _ = run(folder / "evaluated", 24, "plain", processes)
    trainer.compute_metrics = lambda p: {"right": int((p.predictions.argmax(-1) == p.label_ids).sum())}
    texts, classes = zip(*EVALUATED, strict=True)
    rows = encode(Dataset.from_dict({"text": list(texts), "label": list(classes)}), make_tokenizer())
    return [trainer.evaluate(rows.select(range(count + 1))) for count in range(len(rows))]


def refusals(folder: Path, processes: int) -> dict[str, list[str]]:
    """What each process says where one was told something else, or meets what is no number."""
    rank = int(os.environ.get("RANK", "0"))
    other, _ = run(folder / "other", 16, "plain", processes, seed=7 + rank, learning_rate=0.1 + rank)
    bad, _ = run(folder / "bad", 16, "plain", processes)
    if rank:
        bad.teacher.model.classifier.register_forward_hook(lambda *forward: forward[-1] * math.nan)
    said = {}
    for name, trainer in {"other": other, "bad": bad}.items():
        try:
            trainer.train()
            text = f"trained {trainer.state.global_step} steps"
        except (ValueError, NonFiniteError) as error:
            text = str(error)
        said[name] = gather_object([text])
    return said


def main(folder: Path, processes: int) -> None:
    facts, tensors = {}, {}
    for rows, kind in CASES:
        trainer, recorder = run(folder, rows, kind, processes)
        assert trainer.accelerator.num_processes == processes, (
            "accelerate started another number of processes"
        )
        trainer.train()
        metrics = trainer.evaluate()
        parts = [
            {k: v for k, v in h.items() if k.startswith("loss")}
            for h in trainer.state.log_history
            if "loss" in h
        ]
        facts[f"{rows} {kind}"] = {
            "eval_loss": metrics["eval_loss"],
            "eval_rows": metrics["eval_rows"],
            "parts": parts,
        }
        tensors |= {f"{rows} {kind} {i}": step for i, step in enumerate(recorder.steps)}
        learnt = [trainer.model, trainer.blend, *([trainer.teacher.model] if kind in MOVING else [])]
        tensors |= {
            f"{rows} {kind} weights": torch.cat(
                [p.detach().view(-1) for part in learnt for p in part.parameters()]
            )
        }
    facts["mixtures"] = mixtures(folder, processes)
    facts["evaluations"] = evaluations(folder, processes)
    straight, _ = run(folder / "straight", 21, "plain", processes, num_train_epochs=2)
    straight.add_callback(SaveAt(3))
    straight.train()
    resumed, _ = run(folder / "straight", 21, "plain", processes, num_train_epochs=2)
    resumed.train(resume_from_checkpoint=str(folder / "straight" / "run-21-plain" / "checkpoint-3"))
    pairs = zip(straight.model.parameters(), resumed.model.parameters(), strict=True)
    facts["refusals"] = refusals(folder, processes)
    if (folder / "of one process").is_dir():
        moved, _ = run(folder / "of one process", 21, "plain", processes, num_train_epochs=2)
        moved.train(resume_from_checkpoint=str(folder / "of one process" / "run-21-plain" / "checkpoint-3"))
        both = zip(moved.model.parameters(), straight.model.parameters(), strict=True)
        facts["resumed on another number"] = float(max((a - b).abs().max() for a, b in both))
    facts["resumed exactly"] = all(torch.equal(a, b) for a, b in pairs)
    if straight.accelerator.is_main_process:
        save_file(tensors, folder / "tensors.safetensors")
        (folder / "facts.json").write_text(json.dumps(facts))
