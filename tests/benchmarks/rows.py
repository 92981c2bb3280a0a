"""Rows -> seconds and megabytes: a stream is recorded and learned from; lookups in a recording of 10 million.

python -m tests.benchmarks.rows --sizes 10000 100000 1000000 --simulated 10000000 --out out/benchmarks/rows

Each size runs in a process of its own: a tiny teacher (2 layers of width 32, 200 words) answers made-up texts
of 4 to 12 words, which come from a generator and are never held; then all answers are replayed, 32 rows a
batch, and a tiny student takes a thousand steps on them, or with --steps 0 a whole pass. Seconds are those of
the CPU. The simulated size has real files with random keys and logits, of which only opening and lookups are
timed. --models base has 12 layers of 768 teach 4 of them instead, 256 rows a batch, on the GPU where there is
one; then seconds are those of the clock.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

WORDS = [f"w{i}" for i in range(195)]
BATCH = 32
LOOKUPS = 1000


def make_rows(rows):
    """Yield texts and labels that two passes give alike."""
    for first in range(0, rows, 1000):
        draw = np.random.default_rng(first)
        lengths = draw.integers(4, 13, 1000)
        words = draw.integers(0, len(WORDS), (1000, 13))
        for i in range(min(1000, rows - first)):
            text = " ".join(WORDS[word] for word in words[i, : lengths[i]])
            yield {"text": text, "label": int(words[i, 0] % 2)}


def make_models(kind):
    """Return a tokenizer, a teacher and a student, "tiny" or "base"."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=16, **names)

    def model(layers, seed):
        torch.manual_seed(seed)
        sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 200}
        if kind == "base":
            sizes = {}  # those of BERT-base
        config = BertConfig(num_hidden_layers=layers, max_position_embeddings=16, num_labels=2, **sizes)
        return BertForSequenceClassification(config).eval()

    depths = {"tiny": (2, 1), "base": (12, 4)}[kind]
    return tokenizer, *(model(layers, seed) for seed, layers in enumerate(depths))


def memory():
    """Return the process's resident memory, now and at its peak, in MB (10⁶ bytes)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = {
        line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "VmHWM"))
    }
    return kilobytes["VmRSS"] * 1024 / 1e6, kilobytes["VmHWM"] * 1024 / 1e6


def size_of(folder):
    """Return what the files of a folder take, in MB."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6


class Phases:
    """Seconds and memory of each part of a run."""

    def __init__(self, clock=time.process_time):
        self.before, self.done, self.clock = memory()[0], {}, clock

    def add(self, name, function):
        """Run a part and write down what it took."""
        began = self.clock()
        result = function()
        now, peak = memory()
        seconds = self.clock() - began
        print(f"{name}: {seconds:.1f} s", flush=True)
        self.done[name] = {"seconds": seconds, "more_mb": now - self.before, "peak_mb": peak - self.before}
        return result


