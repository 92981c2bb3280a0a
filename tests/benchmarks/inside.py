"""Time and memory of looking inside: our taps against output_hidden_states and output_attentions, eager.

python -m tests.benchmarks.inside --data ../shared/data/sst2 --teacher ../shared/models/minilm-l6-sst2
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hfdistill import KD, AttentionKL, CrossEntropy, DistillationTrainer, HiddenMSE, MiniLMv2, load, shrink
from hfdistill.data import encode
from tests.benchmarks import conditions
from tests.benchmarks.step_time import Clock, HandWrittenTrainer, settings

LOGITS = 0.5 * CrossEntropy() + 0.5 * KD(temperature=4)
OBJECTIVES = {
    "logits": LOGITS,
    "ours": LOGITS + HiddenMSE() + AttentionKL(),
    "recipe": LOGITS + HiddenMSE() + MiniLMv2(),
}


class EagerTrainer(HandWrittenTrainer):
    """Hidden states and attentions as most people read them; student layers 1, 2, … of every second one."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        wanted = {"output_hidden_states": True, "output_attentions": True}
        own = model(**inputs, **wanted)
        with torch.no_grad(), self.accelerator.autocast():
            theirs = self.teacher(**{k: v for k, v in inputs.items() if k != "labels"}, **wanted)
        t = self.temperature
        soft = functional.kl_div(
            functional.log_softmax(own.logits / t, -1),
            functional.softmax(theirs.logits / t, -1),
            reduction="batchmean",
        )
        loss = 0.5 * own.loss + 0.5 * t * t * soft
        mask = inputs["attention_mask"]
        lengths, stride = mask.sum(-1), len(theirs.attentions) // len(own.attentions)
        for n in range(1, len(own.attentions) + 1):
            far = (own.hidden_states[n] - theirs.hidden_states[n * stride]).square().mean(-1)
            loss = loss + ((far * mask).sum(-1) / lengths).mean()
            p, q = theirs.attentions[n * stride - 1], own.attentions[n - 1]
            kl = (p * ((p + 1e-12).log() - (q + 1e-12).log())).sum(-1).mean(1)
            loss = loss + ((kl * mask).sum(-1) / lengths).mean()
        return (loss, own) if return_outputs else loss


def rows_of(sentences, tokenizer, tokens, number):
    """Real sentences; for a number of tokens, so many joined that each row is full."""
    if not tokens:
        return encode(sentences.select(range(number)), tokenizer, max_length=128)
    text = " ".join(sentences["text"][: number * tokens // 8])
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    cut = [ids[i * (tokens - 2) : (i + 1) * (tokens - 2)] for i in range(number)]
    whole = [[tokenizer.cls_token_id, *part, tokenizer.sep_token_id] for part in cut]
    columns = {"input_ids": whole, "attention_mask": [[1] * len(row) for row in whole]}
    return Dataset.from_dict({**columns, "labels": [i % 2 for i in range(number)]})


def seconds(kind, encoded, tokenizer, options, *, steps, tokens, batches):
    args = settings(steps + 2, options.bf16, **batches)
    args.per_device_train_batch_size = 16 if tokens else 32
    attention = "eager" if kind == "eager" else "sdpa"
    teacher = AutoModelForSequenceClassification.from_pretrained(
        options.teacher, attn_implementation=attention
    )
    student = shrink(teacher, layers=options.layers)
    student.set_attn_implementation(attention)
    clock = Clock(skip=1)
    shared = {
        "train_dataset": encoded,
        "processing_class": tokenizer,
        "callbacks": [clock],
        "teacher": teacher,
    }
    if kind == "eager":
        trainer = EagerTrainer(student, args, **shared)
    else:
        trainer = DistillationTrainer(student, args, objective=OBJECTIVES[kind], **shared)
    trainer.train()
    del trainer
    gc.collect()
    return clock.seconds()


def peak():
    """MB that this process has held at most (Linux)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def peak_mb(kind, tokens):
    """Of a process of its own, above what it held before the first step."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-m", "tests.benchmarks.inside", *sys.argv[1:], "--only", kind, str(tokens)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=plain)
    return float(done.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--lengths", type=int, nargs="*", default=[0, 256, 512], help="0: those of SST-2")
    parser.add_argument("--only", nargs=2)
    options = parser.parse_args()
    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    sentences = load(options.data)["train"].shuffle(seed=0)
    same = {"train_sampling_strategy": "sequential"}
    if options.only:
        kind, tokens = options.only[0], int(options.only[1])
        encoded = rows_of(sentences, tokenizer, tokens, 64)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
        before = peak()
        seconds(kind, encoded, tokenizer, options, steps=1, tokens=tokens, batches=same)
        print(peak() - before)
        return
    print(conditions(bf16=options.bf16))
    pairs = [(0, "recipe", "logits", {}), (0, "recipe", "logits", same)] if 0 in options.lengths else []
    pairs += [(tokens, "ours", "eager", same) for tokens in options.lengths]
    for tokens, first, second, batches in pairs:
        steps = options.steps * (1 if tokens else 5)
        encoded = rows_of(sentences, tokenizer, tokens, 3200 if not tokens else 16 * (steps + 2))
        times = {first: [], second: []}
        for _ in range(options.rounds):
            for kind, kept in times.items():
                kept.append(
                    seconds(kind, encoded, tokenizer, options, steps=steps, tokens=tokens, batches=batches)
                )
        ratios = sorted(a / b for a, b in zip(times[first], times[second], strict=True))
        found = {"tokens": tokens or "sst2", "batches": "same" if batches else "default"}
        found |= {kind: round(statistics.median(kept), 3) for kind, kept in times.items()}
        found |= {
            "ratio": round(statistics.median(ratios), 3),
            "from": round(ratios[0], 3),
            "to": round(ratios[-1], 3),
        }
        if second == "eager":
            memory = [peak_mb(kind, tokens) for kind in (first, second)]
            found |= {"peak_mb": [round(m) for m in memory], "memory": round(memory[0] / memory[1], 3)}
        print(json.dumps(found), flush=True)
    print(f"load at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
