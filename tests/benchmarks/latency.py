"""Milliseconds of a batch by engine: PyTorch, ONNX and OpenVINO, float32 and int8, on 1, 2, … threads.

python -m tests.benchmarks.latency --student out/student --data ../shared/data/sst2 \
    --teacher ../shared/models/minilm-l6-sst2 --threads 1 2 --out out/latency.json

The student is exported to the engines that are installed; one with exits (`with_exits`, with a threshold) as
its stages, and beside it the same student without them. Every number of threads is a process of its own. Rows
are full, of --tokens; those of a student with exits are real ones at their own length, since where they leave
depends on what they say. Engines take turns, after a warm-up; what counts is the median of --rounds, and how
many times the teacher's speed in PyTorch that is.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from datasets import disable_progress_bars
from transformers import AutoTokenizer

from hfdistill import StagedModel, export, load, load_classifier, shrink
from hfdistill.exporters import OnnxModel, OpenVinoModel
from tests.benchmarks import now

FILES = {
    "ONNX": "onnx/model.onnx",
    "ONNX int8": "onnx/model_int8.onnx",
    "OpenVINO": "openvino/openvino_model.xml",
    "OpenVINO int8": "openvino/openvino_model_int8.xml",
}
STAGES = {"exits, ONNX": "exits/stage_01.onnx", "exits, ONNX int8": "exits/int8_stage_01.onnx"}


def cut(teacher, folder):
    """Write three layers of the teacher, untrained: they take as long, and what they answer means nothing."""
    shrink(load_classifier(teacher), layers=3).save_pretrained(folder)
    AutoTokenizer.from_pretrained(teacher).save_pretrained(folder)
    return str(folder)


def exported(options, folder):
    """Export the student to every engine that is installed, and say what each lost."""
    rows = load(options.data)["validation"]
    rows = rows.select(range(min(options.rows or len(rows), len(rows))))
    model, tokenizer = load_classifier(options.student), AutoTokenizer.from_pretrained(options.student)
    plain = getattr(model, "backbone", model)
    settings = {"data": rows, "tokenizer": tokenizer, "speed": False, "max_drop": 100}
    reports = {}
    if plain is not model:
        threshold = {"exit_threshold": options.exit_threshold}
        reports["exits"] = export(model, folder / "exits", **threshold, **settings).table()
    reports["onnx"] = export(plain, folder / "onnx", **settings).table()
    if find_spec("openvino") is not None and find_spec("nncf") is not None:
        train = load(options.data)["train"]
        calibrated = {"engine": "openvino", "calibration": train}
        reports["openvino"] = export(plain, folder / "openvino", **calibrated, **settings).table()
    plain.save_pretrained(folder / "student")
    for name, text in reports.items():
        print(f"{name}\n{text}\n", flush=True)
    return reports


def engines(options, folder):
    """Return every engine that was exported, as a function of a batch, by name."""
    found = {
        "teacher": load_classifier(options.teacher).eval(),
        "PyTorch": load_classifier(folder / "student").eval(),
    }
    threads = torch.get_num_threads()
    for name, file in FILES.items():
        path = folder / file
        if path.is_file():
            exact = {"precision": "f32"} if name == "OpenVINO" else {}
            kind = OnnxModel if path.suffix == ".onnx" else OpenVinoModel
            found[name] = kind(path, threads=threads, **exact)
    if (folder / "exits").is_dir():
        whole = load_classifier(options.student).eval()
        whole.exit_threshold = options.exit_threshold or whole.exit_threshold
        found["exits, PyTorch"] = whole
        found |= {name: StagedModel(folder / file, threads=threads) for name, file in STAGES.items()}
    return found


def batches_of(options, size, *, full):
    """Return batches of so many rows: full ones of made-up ids, or real ones at their own length."""
    tokenizer = AutoTokenizer.from_pretrained(options.student)
    if full:
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(1000, 20000, (size, options.tokens), generator=draw)
        return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]
    texts = load(options.data)["validation"].shuffle(seed=0)["text"][: max(64, 2 * size)]
    parts = [texts[i : i + size] for i in range(0, len(texts), size)]
    cut = {"padding": True, "truncation": True, "max_length": options.tokens, "return_tensors": "pt"}
    return [
        {k: v for k, v in tokenizer(part, **cut).items() if k in ("input_ids", "attention_mask")}
        for part in parts
    ]


def timed(models, batches, rounds):
    """Return the milliseconds of a batch of each model, the median of passes by turns."""
    passes = {name: [] for name in models}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for name in list(models) if number % 2 else list(models)[::-1]:
                began = now()
                for batch in batches:
                    models[name](**batch)
                passes[name].append(1000 * (now() - began) / len(batches))
    return {name: statistics.median(some[1:]) for name, some in passes.items()}


def one_number_of_threads(options, folder):
    """Time all engines in this process, on as many threads as it was started with."""
    torch.set_num_threads(options.threads[0])
    models = engines(options, folder)
    results = {}
    for size in options.batches:
        plain = {name: model for name, model in models.items() if not name.startswith("exits")}
        results[f"{size} x {options.tokens}"] = timed(
            plain, batches_of(options, size, full=True), options.rounds
        )
        if len(plain) < len(models):
            real = batches_of(options, size, full=False)
            results[f"{size} real rows"] = timed(models, real, options.rounds)
    return results


def table(threads, results):
    """Return the lines of a table: milliseconds, and times the teacher's speed."""
    names = list(dict.fromkeys(name for times in results.values() for name in times))
    lines = [f"| {threads} threads | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for batch, times in results.items():
        cells = [f"{times[n]:.3g} ({times['teacher'] / times[n]:.1f}x)" if n in times else "-" for n in names]
        lines.append(f"| {batch} | " + " | ".join(cells) + " |")
    return lines


def main(words=None):
    """Export, time, print the tables and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", help="folder of a student, with exits or without; default three layers")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", required=True, help="folder with train.parquet and validation.parquet")
    parser.add_argument("--exit_threshold", type=float)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, os.cpu_count() or 1])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rows", type=int, help="to compare answers on; default all")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", default="out/latency.json")
    parser.add_argument("--folder", help="used by the benchmark itself")
    options = parser.parse_args(words)
    disable_progress_bars()
    if options.folder:
        Path(options.out).write_text(json.dumps(one_number_of_threads(options, Path(options.folder))))
        return
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        if options.student is None:
            options.student = cut(options.teacher, Path(scratch, "cut"))
        reports = exported(options, Path(scratch))
        for threads in dict.fromkeys(options.threads):
            part = Path(scratch, f"{threads}.json")
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks.latency",
                *(sys.argv[1:] if words is None else words),
            ]
            command += ["--student", options.student, "--folder", scratch]
            command += ["--out", str(part), "--threads", str(threads)]
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
            found[threads] = json.loads(part.read_text())
            print("\n".join(table(threads, found[threads])), flush=True)
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps({"reports": reports, "ms": found}, indent=1))


if __name__ == "__main__":
    main()
