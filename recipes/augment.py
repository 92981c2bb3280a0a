"""What are rewritten copies of scarce labelled rows worth? One student per number of copies, equal steps.

python recipes/augment.py --dataset FOLDER --teacher FOLDER --labelled_rows 1000 --copies 0 1 5 20
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets import concatenate_datasets
from transformers import AutoTokenizer, HfArgumentParser, set_seed

import hfdistill as hd

REAL = "as many real rows"


@dataclass
class Study:
    """What to compare, on what."""

    dataset: str = field(default="stanfordnlp/sst2", metadata={"help": "Hub id or folder."})
    teacher: str = field(default="textattack/bert-base-uncased-SST-2", metadata={"help": "Hub id or folder."})
    labelled_rows: int = field(default=1000, metadata={"help": "Rows that the student knows, with labels."})
    copies: list[int] = field(default_factory=lambda: [0, 1, 5, 20], metadata={"help": "One run for each."})
    method: str = field(default="tang", metadata={"help": "tang, delete, swap, or a fill-mask model."})
    kd_weight: float = field(default=0.5, metadata={"help": "Of KD; the labels have the rest."})
    layers: int = field(default=3, metadata={"help": "Blocks of the student."})
    real: bool = field(default=False, metadata={"help": "Also as many real rows without labels as copies."})
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3], metadata={"help": "One run for each."})
    page: str | None = field(default=None, metadata={"help": "Page with <!-- NAME --> lines for the table."})
    name: str = field(default="augment", metadata={"help": "NAME, of the table in the page."})


def way(name: str, tokenizer) -> hd.Augmentation:
    """The augmentation of this name."""
    tang = hd.Chain(hd.Mask(tokenizer.mask_token), hd.NGramSample(p=0.25))
    ways = {"tang": tang, "delete": hd.Delete(), "swap": hd.Swap()}
    return ways[name] if name in ways else hd.MaskedLM(name)


def main(study: Study, args: hd.DistillationArguments) -> None:
    data, teacher = hd.load(study.dataset), hd.load_classifier(study.teacher)
    own = ["seeds", "page", "name"] + ([] if study.real else ["copies"])  # the rest decides each report
    hd.check_settings(args.output_dir, study, args, may_grow=(), may_change=own)
    dev = data["validation" if "validation" in data else "test"]
    tokenizer = AutoTokenizer.from_pretrained(study.teacher)
    method, weight = way(study.method, tokenizer), study.kd_weight
    taught = weight * hd.KD(temperature=4)
    taught = taught if weight == 1 else (1 - weight) * hd.CrossEntropy() + taught

    def rows(name, seed):
        """The training rows of a run."""
        mixed, size = data["train"].shuffle(seed=seed), study.labelled_rows
        known, rest = mixed.select(range(size)), mixed.select(range(size, len(mixed)))
        if name == REAL:
            more = rest.select(range(min(len(rest), max(study.copies) * size))).remove_columns("label")
            return concatenate_datasets([known, more])
        copies = int(name.split()[0]) if name[0].isdigit() else 0
        return hd.augment(known, method, copies=copies, seed=seed) if copies else known

    def run(name, seed):
        """One student, trained and measured, or its report where an earlier start left one."""
        folder = Path(args.output_dir, f"{name}-{seed}".replace(" ", "_"))
        if not (folder / "report.json").exists():
            set_seed(seed)
            train, alone = rows(name, seed), name == "no teacher"
            trainer = hd.DistillationTrainer(
                hd.shrink(teacher, layers=study.layers),
                replace(args, output_dir=str(folder), seed=seed),
                teacher=None if alone else teacher,
                teacher_cache=None if alone else Path(args.output_dir, "answers"),
                objective=hd.CrossEntropy() if alone else taught,
                train_dataset=train,
                processing_class=tokenizer,
            )
            trainer.train()
            trainer.save_model()
            notes = {"objective": str(trainer.objective), "seed": seed, "rows": len(train)}
            notes |= {"steps": args.max_steps, "labelled": study.labelled_rows, "method": study.method}
            beside = {"teacher": teacher, "tokenizer": tokenizer, "speed": None}
            hd.measure(str(folder), dev, notes=notes, **beside).save(folder / "report.json")
        return hd.Report.load(folder / "report.json")

    names = ["no teacher", *(f"{n} {'copy' if n == 1 else 'copies'}" for n in study.copies)]
    names += [REAL] if study.real else []
    reports = {name: [] for name in names}
    for seed in study.seeds:
        for name in names:
            reports[name].append(run(name, seed))
    print(table := hd.compare_runs(reports, baseline=names[1]))
    if study.page:
        hd.write_section(study.page, study.name, table)


if __name__ == "__main__":
    parser = HfArgumentParser((Study, hd.DistillationArguments))
    parser.set_defaults(output_dir="out/augment", max_steps=1000, learning_rate=1e-4, warmup_steps=0.1,
                        max_length=128, per_device_train_batch_size=32, bf16=hd.fast_bf16(),
                        save_strategy="no", report_to="none")  # fmt: skip
    main(*parser.parse_args_into_dataclasses())
