"""BERT-of-Theseus: the student's blocks take the places of their teacher's, more and more of them.

accelerate launch recipes/theseus.py
accelerate launch recipes/theseus.py --dataset FOLDER --teacher FOLDER --train_rows 20000 --baseline
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import AutoTokenizer, HfArgumentParser

import hfdistill
from hfdistill import KD, CrossEntropy, Linear, Theseus


@dataclass
class Recipe:
    """What to replace, and how fast."""

    dataset: str = field(default="stanfordnlp/sst2", metadata={"help": "Hub id or folder."})
    teacher: str = field(default="textattack/bert-base-uncased-SST-2", metadata={"help": "Hub id or folder."})
    layers: int = field(default=3, metadata={"help": "Blocks of the student; they divide the teacher's."})
    rate: float = field(default=0.3, metadata={"help": "Share of blocks replaced in the first step."})
    until: float = field(default=0.7, metadata={"help": "Share of the run after which all are replaced."})
    kd: bool = field(default=False, metadata={"help": "Learn from the teacher's logits, too."})
    train_rows: int | None = field(default=None, metadata={"help": "Rows to train on; default all."})
    baseline: bool = field(default=False, metadata={"help": "Fine-tune the same blocks alone, too."})


def accuracy(prediction):
    return {"accuracy": (prediction.predictions.argmax(-1) == prediction.label_ids).mean()}


def main(recipe: Recipe, args: hfdistill.DistillationArguments) -> None:
    hfdistill.check_settings(args.output_dir, recipe, args, may_change=["baseline"])
    data = hfdistill.load(recipe.dataset)
    train, dev = data["train"], data["validation" if "validation" in data else "test"]
    if recipe.train_rows:
        train = train.shuffle(seed=args.seed).select(range(min(recipe.train_rows, len(train))))
    teacher, tokenizer = (
        hfdistill.load_classifier(recipe.teacher),
        AutoTokenizer.from_pretrained(recipe.teacher),
    )
    labels = 1.0 * CrossEntropy()
    objective = 0.5 * CrossEntropy() + 0.5 * KD(temperature=4) if recipe.kd else labels
    theseus = Theseus(teacher, rate=Linear(recipe.rate, 1, until=recipe.until))

    def fit(stage, callbacks, objective):
        """Train the teacher's first blocks in a folder; a killed run goes on where it stopped."""
        stage_args = replace(args, output_dir=str(Path(args.output_dir, stage)), push_to_hub=False)
        trainer = hfdistill.DistillationTrainer(
            hfdistill.shrink(teacher, layers=list(range(1, recipe.layers + 1))), stage_args,
            teacher=teacher if objective is not labels else None, objective=objective, callbacks=callbacks,
            processing_class=tokenizer, train_dataset=train, eval_dataset=dev, compute_metrics=accuracy,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=hfdistill.newest_checkpoint(stage_args.output_dir))
        trainer.save_model()
        return stage_args.output_dir

    student = fit("student", [theseus], objective)
    baseline = fit("baseline", [], labels) if recipe.baseline else None
    if args.process_index == 0:
        run = {"objective": str(objective), "rate": str(theseus.rate), "rows": len(train), "seed": args.seed,
               "epochs": args.num_train_epochs, "learning_rate": args.learning_rate}  # fmt: skip
        report = hfdistill.measure(student, dev, teacher=recipe.teacher, baseline=baseline, notes=run)
        report.save(Path(student, "report.json"))
        hfdistill.write_card(student, report, base_model=recipe.teacher, dataset=recipe.dataset)
        print(report.table())


if __name__ == "__main__":
    parser = HfArgumentParser((Recipe, hfdistill.DistillationArguments))
    parser.set_defaults(output_dir="out/theseus", num_train_epochs=3, learning_rate=1e-4, warmup_steps=0.1,
                        max_length=128, per_device_train_batch_size=32, per_device_eval_batch_size=64,
                        bf16=hfdistill.fast_bf16(), eval_strategy="epoch", save_strategy="epoch",
                        save_total_limit=1, ddp_find_unused_parameters=True, report_to="none")  # fmt: skip
    try:
        main(*parser.parse_args_into_dataclasses())
    except hfdistill.HubUnreachable as error:
        sys.exit(f"error: {error}")
