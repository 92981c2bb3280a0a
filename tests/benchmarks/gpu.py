"""Nine minutes on one GPU: samples/s, waits for the device and memory of a step, with and without compile.

python -m tests.benchmarks.gpu --out out/gpu.json

A teacher of BERT-base's size with random weights (12 layers of 768) teaches 4 of its layers on made-up rows
of 128 tokens in bfloat16. Beside ours stand plain fine-tuning of the student by Trainer, which is the limit,
and distillation as it is written by hand. Contenders run by turns, each time for a few steps after a warm-up;
what counts is the median. Nothing is waited for while a step is timed: CUDA events mark the ends of steps on
the device, and are read when the run is over. Then each runs once under the profiler, which counts what
Python waited for. Compiled code and FSDP2 on one rank have a process each, which ends where the minutes do.

With --batch and --tokens a step has other sizes: 64 x 128 keep Python busier than a large GPU, 512 x 128 the
other way round. --non_blocking has accelerate bring batches while the device works on the last one.

Without a GPU: --dry_run, tiny sizes on the CPU, whose numbers mean nothing.
"""

from __future__ import annotations

import argparse
import copy
import functools
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback

from hfdistill import (
    KD,
    AttentionKL,
    CrossEntropy,
    DistillationArguments,
    DistillationTrainer,
    HiddenMSE,
    shrink,
)
from tests.benchmarks.step_time import HandWrittenTrainer

LIMIT = "plain Trainer, no teacher"
LOGITS = 0.5 * CrossEntropy() + 0.5 * KD(temperature=4)
CONTENDERS = {
    LIMIT: None,
    "by hand": None,
    "hfdistill, live": LOGITS,
    "hfdistill, recorded": LOGITS,
    "hfdistill, hidden + attention": LOGITS + HiddenMSE() + AttentionKL(),
}
COMPILED = [name for name in CONTENDERS if "hidden" not in name]  # nothing can be read inside compiled code
FSDP2 = {
    "fsdp_version": 2,
    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "fsdp_cpu_ram_efficient_loading": "false",
}
WAITS = {
    "cuda": ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"),
    "cpu": ("aten::nonzero", "aten::masked_select"),  # what would wait on a GPU, beside READS
}
READS = ("aten::_local_scalar_dense",)
"""What Python reads of a tensor, on any device; on a GPU each is a wait, too."""
SIZES = {"width": 768, "depth": 12, "heads": 12, "vocabulary": 30522, "tokens": 128, "batch": 64}
TINY = {"width": 16, "depth": 4, "heads": 2, "vocabulary": 50, "tokens": 8, "batch": 4}
SKIP = {False: 5, True: 15}
"""Steps before the first that counts, without and with compile."""


def sizes_of(options):
    """Return the sizes of the models and of a batch."""
    if options.dry_run:
        return TINY
    return {**SIZES, "batch": options.batch, "tokens": options.tokens}


def device_of(*, dry_run):
    """Return what is measured on, or end with a line that says what is missing."""
    if torch.cuda.is_available():
        return "cuda"
    if not dry_run:
        raise SystemExit("No GPU here (torch.cuda.is_available() is False). Type --dry_run for tiny sizes.")
    return "cpu"


class Marks(TrainerCallback):
    """Marks the end of each step, on the device where there is one, and waits for nothing."""

    def __init__(self, device, *, skip, profiler=None):
        self.device, self.skip, self.profiler, self.marks = device, skip, profiler, []

    def on_step_end(self, args, state, control, **kwargs):
        if self.device == "cuda":
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
            if state.global_step == self.skip:
                torch.cuda.reset_peak_memory_stats()
        else:
            mark = time.perf_counter()
        self.marks.append(mark)
        if self.profiler is not None and state.global_step == self.skip:
            self.profiler.start()
        if self.profiler is not None and state.global_step == state.max_steps:
            self.profiler.stop()  # before Trainer reads its loss at the end

    def seconds(self):
        """Seconds of a step, once the run is over."""
        first, last, steps = self.marks[self.skip - 1], self.marks[-1], len(self.marks) - self.skip
        if self.device == "cuda":
            torch.cuda.synchronize()
            return first.elapsed_time(last) / 1000 / steps
        return (last - first) / steps


