"""Which objective helps? Train one student per objective and seed, and write the table.

python recipes/objectives.py --dataset FOLDER --teacher FOLDER --train_rows 6000
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import AutoTokenizer, HfArgumentParser, set_seed

import hfdistill as hd

LOGITS = 0.5 * hd.CrossEntropy() + 0.5 * hd.KD(temperature=4)
INSIDE = hd.EmbeddingMSE() + hd.HiddenMSE() + hd.TinyBERTAttention()
OBJECTIVES = {
    "CE, no teacher": hd.CrossEntropy(),
    "CE + KD": LOGITS,
    "KD alone": 1.0 * hd.KD(temperature=4),
    "CE + LogitMSE": 0.5 * hd.CrossEntropy() + 0.5 * hd.LogitMSE(),
    "CE + WSL": hd.CrossEntropy() + 2.5 * hd.WSL(),
    "CE + KD + HiddenMSE": LOGITS + hd.HiddenMSE(),
    "CE + KD + MiniLMv2": LOGITS + hd.MiniLMv2(),
    "CE + KD + TinyBERTAttention": LOGITS + hd.TinyBERTAttention(),
    "CE + KD + HiddenMSE + MiniLMv2": LOGITS + hd.HiddenMSE() + hd.MiniLMv2(),
    "CE + KD + HiddenMSE + TinyBERTAttention": LOGITS + hd.HiddenMSE() + hd.TinyBERTAttention(),
    "TinyBERT: inside first, then KD": hd.Until(0.5) * INSIDE + hd.After(0.5) * hd.KD(temperature=1),
    "CE + KD + RKD": LOGITS + hd.RKD(distance=25, angle=50),
    "CE + KD + InfoNCE": LOGITS + 0.1 * hd.InfoNCE(),
    "CE + KD + PKD": LOGITS + 0.65 * hd.PKD(),  # for 3 blocks of width 384; 0.13 for 6 of 768
    "CE + KD + HiddenCosine": LOGITS + hd.HiddenCosine(),
    "CE + KD + AttentionKL": LOGITS + hd.AttentionKL(),
    "CE + KD + MiniLM": LOGITS + hd.MiniLM(),
}
MANY_CLASSES = {  # with two classes these have nothing to say, or say something constant
    "CE + DKD": hd.CrossEntropy() + hd.DKD(),
    "CE + DIST": hd.CrossEntropy() + hd.DIST(inter=2, intra=2),
    "CE + standardised KD": 0.1 * hd.CrossEntropy() + 9 * hd.KD(temperature=2, standardise=True),
}


@dataclass
class Study:
    """What to compare, on what."""

    dataset: str = field(default="stanfordnlp/sst2", metadata={"help": "Hub id or folder."})
    teacher: str = field(default="textattack/bert-base-uncased-SST-2", metadata={"help": "Hub id or folder."})
    layers: int = field(default=3, metadata={"help": "Blocks of the student."})
    train_rows: int | None = field(default=None, metadata={"help": "Rows to train on; default all."})
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3], metadata={"help": "One run for each."})
    only: list[str] | None = field(default=None, metadata={"help": "Names of rows; default all."})
    page: str | None = field(default=None, metadata={"help": "Page with lines <!-- NAME --> for the table."})
    name: str = field(default="objectives", metadata={"help": "NAME, of the table in the page."})


def main(study: Study, args: hd.DistillationArguments) -> None:
    data, teacher = hd.load(study.dataset), hd.load_classifier(study.teacher)
    hd.check_settings(args.output_dir, study, args, may_grow=(), may_change=("seeds", "only", "page", "name"))
    dev = data["validation" if "validation" in data else "test"]
    tokenizer = AutoTokenizer.from_pretrained(study.teacher)
    objectives = OBJECTIVES | (MANY_CLASSES if teacher.config.num_labels > 2 else {})
    objectives = {name: objectives[name] for name in study.only or objectives}

    def run(name, seed):
        """One student, trained and measured, or its report where an earlier start left one."""
        folder = Path(args.output_dir, f"{name}-{seed}".replace(" ", "_"))
        if not (folder / "report.json").exists():
            set_seed(seed)
            train = data["train"].shuffle(seed=seed).select(range(study.train_rows or len(data["train"])))
            trainer = hd.DistillationTrainer(
                hd.shrink(teacher, layers=study.layers),
                replace(args, output_dir=str(folder), seed=seed),
                teacher=None if name == "CE, no teacher" else teacher,
                objective=objectives[name],
                train_dataset=train,
                processing_class=tokenizer,
            )
            trainer.train()
            trainer.save_model()
            notes = {"objective": str(trainer.objective), "seed": seed, "rows": len(train)}
            options = {"teacher": teacher, "tokenizer": tokenizer, "speed": None, "notes": notes}
            hd.measure(str(folder), dev, **options).save(folder / "report.json")
        return hd.Report.load(folder / "report.json")

    reports = {name: [] for name in objectives}
    for seed in study.seeds:
        for name in objectives:
            reports[name].append(run(name, seed))
    table = hd.compare_runs(reports, baseline="CE, no teacher")
    print(table)
    if study.page:
        hd.write_section(study.page, study.name, table)


if __name__ == "__main__":
    parser = HfArgumentParser((Study, hd.DistillationArguments))
    parser.set_defaults(output_dir="out/objectives", num_train_epochs=3, learning_rate=1e-4, warmup_steps=0.1,
                        max_length=128, per_device_train_batch_size=32, bf16=hd.fast_bf16(),
                        save_strategy="no", report_to="none")  # fmt: skip
    main(*parser.parse_args_into_dataclasses())
