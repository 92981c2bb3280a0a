"""One student of several teachers, beside a student of each: every teacher is asked once, and then replayed.

accelerate launch recipes/ensemble.py --dataset FOLDER --teachers FOLDER FOLDER
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import AutoTokenizer, HfArgumentParser, set_seed

import hfdistill


@dataclass
class Recipe:
    """What to distil, from what."""

    dataset: str = field(metadata={"help": "Hub id or folder."})
    teachers: list[str] = field(metadata={"help": "Hub ids or folders; the student is cut from the first."})
    weights: str | None = field(default=None, metadata={"help": "entropy or confidence; default equal."})
    layers: int = field(default=3, metadata={"help": "Blocks of the student."})
    train_rows: int | None = field(default=None, metadata={"help": "Rows to train on; default all."})


def main(recipe: Recipe, args: hfdistill.DistillationArguments) -> None:
    hfdistill.check_settings(args.output_dir, recipe, args)
    data = hfdistill.load(recipe.dataset)
    train, dev = data["train"], data["validation" if "validation" in data else "test"]
    train = train.shuffle(seed=args.seed).select(range(min(recipe.train_rows or len(train), len(train))))
    first = hfdistill.load_classifier(recipe.teachers[0])
    tokenizer = AutoTokenizer.from_pretrained(recipe.teachers[0])

    members = {}
    for number, source in enumerate(recipe.teachers, start=1):
        own, folder = AutoTokenizer.from_pretrained(source), Path(args.output_dir, f"answers-{number}")
        for rows in (train, dev):
            hfdistill.record(source, rows, folder=folder, tokenizer=own, max_length=args.max_length)
        members[f"teacher {number}"] = hfdistill.CachedTeacher(folder, tokenizer=own)

    def fit(stage, teacher):
        """One student in its own folder, and its report; a killed run goes on where it stopped."""
        folder = str(Path(args.output_dir, stage.replace(" ", "-")))
        set_seed(args.seed)
        trainer = hfdistill.DistillationTrainer(
            hfdistill.shrink(first, layers=recipe.layers),
            replace(args, output_dir=folder, teacher_check_rows=len(dev)),
            teacher=teacher,
            train_dataset=train,
            eval_dataset=dev,
            processing_class=tokenizer,
        )
        trainer.train(resume_from_checkpoint=hfdistill.newest_checkpoint(folder))
        trainer.save_model()
        said = [line["teacher_accuracy"] for line in trainer.state.log_history if "teacher_accuracy" in line]
        notes = {"teachers": stage, "teacher_accuracy": said[-1] if said else None, "rows": len(train)}
        if trainer.is_world_process_zero():
            report = hfdistill.measure(folder, dev, teacher=first, tokenizer=tokenizer, notes=notes)
            report.save(Path(folder, "report.json"))
            reports[stage] = [report]

    reports: dict = {}
    fit("no teacher", None)
    for name, teacher in members.items():
        fit(name, teacher)
    fit("ensemble", hfdistill.Ensemble(list(members.values()), weights=recipe.weights))
    if reports:
        for name, (report,) in reports.items():
            print(f"{name}: its own accuracy {report.notes['teacher_accuracy']}")
        print(hfdistill.compare_runs(reports, baseline="no teacher"))


if __name__ == "__main__":
    parser = HfArgumentParser((Recipe, hfdistill.DistillationArguments))
    parser.set_defaults(output_dir="out/ensemble", num_train_epochs=3, learning_rate=1e-4, warmup_steps=0.1,
                        max_length=128, per_device_train_batch_size=32, bf16=hfdistill.fast_bf16(),
                        save_strategy="epoch", save_total_limit=1, report_to="none")  # fmt: skip
    main(*parser.parse_args_into_dataclasses())
