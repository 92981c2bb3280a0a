"""A classifier from text and the names of its classes, with a few labels or none.

python recipes/no_labels.py --texts comments.csv --classes refund "card lost" --encoder all-mpnet-base-v2
python recipes/no_labels.py --texts comments.csv --examples labelled.csv

The teacher is an embedding model (few_shot); zero_shot takes an NLI model, prompted a language model.
With labelled rows, a quarter of them is kept back to see what teacher and student are worth.
"""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import ClassLabel, concatenate_datasets
from transformers import AutoTokenizer, HfArgumentParser

import hfdistill as hd


@dataclass
class Study:
    """What there is, and what to make of it."""

    texts: str = field(metadata={"help": "File or folder of texts without labels."})
    classes: list[str] | None = field(default=None, metadata={"help": "Names; else those of the examples."})
    examples: str | None = field(default=None, metadata={"help": "File of texts with a label."})
    encoder: str = field(default="sentence-transformers/all-mpnet-base-v2", metadata={"help": "The teacher."})
    student: str = field(default="sentence-transformers/all-MiniLM-L6-v2", metadata={"help": "To be cut."})
    layers: int = field(default=3, metadata={"help": "Of the student."})
    keep: float = field(
        default=0.9, metadata={"help": "Share of each class, of which the teacher is surest."}
    )


def labelled_rows(path, classes):
    """The examples, a quarter of each class kept back, with labels in one order."""
    if path is None:
        return None, None
    rows = concatenate_datasets(list(hd.load(path).values()))
    names = classes or rows.features["label"].names
    rows = rows.map(lambda row: {"label": names.index(rows.features["label"].int2str(row["label"]))})
    rows = rows.cast_column("label", ClassLabel(names=names))
    parts = rows.train_test_split(test_size=0.25, seed=0, stratify_by_column="label")
    return parts["train"], parts["test"]


def main(study: Study, args: hd.DistillationArguments) -> None:
    known, held_out = labelled_rows(study.examples, study.classes)
    texts = concatenate_datasets(list(hd.load(study.texts).values())).select_columns(["text"])
    teacher = hd.few_shot(study.encoder, study.classes, known, cache=Path(args.output_dir, "answers"))

    train = hd.keep_surest(texts, teacher, keep=study.keep)
    if known is not None:
        train = concatenate_datasets(
            [known, train.add_column("label", [-100] * len(train)).cast(known.features)]
        )
    objective = (
        hd.KD(temperature=2) if known is None else 0.9 * hd.KD(temperature=2) + 0.1 * hd.CrossEntropy()
    )

    encoder = hd.load_classifier(study.student, new_head=teacher.classes)
    trainer = hd.DistillationTrainer(
        hd.shrink(encoder, layers=study.layers), args, teacher=teacher, objective=objective,
        train_dataset=train, processing_class=AutoTokenizer.from_pretrained(study.student),
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    rows = texts.select(range(min(1000, len(texts)))) if held_out is None else held_out
    report = hd.measure(args.output_dir, rows, teacher=teacher)
    report.save(Path(args.output_dir, "report.json"))
    print(report.table())


if __name__ == "__main__":
    main(*HfArgumentParser((Study, hd.DistillationArguments)).parse_args_into_dataclasses())
