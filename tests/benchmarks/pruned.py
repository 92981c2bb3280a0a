"""What a pruned vocabulary saves: parameters, megabytes, the optimizer's step and the whole one.

python -m tests.benchmarks.pruned --data FOLDER --teacher FOLDER
"""

import argparse
import statistics

import torch
from transformers import AutoTokenizer

from hfdistill import load, load_classifier, prune_vocabulary, shrink
from tests.benchmarks import now


class Side:
    """A student, its optimizer, and the same 32 texts for each."""

    def __init__(self, model, tokenizer, texts, labels, *, fused):
        self.model = model.train()
        self.batches = [
            {
                **tokenizer(rows, padding=True, truncation=True, max_length=128, return_tensors="pt"),
                "labels": y,
            }
            for rows, y in zip(texts, labels, strict=True)
        ]
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=fused)

    def step(self, batch):
        """Seconds of the whole step, and of the optimizer in it."""
        start = now()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self.model(**batch).loss
        loss.backward()
        before = now()
        self.optimizer.step()
        self.optimizer.zero_grad()
        end = now()
        return end - start, end - before


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    told = parser.parse_args()
    train = load(told.data)["train"]
    tokenizer = AutoTokenizer.from_pretrained(told.teacher)
    student = shrink(load_classifier(told.teacher), layers=told.layers)
    cut, its_own = prune_vocabulary(student, tokenizer, train)
    rows = train.shuffle(seed=0).select(range(32 * told.steps))
    texts = [rows[i : i + 32]["text"] for i in range(0, len(rows), 32)]
    labels = [torch.tensor(rows[i : i + 32]["label"]) for i in range(0, len(rows), 32)]
    for name, model, words in (("whole", student, tokenizer), ("pruned", cut, its_own)):
        weights = model.num_parameters()
        print(f"{name}: {len(words):,} tokens, {weights / 1e6:.1f} M parameters, {4 * weights / 1e6:.1f} MB")
    for fused in (False, True):
        whole, pruned = (
            Side(*side, texts, labels, fused=fused) for side in ((student, tokenizer), (cut, its_own))
        )
        seen = [
            (a, b, whole.step(a), pruned.step(b)) for a, b in zip(whole.batches, pruned.batches, strict=True)
        ]
        for part, what in enumerate(("step", "optimizer")):
            times = [(x[part], y[part]) for *_, x, y in seen[3:]]
            before, after = (1000 * statistics.median(side) for side in zip(*times, strict=True))
            ratio = statistics.median(y / x for x, y in times)
            print(f"AdamW, fused={fused}, {what}: {before:.1f} -> {after:.1f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
