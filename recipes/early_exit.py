"""A classifier whose easy rows leave early: its exits learn from the labels and from its own last head.

accelerate launch recipes/early_exit.py
accelerate launch recipes/early_exit.py --dataset FOLDER --teacher FOLDER --train_rows 20000 --baseline
"""

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from transformers import AutoTokenizer, HfArgumentParser, set_seed

import hfdistill
from hfdistill import CrossEntropy, ExitCrossEntropy, ExitKD


@dataclass
class Recipe:
    """What gets exits."""

    dataset: str = field(default="stanfordnlp/sst2", metadata={"help": "Hub id or folder."})
    teacher: str = field(default="google-bert/bert-base-uncased", metadata={"help": "Start weights."})
    layers: int | None = field(default=None, metadata={"help": "Cut to as many blocks first."})
    train_rows: int | None = field(default=None, metadata={"help": "Rows to train on; default all."})
    baseline: bool = field(default=False, metadata={"help": "Train exits on labels alone, too."})


def accuracy(prediction):
    return {"accuracy": (prediction.predictions.argmax(-1) == prediction.label_ids).mean()}


def main(recipe: Recipe, args: hfdistill.DistillationArguments) -> None:
    hfdistill.check_settings(args.output_dir, recipe, args, may_change=["baseline"])
    data = hfdistill.load(recipe.dataset)
    train, dev = data["train"], data["validation" if "validation" in data else "test"]
    if recipe.train_rows:
        train = train.shuffle(seed=args.seed).select(range(min(recipe.train_rows, len(train))))
    tokenizer = AutoTokenizer.from_pretrained(recipe.teacher)
    stages = {"distilled": CrossEntropy() + 0.7 * ExitCrossEntropy() + 0.033 * ExitKD(temperature=3)}
    if recipe.baseline:
        stages["baseline"] = CrossEntropy() + ExitCrossEntropy()

    for stage, objective in stages.items():
        set_seed(args.seed)  # both draw the same new heads
        model = hfdistill.load_classifier(recipe.teacher, new_head=train.features["label"].names)
        model = hfdistill.shrink(model, layers=recipe.layers) if recipe.layers else model
        stage_args = replace(args, output_dir=str(Path(args.output_dir, stage)))
        trainer = hfdistill.DistillationTrainer(
            hfdistill.with_exits(model), stage_args, teacher=None, objective=objective,
            processing_class=tokenizer, train_dataset=train, eval_dataset=dev, compute_metrics=accuracy,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=hfdistill.newest_checkpoint(stage_args.output_dir))
        trainer.save_model()
        if trainer.is_world_process_zero():
            folder = Path(stage_args.output_dir)
            curve = hfdistill.exit_curve(folder, dev, max_length=args.max_length)
            (folder / "exit_curve.json").write_text(json.dumps([asdict(p) for p in curve], indent=1))
            print(f"{stage}: {objective}", *curve, sep="\n")


if __name__ == "__main__":
    parser = HfArgumentParser((Recipe, hfdistill.DistillationArguments))
    parser.set_defaults(output_dir="out/early_exit", num_train_epochs=3, learning_rate=5e-5, warmup_steps=0.1,
                        max_length=128, per_device_train_batch_size=32, per_device_eval_batch_size=64,
                        bf16=hfdistill.fast_bf16(), eval_strategy="epoch", save_strategy="epoch",
                        save_total_limit=1, report_to="none")  # fmt: skip
    try:
        main(*parser.parse_args_into_dataclasses())
    except hfdistill.HubUnreachable as error:
        sys.exit(f"error: {error}")
