"""A chain of teachers: each student teaches the next one. Teacher assistants, and born-again networks.

accelerate launch recipes/chain.py --dataset FOLDER --teacher FOLDER --layers 4 2
accelerate launch recipes/chain.py --dataset FOLDER --teacher FOLDER --layers 3 3 3 --born_again
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import AutoTokenizer, HfArgumentParser, set_seed

import hfdistill


@dataclass
class Recipe:
    """What to distil, from what, in how many steps."""

    dataset: str = field(default="stanfordnlp/sst2", metadata={"help": "Hub id or folder."})
    teacher: str = field(default="textattack/bert-base-uncased-SST-2", metadata={"help": "Hub id or folder."})
    layers: list[int] = field(default_factory=lambda: [4, 2], metadata={"help": "Blocks of each student."})
    born_again: bool = field(default=False, metadata={"help": "The first one learns from labels alone."})
    direct: bool = field(default=False, metadata={"help": "Also teach the last one without a chain."})
    train_rows: int | None = field(default=None, metadata={"help": "Rows to train on; default all."})


def main(recipe: Recipe, args: hfdistill.DistillationArguments) -> None:
    hfdistill.check_settings(args.output_dir, recipe, args, may_change=["direct"])
    data = hfdistill.load(recipe.dataset)
    train, dev = data["train"], data["validation" if "validation" in data else "test"]
    train = train.shuffle(seed=args.seed).select(range(min(recipe.train_rows or len(train), len(train))))
    tokenizer = AutoTokenizer.from_pretrained(recipe.teacher)
    first = hfdistill.load_classifier(recipe.teacher)

    def fit(stage, layers, teacher):
        """A student of the first teacher's blocks, whoever teaches it; the folder it is saved in."""
        folder = str(Path(args.output_dir, stage))
        set_seed(args.seed)
        trainer = hfdistill.DistillationTrainer(
            hfdistill.shrink(first, layers=layers), replace(args, output_dir=folder), teacher=teacher,
            processing_class=tokenizer, train_dataset=train,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=hfdistill.newest_checkpoint(folder))
        trainer.save_model()
        trainer.accelerator.wait_for_everyone()  # the next stage reads the folder
        return folder, trainer.is_world_process_zero()

    chain, teacher = [], recipe.teacher
    for number, layers in enumerate(recipe.layers, start=1):
        taught = None if recipe.born_again and number == 1 else teacher
        teacher, main_process = fit(f"student-{number}", layers, taught)
        chain.append(teacher)
    baseline = fit("direct", recipe.layers[-1], recipe.teacher)[0] if recipe.direct else None
    if not main_process:
        return
    for folder in [*chain, baseline] if baseline else chain:
        notes = {
            "chain": recipe.layers,
            "born_again": recipe.born_again,
            "seed": args.seed,
            "rows": len(train),
        }
        beside = baseline if folder != baseline else None
        report = hfdistill.measure(folder, dev, teacher=recipe.teacher, notes=notes, baseline=beside)
        report.save(Path(folder, "report.json"))
        hfdistill.write_plots(folder, report)
        hfdistill.write_card(folder, report, base_model=recipe.teacher, dataset=recipe.dataset)
        print(f"{Path(folder).name}\n{report.table()}\n")


if __name__ == "__main__":
    parser = HfArgumentParser((Recipe, hfdistill.DistillationArguments))
    parser.set_defaults(output_dir="out/chain", num_train_epochs=3, learning_rate=1e-4, warmup_steps=0.1,
                        max_length=128, per_device_train_batch_size=32, bf16=hfdistill.fast_bf16(),
                        save_strategy="epoch", save_total_limit=1, report_to="none")  # fmt: skip
    main(*parser.parse_args_into_dataclasses())
