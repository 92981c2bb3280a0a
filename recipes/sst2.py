"""Distil a BERT sentiment classifier into three of its layers, and measure what was kept.

accelerate launch recipes/sst2.py
accelerate launch recipes/sst2.py --dataset FOLDER --teacher FOLDER --train_rows 20000 --baseline
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import AutoTokenizer, HfArgumentParser

import hfdistill


@dataclass
class Recipe:
    """What to distil, from what."""

    dataset: str = field(default="stanfordnlp/sst2", metadata={"help": "Hub id or folder."})
    teacher: str = field(default="textattack/bert-base-uncased-SST-2", metadata={"help": "Hub id or folder."})
    train_teacher: bool = field(default=False, metadata={"help": "Fine-tune the teacher first."})
    layers: int = field(default=3, metadata={"help": "Blocks of the student."})
    train_rows: int | None = field(default=None, metadata={"help": "Rows to train on; default all."})
    baseline: bool = field(default=False, metadata={"help": "Train without a teacher, too."})


def accuracy(prediction):
    return {"accuracy": (prediction.predictions.argmax(-1) == prediction.label_ids).mean()}


def main(recipe: Recipe, args: hfdistill.DistillationArguments) -> None:
    hfdistill.check_settings(args.output_dir, recipe, args, may_change=["baseline"])
    data = hfdistill.load(recipe.dataset)
    train, dev = data["train"], data["validation" if "validation" in data else "test"]
    names = train.features["label"].names if recipe.train_teacher else None
    if recipe.train_rows:
        train = train.shuffle(seed=args.seed).select(range(min(recipe.train_rows, len(train))))
    teacher = hfdistill.load_classifier(source := recipe.teacher, new_head=names)
    tokenizer = AutoTokenizer.from_pretrained(source)

    def fit(stage, model, teacher):
        """Train one model in its own folder; a killed run goes on where it stopped."""
        stage_args = replace(args, output_dir=str(Path(args.output_dir, stage)), push_to_hub=False)
        trainer = hfdistill.DistillationTrainer(model, stage_args, teacher=teacher, train_dataset=train,
                                                eval_dataset=dev, processing_class=tokenizer,
                                                compute_metrics=accuracy)  # fmt: skip
        trainer.train(resume_from_checkpoint=hfdistill.newest_checkpoint(stage_args.output_dir))
        trainer.save_model()
        return trainer

    if recipe.train_teacher:
        source = fit("teacher", teacher, teacher=None).args.output_dir
        teacher = hfdistill.load_classifier(source)
    trainer, baseline = fit("student", hfdistill.shrink(teacher, layers=recipe.layers), teacher), None
    if recipe.baseline:
        baseline = fit("baseline", hfdistill.shrink(teacher, layers=recipe.layers), None).args.output_dir

    if trainer.is_world_process_zero():
        student = trainer.args.output_dir
        notes = {"objective": str(trainer.objective), "rows": len(train), "epochs": args.num_train_epochs,
                 "learning_rate": args.learning_rate, "bf16": args.bf16, "seed": args.seed}  # fmt: skip
        report = hfdistill.measure(student, dev, teacher=source, baseline=baseline, notes=notes)
        report.save(Path(student, "report.json"))
        hfdistill.write_plots(student, report, history=trainer.state.log_history)
        hfdistill.write_card(student, report, base_model=recipe.teacher, dataset=recipe.dataset)
        print(report.table())
        if args.push_to_hub:
            print(hfdistill.push_to_hub(student, args.hub_model_id))


if __name__ == "__main__":
    parser = HfArgumentParser((Recipe, hfdistill.DistillationArguments))
    parser.set_defaults(output_dir="out/sst2", num_train_epochs=3, learning_rate=1e-4, warmup_steps=0.1,
                        max_length=128, per_device_train_batch_size=32, per_device_eval_batch_size=64,
                        bf16=hfdistill.fast_bf16(), eval_strategy="epoch", save_strategy="epoch",
                        save_total_limit=1, report_to="none", hub_model_id="sst2-student")  # fmt: skip
    try:
        main(*parser.parse_args_into_dataclasses())
    except hfdistill.HubUnreachable as error:
        sys.exit(f"error: {error}")
