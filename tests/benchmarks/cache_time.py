"""What a cached teacher costs, interleaved, against plain fine-tuning of the student on the same batches.

python -m tests.benchmarks.cache_time --data ../shared/data/sst2 --teacher ../shared/models/minilm-l6-sst2
"""

import argparse
import json
import os
import statistics
import tempfile

import torch
from datasets import disable_progress_bars
from transformers import AutoTokenizer, Trainer, TrainerCallback

from hfdistill import DistillationArguments, DistillationTrainer, load, load_classifier, record, shrink
from hfdistill.data import encode
from tests.benchmarks import conditions, now


class Epochs(TrainerCallback):
    """Seconds of each epoch."""

    def __init__(self):
        self.seconds = []

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.began = now()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.seconds.append(now() - self.began)


class PlainOnTheSameBatches(DistillationTrainer):
    """Trainer's own loss and loop, on the batches of ours."""

    compute_loss = Trainer.compute_loss
    get_batch_samples = Trainer.get_batch_samples
    _get_grad_norm = Trainer._get_grad_norm
    _clip_grad_norm = Trainer._clip_grad_norm
    log = Trainer.log


def settings(options):
    return DistillationArguments(
        tempfile.mkdtemp(),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=32,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=10_000,
        bf16=options.bf16,
        teacher_check_rows=0,
        learning_rate=1e-5,
    )


def plain(options, shared, teacher):
    """Seconds of fine-tuning, and of its epochs."""
    epochs = Epochs()
    student = shrink(teacher, layers=options.layers)
    trainer = PlainOnTheSameBatches(student, settings(options), teacher=None, callbacks=[epochs], **shared)
    began = now()
    trainer.train()
    return now() - began, epochs.seconds


def one_pass(options, shared, teacher):
    """Seconds of one efficient pass of the teacher that keeps nothing but its logits in memory."""
    batches, answers = [], []
    rows = sorted((len(ids), i) for i, ids in enumerate(shared["train_dataset"]["input_ids"]))
    while rows:
        longest = rows[-1][0]
        batches.append([i for _, i in rows[-max(1, 8192 // longest) :]])
        del rows[-len(batches[-1]) :]
    tokenizer, data = shared["processing_class"], shared["train_dataset"].remove_columns("label")
    began = now()
    enabled = {"enabled": options.bf16, "dtype": torch.bfloat16}
    with torch.no_grad(), torch.autocast(next(teacher.parameters()).device.type, **enabled):
        for batch in batches:
            inputs = tokenizer.pad(data.__getitems__(batch), return_tensors="pt").to(teacher.device)
            answers.append(teacher(**inputs).logits.float().cpu())
    return now() - began


def taught(options, shared, teacher, folder=None):
    """Seconds of training by a teacher, live or recorded in a folder first; and of its epochs."""
    epochs = Epochs()
    student = shrink(teacher, layers=options.layers)
    more = {"teacher": teacher, "teacher_cache": folder, "callbacks": [epochs]}
    trainer = DistillationTrainer(student, settings(options), **more, **shared)
    began = now()
    trainer.train()
    return now() - began, epochs.seconds


def measured(options, shared, teacher):
    """One round: each once, in turn."""
    folder = tempfile.mkdtemp()
    plain_run, plain_epochs = plain(options, shared, teacher)
    passed = one_pass(options, shared, teacher)
    cold, epochs = taught(options, shared, teacher, folder)
    warm, again = taught(options, shared, teacher, folder)
    live, _ = taught(options, shared, teacher)
    began = now()
    tokens = {"tokenizer": shared["processing_class"]}
    record(teacher, shared["train_dataset"], folder=tempfile.mkdtemp(), **tokens)
    recording = now() - began
    return {
        "(recording + training) / (plain training + one pass)": cold / (plain_run + passed),
        "(recording + training) / training by the live teacher": cold / live,
        "warm training / plain training": warm / plain_run,
        "replay epoch / plain epoch": statistics.median(epochs + again) / statistics.median(plain_epochs),
        "recording / one pass": recording / passed,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=3200)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    rows = load(options.data)["train"].shuffle(seed=0).select(range(options.rows))
    shared = {"train_dataset": encode(rows, tokenizer, max_length=128), "processing_class": tokenizer}
    teacher = load_classifier(options.teacher).eval()
    rounds = [measured(options, shared, teacher) for _ in range(options.rounds)]
    print(conditions(bf16=options.bf16))
    print(f"{options.rows} rows, {options.epochs} epochs; load at the end: {os.getloadavg()[0]:.1f}")
    for name in rounds[0]:
        values = [found[name] for found in rounds]
        print(f"{name:55s} {statistics.median(values):.3f}  ({min(values):.3f} to {max(values):.3f})")
    print(json.dumps([{name: round(value, 4) for name, value in found.items()} for found in rounds]))


if __name__ == "__main__":
    main()
