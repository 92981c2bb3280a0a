"""Peak memory of training: plain fine-tuning of the student, by hand, ours with a live or a recorded teacher.

python -m tests.benchmarks.peak_memory --data ../shared/data/sst2 --teacher ../shared/models/minilm-l6-sst2

Each run is a process of its own; the peak is what it holds at most while it trains, libraries included
(Linux). The teacher's answers are recorded before, and the process that reads them loads no teacher.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from datasets import disable_progress_bars
from transformers import AutoTokenizer

from hfdistill import CachedTeacher, load, load_classifier, record
from hfdistill.data import encode
from tests.benchmarks.inside import peak
from tests.benchmarks.step_time import build, settings

KINDS = {"plain Trainer, no teacher": "plain", "by hand": "hand", "live": "ours", "recorded": "recorded"}


def encoded(options):
    """Return the rows of the run, and the tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    rows = load(options.data)["train"].shuffle(seed=0).select(range(32 * options.steps))
    return encode(rows, tokenizer, max_length=128), tokenizer


def one(kind, options):
    """Train in this process; print the MB that it holds at most."""
    rows, tokenizer = encoded(options)
    teacher = student_of = load_classifier(options.teacher)
    if kind == "recorded":
        teacher = CachedTeacher(options.answers)
    args = settings(options.steps, bf16=False, train_sampling_strategy="sequential")
    name = "ours" if kind == "recorded" else kind
    trainer, _ = build(name, args, rows, tokenizer, teacher, options.layers, student_of=student_of)
    del teacher, student_of
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    trainer.train()
    print(peak())


def main():
    """Run each kind by turns, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--answers", help="used by the benchmark itself")
    parser.add_argument("--one", help="used by the benchmark itself")
    options = parser.parse_args()
    disable_progress_bars()
    if options.one:
        one(options.one, options)
        return
    found = {name: [] for name in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        rows, tokenizer = encoded(options)
        record(load_classifier(options.teacher), rows, folder=folder, tokenizer=tokenizer)
        for _ in range(options.rounds):
            for name, kind in KINDS.items():
                command = [sys.executable, "-m", "tests.benchmarks.peak_memory", *sys.argv[1:]]
                command += ["--answers", folder, "--one", kind]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found[name].append(float(done.stdout.split()[-1]))
    base = statistics.median(found["plain Trainer, no teacher"])
    for name, values in found.items():
        middle = statistics.median(values)
        print(f"{name:28s} {middle:7.0f} MB, {middle / base:.3f} of plain fine-tuning")
    print(json.dumps({name: [round(value) for value in values] for name, values in found.items()}))


if __name__ == "__main__":
    main()
