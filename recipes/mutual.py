"""Two small students that teach each other (deep mutual learning); with --baseline, each alone, too.

accelerate launch recipes/mutual.py
accelerate launch recipes/mutual.py --dataset FOLDER --teacher FOLDER --train_rows 20000 --baseline
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import AutoTokenizer, HfArgumentParser, set_seed

import hfdistill


@dataclass
class Recipe:
    """Which two students, cut from what."""

    dataset: str = field(default="stanfordnlp/sst2", metadata={"help": "Hub id or folder."})
    teacher: str = field(default="google-bert/bert-base-uncased", metadata={"help": "Start weights."})
    layers: list[int] = field(default_factory=lambda: [3, 2], metadata={"help": "Blocks of the two."})
    train_rows: int | None = field(default=None, metadata={"help": "Rows to train on; default all."})
    baseline: bool = field(default=False, metadata={"help": "Train each alone, too."})


def accuracy(prediction):
    return {"accuracy": (prediction.predictions.argmax(-1) == prediction.label_ids).mean()}


def main(recipe: Recipe, args: hfdistill.DistillationArguments) -> None:
    hfdistill.check_settings(args.output_dir, recipe, args, may_change=["baseline"])
    data = hfdistill.load(recipe.dataset)
    train, dev = data["train"], data["validation" if "validation" in data else "test"]
    if recipe.train_rows:
        train = train.shuffle(seed=args.seed).select(range(min(recipe.train_rows, len(train))))
    tokenizer = AutoTokenizer.from_pretrained(recipe.teacher)

    def cut(layers):
        """A student; a new head is drawn from the seed."""
        set_seed(args.seed)
        model = hfdistill.load_classifier(recipe.teacher, new_head=train.features["label"].names)
        return hfdistill.shrink(model, layers=layers)

    def fit(stage, model, teacher, objective):
        """Train in a folder of its own; a killed run goes on where it stopped."""
        stage_args = replace(args, output_dir=str(Path(args.output_dir, stage)))
        trainer = hfdistill.DistillationTrainer(
            model, stage_args, teacher=teacher, objective=objective, processing_class=tokenizer,
            train_dataset=train, eval_dataset=dev, compute_metrics=accuracy,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=hfdistill.newest_checkpoint(stage_args.output_dir))
        trainer.save_model()
        return trainer

    student, peer = (cut(layers) for layers in recipe.layers)
    hard = hfdistill.CrossEntropy()
    both = fit("mutual", student, hfdistill.Peer(peer), hard + hfdistill.KD(temperature=1))
    for i, role in enumerate(("", "peer")):
        baseline = None
        if recipe.baseline:
            baseline = fit(f"alone-{i + 1}", cut(recipe.layers[i]), None, hard).args.output_dir
        if both.is_world_process_zero():
            notes = {"objective": str(both.objective), "rows": len(train), "epochs": args.num_train_epochs,
                     "learning_rate": args.learning_rate, "bf16": args.bf16, "seed": args.seed}  # fmt: skip
            folder = Path(both.args.output_dir, role)
            report = hfdistill.measure(folder, dev, baseline=baseline, notes=notes)
            report.save(folder / "report.json")
            print(report.table())


if __name__ == "__main__":
    parser = HfArgumentParser((Recipe, hfdistill.DistillationArguments))
    parser.set_defaults(output_dir="out/mutual", num_train_epochs=3, learning_rate=1e-4, warmup_steps=0.1,
                        max_length=128, per_device_train_batch_size=32, per_device_eval_batch_size=64,
                        bf16=hfdistill.fast_bf16(), eval_strategy="epoch", save_strategy="epoch",
                        save_total_limit=1, report_to="none")  # fmt: skip
    try:
        main(*parser.parse_args_into_dataclasses())
    except hfdistill.HubUnreachable as error:
        sys.exit(f"error: {error}")
