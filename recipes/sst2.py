"""Distil a BERT sentiment classifier into one of half its depth, and measure what was kept.

accelerate launch recipes/sst2.py
accelerate launch recipes/sst2.py --dataset FOLDER --teacher FOLDER --train_rows 20000 --baseline
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import AutoTokenizer, HfArgumentParser, set_seed

from hfdistill import DistillationArguments, DistillationTrainer, HubUnreachable, fast_bf16, load, measure
from hfdistill import load_classifier, newest_checkpoint, shrink, write_card


@dataclass
class Recipe:
    """What to distil, from what."""

    dataset: str = field(default="stanfordnlp/sst2", metadata={"help": "Hub id, or folder of parquet, csv or jsonl."})
    teacher: str = field(default="textattack/bert-base-uncased-SST-2", metadata={"help": "Hub id or folder."})
    train_teacher: bool = field(default=False, metadata={"help": "The teacher is an encoder: fine-tune it first."})
    layers: int = field(default=3, metadata={"help": "Blocks of the student."})
    train_rows: int | None = field(default=None, metadata={"help": "Train on this many rows, drawn by the seed."})
    baseline: bool = field(default=False, metadata={"help": "Train the same student without the teacher, too."})


def main(recipe: Recipe, args: DistillationArguments) -> None:
    data = load(recipe.dataset)
    train, dev = data["train"], data["validation"]
    if recipe.train_rows:
        train = train.shuffle(seed=args.seed).select(range(recipe.train_rows))
    names = train.features["label"].names
    tokenizer = AutoTokenizer.from_pretrained(recipe.teacher)

    def fit(stage, model, teacher):
        """Train one model in its own folder; a run that was killed goes on where it stopped."""
        folder = Path(args.output_dir, stage)
        trainer = DistillationTrainer(
            model, replace(args, output_dir=str(folder)), teacher=teacher, processing_class=tokenizer,
            train_dataset=train, eval_dataset=dev, compute_metrics=accuracy,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=newest_checkpoint(folder))
        trainer.save_model()
        return trainer

    teacher = load_classifier(recipe.teacher, new_head=names if recipe.train_teacher else None)
    if recipe.train_teacher:
        teacher = fit("teacher", teacher, teacher=None).model
    trainer = fit("student", shrink(teacher, layers=recipe.layers), teacher)
    baseline = None
    if recipe.baseline:
        set_seed(args.seed)
        baseline = fit("baseline", shrink(teacher, layers=recipe.layers), teacher=None).model

    if trainer.is_world_process_zero():
        notes = {"objective": str(trainer.blend), "seed": args.seed, "epochs": args.num_train_epochs,
                 "rows": len(train), "learning_rate": args.learning_rate, "bf16": args.bf16}  # fmt: skip
        report = measure(trainer.model, dev, teacher=teacher, baseline=baseline, tokenizer=tokenizer, notes=notes)
        report.save(Path(args.output_dir, "student", "report.json"))
        write_card(Path(args.output_dir, "student"), report, base_model=recipe.teacher, dataset=recipe.dataset)
        print(report.table())


def accuracy(prediction):
    return {"accuracy": (prediction.predictions.argmax(-1) == prediction.label_ids).mean()}


if __name__ == "__main__":
    parser = HfArgumentParser((Recipe, DistillationArguments))
    parser.set_defaults(
        output_dir="out/sst2", num_train_epochs=3, learning_rate=1e-4, per_device_train_batch_size=32,
        per_device_eval_batch_size=64, warmup_steps=0.1, max_length=128, bf16=fast_bf16(), eval_strategy="epoch", save_strategy="epoch", save_total_limit=1,
    )  # fmt: skip
    try:
        main(*parser.parse_args_into_dataclasses())
    except HubUnreachable as error:
        sys.exit(f"error: {error}")
