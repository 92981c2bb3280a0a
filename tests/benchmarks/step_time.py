"""Time of a training step, interleaved: ours, by hand, plain; random batches and grouped ones.

python -m tests.benchmarks.step_time --data ../shared/data/sst2 --teacher ../shared/models/minilm-l6-sst2
"""

import argparse
import json
import os
import statistics
import tempfile

import torch
from datasets import disable_progress_bars
from torch.nn import functional
from transformers import AutoTokenizer, Trainer, TrainerCallback

from hfdistill import (
    KD,
    CrossEntropy,
    DistillationArguments,
    DistillationTrainer,
    HiddenMSE,
    MiniLMv2,
    load,
    load_classifier,
    shrink,
)
from hfdistill.data import encode
from tests.benchmarks import conditions, now


class HandWrittenTrainer(Trainer):
    """What people write today."""

    loss_is_scaled_for_ga = False

    def __init__(self, *args, teacher, temperature=4.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.eval().to(self.args.device)
        self.temperature = temperature

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        with torch.no_grad(), self.accelerator.autocast():
            teacher = self.teacher(**{k: v for k, v in inputs.items() if k != "labels"})
        t = self.temperature
        soft = functional.kl_div(
            functional.log_softmax(outputs.logits.float() / t, -1),
            functional.softmax(teacher.logits.float() / t, -1),
            reduction="batchmean",
        )
        loss = 0.5 * outputs.loss + 0.5 * t * t * soft
        return (loss, outputs) if return_outputs else loss


class Clock(TrainerCallback):
    """Seconds from the end of one step to the end of the next, the first `skip` left out."""

    def __init__(self, skip):
        self.skip, self.marks = skip, []

    def on_step_end(self, args, state, control, **kwargs):
        self.marks.append(now())

    def seconds(self):
        kept = self.marks[self.skip :]
        return (kept[-1] - kept[0]) / (len(kept) - 1)


def settings(steps, bf16, **options):
    return DistillationArguments(
        tempfile.mkdtemp(),
        max_steps=steps,
        per_device_train_batch_size=32,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=10_000,
        bf16=bf16,
        teacher_check_rows=0,
        learning_rate=1e-5,
        **options,
    )


def build(kind, args, encoded, tokenizer, teacher, layers, *, student_of=None):
    student = shrink(student_of or teacher, layers=layers)
    clock = Clock(skip=3)
    shared = {"train_dataset": encoded, "processing_class": tokenizer, "callbacks": [clock]}
    if kind == "plain":
        return Trainer(student, args, **shared), clock
    if kind == "hand":
        return HandWrittenTrainer(student, args, teacher=teacher, **shared), clock
    objective = 0.5 * CrossEntropy() + 0.5 * KD(temperature=4)
    if kind == "inside":
        objective = objective + HiddenMSE() + MiniLMv2()
    return DistillationTrainer(student, args, teacher=teacher, objective=objective, **shared), clock


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    rows = load(options.data)["train"].shuffle(seed=0).select(range(6400))
    encoded = encode(rows, tokenizer, max_length=128)
    teacher = load_classifier(options.teacher)
    kinds = {
        "by hand": ("hand", {"train_sampling_strategy": "sequential"}),
        "hfdistill": ("ours", {"train_sampling_strategy": "sequential"}),
        "plain Trainer, no teacher": ("plain", {"train_sampling_strategy": "sequential"}),
        "hfdistill, default batches": ("ours", {}),
        "hfdistill, inside too": ("inside", {"train_sampling_strategy": "sequential"}),
    }
    seconds = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, (kind, extra) in kinds.items():
            args = settings(options.steps + 3, options.bf16, **extra)
            trainer, clock = build(kind, args, encoded, tokenizer, teacher, options.layers)
            trainer.train()
            seconds[name].append(clock.seconds())
    base = "by hand"
    print(conditions(bf16=options.bf16))
    print(f"load at the end: {os.getloadavg()[0]:.1f}")
    for name, values in seconds.items():
        ratio = statistics.median(v / b for v, b in zip(values, seconds[base], strict=True))
        print(f"{name:28s} {1000 * statistics.median(values):7.1f} ms a step, {ratio:.3f} of {base!r}")
    print(json.dumps({name: [round(v, 4) for v in values] for name, values in seconds.items()}))


if __name__ == "__main__":
    main()