@functools.cache
def models_of(dry_run):
    """Return a teacher with random weights, and a third of its layers as the student."""
    sizes = TINY if dry_run else SIZES
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=sizes["vocabulary"],
        hidden_size=sizes["width"],
        num_hidden_layers=sizes["depth"],
        num_attention_heads=sizes["heads"],
        intermediate_size=4 * sizes["width"],
    )
    teacher = BertForSequenceClassification(config).eval()
    return teacher, shrink(teacher, layers=max(1, sizes["depth"] // 3))


@functools.cache
def rows_of(rows, tokens, vocabulary):
    """Return made-up rows of equal length."""
    draw, shape = torch.Generator().manual_seed(1), (rows, tokens)
    ids = torch.randint(1, vocabulary, shape, generator=draw).tolist()
    labels = torch.randint(2, shape[:1], generator=draw).tolist()
    return Dataset.from_dict(
        {"input_ids": ids, "attention_mask": [[1] * shape[1]] * shape[0], "labels": labels}
    )


def run(name, options, *, steps, compiled=False, profiler=None):
    """Train for some steps; return seconds of one, and the peak of the device's memory in MB."""
    sizes, skip = sizes_of(options), 2 if options.dry_run else SKIP[compiled]
    device = device_of(dry_run=options.dry_run)
    marks = Marks(device, skip=skip, profiler=profiler)
    with tempfile.TemporaryDirectory() as folder:
        args = DistillationArguments(
            folder,
            max_steps=skip + steps,
            per_device_train_batch_size=sizes["batch"],
            bf16=True,
            torch_compile=compiled,
            torch_compile_backend=("eager" if device == "cpu" else "inductor") if compiled else None,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=10_000,
            learning_rate=1e-5,
            teacher_check_rows=0,
            use_cpu=device == "cpu",
            accelerator_config={"non_blocking": options.non_blocking},
        )
        teacher, student = copy.deepcopy(models_of(options.dry_run))
        rows = rows_of((skip + steps) * sizes["batch"], sizes["tokens"], sizes["vocabulary"])
        shared = {"train_dataset": rows, "callbacks": [marks]}
        if name == LIMIT:
            trainer = Trainer(student, args, **shared)
        elif name == "by hand":
            trainer = HandWrittenTrainer(student, args, teacher=teacher, **shared)
        else:
            cache = {"teacher_cache": f"{folder}/answers"} if name.endswith("recorded") else {}
            more = {"teacher": teacher, "objective": CONTENDERS[name], **cache}
            trainer = DistillationTrainer(student, args, **more, **shared)
        trainer.train()
    seconds = marks.seconds()
    peak = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else None
    del trainer, teacher, student, shared
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return seconds, peak


def waits(name, options):
    """Return how often Python waited for the device in a step, and how often it read a number of a tensor."""
    device, steps = device_of(dry_run=options.dry_run), 2 if options.dry_run else 8
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] * (device == "cuda")
    empty, profiler = (torch.profiler.profile(activities=kinds) for _ in range(2))
    empty.start()
    empty.stop()  # which may wait by itself
    run(name, options, steps=steps, profiler=profiler)
    parts = {"waits": WAITS[device], "reads": READS}
    return {part: (counted(profiler, keys) - counted(empty, keys)) / steps for part, keys in parts.items()}


def counted(profiler, keys):
    """Return how many events of these names a profiler has seen."""
    return sum(event.count for event in profiler.key_averages() if event.key in keys)


def in_a_process(name, options, *, seconds, fsdp=False):
    """Run a contender once in a process of its own, compiled or under FSDP2; or return what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "one.json")
        start = [sys.executable]
        if fsdp:
            start += ["-m", "accelerate.commands.launch", "--use_fsdp", "--num_processes", "1"]
            start += ["--num_machines", "1", "--mixed_precision", "bf16", "--dynamo_backend", "no"]
            start += [word for key, value in FSDP2.items() for word in (f"--{key}", str(value))]
        words = ["-m", "tests.benchmarks.gpu", "--one", name, "--out", str(out)]
        for key in ("steps", "batch", "tokens"):
            words += [f"--{key}", str(getattr(options, key))]
        words += ["--non_blocking"] * options.non_blocking
        words += ["--dry_run"] * options.dry_run + ["--compile"] * (not fsdp)
        try:
            done = subprocess.run(
                [*start, *words], timeout=seconds, capture_output=True, text=True, check=False
            )
        except subprocess.TimeoutExpired:
            return {"error": f"did not end within {seconds:.0f} seconds"}
        if done.returncode:
            return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
        return json.loads(out.read_text())


def measure(options):
    """Return the numbers of every contender; those that there was no time for have none."""
    end = time.monotonic() + 60 * options.minutes
    found = {name: {"seconds": [], "peak_mb": []} for name in CONTENDERS}
    for number in range(options.rounds):
        for name, one in found.items():
            if number and time.monotonic() > end - 60 * options.minutes * 2 / 3:
                continue  # a third of the time for the rounds
            seconds, peak = run(name, options, steps=options.steps)
            one["seconds"].append(seconds)
            one["peak_mb"].append(peak)
    for name, one in found.items():
        one |= waits(name, options)
    if options.own_processes:
        left = end - time.monotonic()
        fsdp = in_a_process("hfdistill, live", options, seconds=max(1, left / 4), fsdp=True)
        found["hfdistill, live"]["fsdp2"] = fsdp
        for place, name in enumerate(COMPILED):
            share = (end - time.monotonic()) / (len(COMPILED) - place)
            found[name]["compiled"] = in_a_process(name, options, seconds=max(1, share))
    return found


def table(found, sizes):
    """Return the lines of a table: medians, and of the limit without compile."""

    def rate(seconds):
        return sizes["batch"] / statistics.median(seconds)

    def cell(one):
        if one is None:
            return "-"
        return one.get("error") or f"{rate(one['seconds']):,.0f} ({rate(one['seconds']) / limit:.2f})"

    limit = rate(found[LIMIT]["seconds"])
    lines = ["| contender | samples/s | of the limit | compiled | waits a step | numbers read | peak MB |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, one in found.items():
        peaks = [peak for peak in one["peak_mb"] if peak is not None]
        peak = f"{statistics.median(peaks):,.0f}" if peaks else "-"
        own = rate(one["seconds"])
        lines.append(
            f"| {name} | {own:,.0f} | {own / limit:.2f} | {cell(one.get('compiled'))} | {one['waits']:.1f} | "
            f"{one['reads']:.1f} | {peak} |"
        )
    lines.append("")
    lines.append(f"FSDP2 on one rank, live: {cell(found['hfdistill, live'].get('fsdp2'))} samples/s.")
    return lines


def main(words=None):
    """Measure, print the table, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="out/gpu.json")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=SIZES["batch"], help="rows of a step")
    parser.add_argument("--tokens", type=int, default=SIZES["tokens"], help="of each row")
    parser.add_argument("--non_blocking", action="store_true", help="accelerate's option of this name")
    parser.add_argument("--dry_run", action="store_true", help="tiny sizes, on the CPU where there is no GPU")
    parser.add_argument(
        "--no_processes", dest="own_processes", action="store_false", help="no compile, no FSDP2"
    )
    parser.add_argument("--one", choices=CONTENDERS, help="used by the benchmark itself")
    parser.add_argument("--compile", action="store_true", help="used by the benchmark itself")
    options = parser.parse_args(words)
    device, out = device_of(dry_run=options.dry_run), Path(options.out)
    disable_progress_bars()
    out.parent.mkdir(parents=True, exist_ok=True)
    if options.one:
        seconds, peak = run(options.one, options, steps=options.steps, compiled=options.compile)
        out.write_text(json.dumps({"seconds": [seconds], "peak_mb": [peak]}))
        return
    sizes = sizes_of(options)
    name = torch.cuda.get_device_name() if device == "cuda" else "no GPU: a dry run on the CPU"
    began = time.monotonic()
    found = measure(options)
    about = (
        f"{name}, torch {torch.__version__}, bfloat16, batches of {sizes['batch']} x {sizes['tokens']} tokens"
    )
    about += f", {sizes['depth']} layers of {sizes['width']} teach {max(1, sizes['depth'] // 3)}"
    about += ", non_blocking" * options.non_blocking
    about += f"; {(time.monotonic() - began) / 60:.1f} minutes"
    lines = [about, "", *table(found, sizes)]
    print("\n".join(lines))
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    out.write_text(json.dumps({"about": about, "sizes": sizes, "contenders": found}, indent=1))


if __name__ == "__main__":
    main()
