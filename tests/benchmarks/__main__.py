"""All benchmarks, one after the other, each in a process of its own: ratios on this machine, as tables.

python -m tests.benchmarks --data ../shared/data/sst2 --teacher ../shared/models/minilm-l6-sst2
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

BENCHMARKS = {
    "step_time": "a step of ours beside one by hand and plain fine-tuning",
    "cache_time": "what a recorded teacher costs and spares",
    "inside": "hidden states and attention beside output_attentions on eager",
    "peak_memory": "the memory of training with a live and a recorded teacher",
    "pruned": "a smaller vocabulary",
    "rows": "10 thousand to 10 million rows, streamed: seconds of the CPU, disk and memory",
    "whole_run": "a whole distillation beside a loop by hand and TextBrewer",
    "latency": "milliseconds of a batch by engine and threads",
    "gpu": "a step on a GPU, where there is one",
}

OWN_ROWS = {"rows", "gpu"}
"""Those that make their rows and models."""

WRITES = {"whole_run", "latency", "gpu"}
"""Those that write their numbers by themselves."""


def main(args):
    """Run what is asked for; the output of each benchmark is its table, and stays in a file."""
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name in args.only or BENCHMARKS:
        print(f"## {name}: {BENCHMARKS[name]}", flush=True)
        command = [sys.executable, "-m", f"tests.benchmarks.{name}"]
        if name == "gpu" and not torch.cuda.is_available():
            print("There is no GPU here: not measured.\n", flush=True)
            continue
        if name not in OWN_ROWS:
            command += ["--data", args.data, "--teacher", args.teacher]
        if name == "rows":
            command += ["--out", str(folder / name)]
        if name in WRITES:
            command += ["--out", str(folder / f"{name}.json")]
        if name == "whole_run":
            command += ["--rows", str(args.rows)]
        done = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        print(done.stdout, flush=True)
        (folder / f"{name}.txt").write_text(done.stdout)
        if done.returncode:
            raise SystemExit(f"{name} ended with status {done.returncode}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with train.parquet and validation.parquet")
    parser.add_argument("--teacher", required=True, help="folder of a classifier of six layers")
    parser.add_argument("--rows", type=int, default=6000, help="of the whole run")
    parser.add_argument("--only", nargs="*", choices=BENCHMARKS)
    parser.add_argument("--out", default="out/benchmarks")
    main(parser.parse_args())