def measure(rows, folder, steps, kind):
    """Record a stream of so many rows, learn from it, look rows up; return what it took as plain data."""
    import torch
    from datasets import IterableDataset
    from transformers import TrainingArguments

    from hfdistill import KD, CachedTeacher, DistillationTrainer, record

    torch.set_num_threads(1)
    tokenizer, teacher, student = make_models(kind)
    large = kind == "base"
    size, gpu = 256 if large else BATCH, large and torch.cuda.is_available()
    teacher.to("cuda" if gpu else "cpu")
    stream = IterableDataset.from_generator(make_rows, gen_kwargs={"rows": rows})
    record(teacher, stream.take(64), folder=folder / "warm", tokenizer=tokenizer)  # all libraries are loaded
    phases = Phases(time.perf_counter if large else time.process_time)
    phases.add("record", lambda: record(teacher, stream, folder=folder / "answers", tokenizer=tokenizer))
    cached = phases.add("open", lambda: CachedTeacher(folder / "answers"))
    args = TrainingArguments(
        str(folder / "run"), max_steps=min(steps or rows, -(-rows // size)), per_device_train_batch_size=size,
        logging_steps=500, report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=not gpu,
        bf16=large,
    )  # fmt: skip
    phases.add("replay", lambda: replay(cached, stream, tokenizer))
    trainer = DistillationTrainer(
        student, args, teacher=cached, objective=KD(), train_dataset=stream, processing_class=tokenizer
    )
    phases.add("train", trainer.train)
    keys = [shard_keys(path) for path in sorted(cached.folder.glob("shard-*"))]
    found = look_up(cached.store, np.concatenate(keys[:: max(1, len(keys) // 50)]))
    return {
        "rows": rows, "stored": len(cached.store), "trained": min(args.max_steps * size, rows),
        "models": kind, "device": torch.cuda.get_device_name() if gpu else "cpu", "lookup_ms": found,
        "disk_mb": size_of(folder / "answers"), **phases.done,
    }  # fmt: skip


def replay(cached, stream, tokenizer):
    """Read the answers to all rows, as the batches of a run do."""
    from torch.utils.data import DataLoader
    from transformers import DataCollatorWithPadding

    from hfdistill.data import encode

    rows = encode(stream, tokenizer).remove_columns("label")
    for batch in DataLoader(rows, BATCH, collate_fn=DataCollatorWithPadding(tokenizer)):
        assert cached.trace(batch).logits.shape == (len(batch["input_ids"]), 2)


def simulate(rows, folder):
    """Write the files of a recording of so many rows, with random values, and open it and look rows up."""
    from safetensors.torch import save
    from torch import from_numpy, full, int32

    from hfdistill.teachers.cache.contents import SCHEMA, Contents, write_facts
    from hfdistill.teachers.cache.store import ROWS_PER_SHARD, Store

    folder.mkdir(parents=True, mode=0o700)
    facts = {"fingerprint": "simulated", "inputs": ["input_ids"], "accepts": ["input_ids"], "renamed": {}}
    facts |= {
        "same_tokens": True,
        "config": None,
        "versions": {"transformers": "", "attention": None},
        "shapes": {"logits": [2]},
    }
    write_facts(folder, {"schema": SCHEMA, "contents": Contents().plain(), **facts})
    draw, known = np.random.default_rng(0), []
    for first in range(0, rows, ROWS_PER_SHARD):
        size = min(ROWS_PER_SHARD, rows - first)
        keys = draw.integers(0, 256, (size, 16), dtype=np.uint8)
        logits = from_numpy(draw.standard_normal((size, 2), dtype=np.float32))
        content = save(
            {"keys": from_numpy(keys), "lengths": full((size,), 12, dtype=int32), "logits": logits}
        )
        (folder / f"shard-{hashlib.sha256(content).hexdigest()}.safetensors").write_bytes(content)
        known += [keys] if first // ROWS_PER_SHARD % 50 == 0 else []
    phases = Phases()
    store = phases.add("open", lambda: Store(folder))
    found = look_up(store, np.concatenate(known))
    return {"rows": rows, "stored": len(store), "lookup_ms": found, "disk_mb": size_of(folder), **phases.done}


def shard_keys(path):
    """Return the keys of a shard."""
    from safetensors.numpy import load_file

    return load_file(path)["keys"]


def look_up(store, keys):
    """Return milliseconds of the CPU for the logits of 32 rows drawn at random: the median, and 95 %."""
    draw, times = np.random.default_rng(1), []
    for _ in range(LOOKUPS):
        batch = keys[draw.integers(0, len(keys), BATCH)]
        began = time.process_time()
        places = store.find(batch)
        store.logits(places)
        times.append(1000 * (time.process_time() - began))
        assert (places >= 0).all()
    return {"median": float(np.median(times)), "p95": float(np.quantile(times, 0.95))}


def table(results):
    """Return the Markdown table of all sizes."""
    lines = [
        "| rows | record, s | open, s | replay, s | train, ms a row | lookup of 32, ms | disk, MB "
        "| memory it takes, MB |",
        f"|{' ---: |' * 8}",
    ]
    for result in results:
        cells = [f"{result['rows']:,}"]
        cells.append(f"{result['record']['seconds']:.1f}" if "record" in result else "simulated")
        cells.append(f"{result['open']['seconds']:.2f}")
        train = result.get("train")
        cells.append(f"{result['replay']['seconds']:.1f}" if train else "-")
        cells.append(f"{1000 * train['seconds'] / result['trained']:.2f}" if train else "-")
        cells.append(f"{result['lookup_ms']['median']:.2f} (95 %: {result['lookup_ms']['p95']:.2f})")
        cells.append(f"{result['disk_mb']:,.1f}")
        peak = max(
            result[name]["peak_mb"] for name in ("record", "open", "replay", "train") if name in result
        )
        cells.append(f"{peak:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(args):
    """Measure every size in a process of its own, and print the table."""
    if args.one:
        kind, rows = args.one
        run = measure if kind == "measured" else simulate
        more = {"steps": args.steps, "kind": args.models} if kind == "measured" else {}
        Path(args.out, f"{kind}-{rows}.json").write_text(json.dumps(run(int(rows), Path(args.work), **more)))
        return
    folder, results = Path(args.out), []
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [("measured", rows) for rows in args.sizes] + [("simulated", rows) for rows in args.simulated]
    for kind, rows in sizes:
        work = folder / f"work-{kind}-{rows}"
        shutil.rmtree(work, ignore_errors=True)
        command = [sys.executable, "-m", "tests.benchmarks.rows", "--one", kind, str(rows)]
        command += ["--out", str(folder), "--work", str(work), "--steps", str(args.steps)]
        command += ["--models", args.models]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(work / "datasets")}
        subprocess.run(command, check=True, env=environment)
        shutil.rmtree(work)
        results.append(json.loads((folder / f"{kind}-{rows}.json").read_text()))
        print(table(results), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--simulated", type=int, nargs="*", default=[10_000_000])
    parser.add_argument("--steps", type=int, default=1000, help="of training at most; 0: all rows once")
    parser.add_argument("--models", choices=("tiny", "base"), default="tiny")
    parser.add_argument("--out", default="out/benchmarks/rows")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    main(parser.parse_args())
