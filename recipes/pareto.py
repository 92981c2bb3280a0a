"""What each kind of student keeps, weighs and takes: accuracy, size and speed in one table.

python recipes/pareto.py --dataset FOLDER --teacher FOLDER --train_rows 6000 --seeds 1 2

Each is trained twice: on the teacher's answers, recorded once for all, and on labels alone. With --inside,
those with layers like the teacher's learn from them, too, and ask it at every step. Then all of the first
seed are timed by turns. A run that left a report is kept; --no_speed keeps the times of an earlier pass.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, HfArgumentParser, set_seed

import hfdistill as hd

LOGITS = {"distilled": 0.5 * hd.CrossEntropy() + 0.5 * hd.KD(temperature=4), "undistilled": hd.CrossEntropy()}
EXITS = {"distilled": 0.5 * (hd.ExitCrossEntropy() + hd.ExitKD()), "undistilled": hd.ExitCrossEntropy()}
LAYERS = hd.HiddenMSE() + hd.TinyBERTAttention()


@dataclass(frozen=True)
class Student:
    """How one is made of (teacher, its tokenizer, all training rows, whether of pairs), and trained."""

    build: Any
    inside: Any = None  # what --inside adds
    rate: float = 1  # times --learning_rate
    epochs: float = 1  # times --num_train_epochs
    exits: bool = False


def half_width(t, tokenizer, rows, pairs):
    """All layers, with half the width, heads and neurons."""
    options = {"padding": True, "truncation": True, "max_length": 128, "return_tensors": "pt"}
    chunks = [rows[i : i + 32] for i in range(0, min(256, len(rows)), 32)]
    batches = [tokenizer(chunk["text"], chunk["text_pair"] if pairs else None, **options) for chunk in chunks]
    return hd.shrink(t, width=t.config.hidden_size // 2, ffn=t.config.intermediate_size // 2, data=batches)


def static(t, k, rows, pairs):
    return hd.static_from_teacher(t, k, corpus=rows, width=min(256, t.config.hidden_size), pairs=pairs)


STUDENTS = {
    **{f"{n} layers": Student(lambda t, *_, n=n: hd.shrink(t, layers=n), LAYERS) for n in (4, 3, 2)},
    "half width": Student(half_width, hd.HiddenMSE() + hd.MiniLMv2(), rate=3, epochs=2),
    "3 layers, fewer words": Student(lambda t, k, r, _: hd.prune_vocabulary(hd.shrink(t, layers=3), k, r)),
    "BiLSTM": Student(lambda t, k, _, pairs: hd.bilstm_from_teacher(t, k, pairs=pairs), rate=10, epochs=3),
    "CNN": Student(lambda t, k, _, pairs: hd.cnn_from_teacher(t, k, pairs=pairs), rate=10, epochs=3),
    "static": Student(static, rate=30, epochs=3),
    "early exit": Student(lambda teacher, *_: hd.with_exits(teacher), rate=0.5, exits=True),
}


@dataclass
class Study:
    """What to compare, on what."""

    dataset: str = field(default="stanfordnlp/sst2", metadata={"help": "Hub id or folder."})
    teacher: str = field(default="textattack/bert-base-uncased-SST-2", metadata={"help": "Hub id or folder."})
    train_rows: int | None = field(default=None, metadata={"help": "Rows to train on; default all."})
    seeds: list[int] = field(default_factory=lambda: [1], metadata={"help": "Two runs of each for each."})
    students: list[str] | None = field(default=None, metadata={"help": "Names; default all."})
    thresholds: list[float] = field(default_factory=lambda: [0.1, 0.3], metadata={"help": "Of early exit."})
    inside: bool = field(default=False, metadata={"help": "Learn from the teacher's layers, too."})
    speed: bool = field(default=True, metadata={"help": "Time all models."})
    plot: str | None = field(default=None, metadata={"help": "Where to draw all, a .png or .svg."})
    page: str | None = field(default=None, metadata={"help": "Page with lines <!-- NAME --> for the table."})
    name: str = field(default="pareto", metadata={"help": "NAME, of the table in the page."})


def main(study: Study, args: hd.DistillationArguments) -> None:
    own = ("students", "seeds", "thresholds", "speed", "plot", "page", "name")  # the rest decides each report
    hd.check_settings(args.output_dir, study, args, may_grow=(), may_change=own)
    data, teacher = hd.load(study.dataset), hd.load_classifier(study.teacher)
    dev, tokenizer = data.get("validation") or data["test"], AutoTokenizer.from_pretrained(study.teacher)
    rows = {}  # of the table: the student, and the uncertainty below which its rows leave early
    for name in study.students or STUDENTS:
        for threshold in study.thresholds if STUDENTS[name].exits else [None]:
            rows[name if threshold is None else f"{name} at {threshold:g}"] = (name, threshold)

    def folder(name, kind, seed):
        return Path(args.output_dir, f"{name}-{kind}-{seed}".replace(",", "").replace(" ", "_"))

    def fit(name, kind, seed):
        """Train one student into its folder; the notes are written last."""
        student, target, taught = STUDENTS[name], folder(name, kind, seed), kind == "distilled"
        set_seed(seed)
        train = data["train"].shuffle(seed=seed)
        train = train.select(range(min(study.train_rows or len(train), len(train))))
        built = student.build(teacher, tokenizer, data["train"], "text_pair" in train.column_names)
        model, own = built if isinstance(built, tuple) else (built, tokenizer)  # some bring a tokenizer
        objective = LOGITS[kind] + EXITS[kind] if student.exits else LOGITS[kind]
        inside = student.inside if taught and study.inside else None
        settings = {"learning_rate": args.learning_rate * student.rate, "seed": seed}
        settings |= {"num_train_epochs": args.num_train_epochs * student.epochs}
        trainer = hd.DistillationTrainer(
            model, replace(args, output_dir=str(target), **settings), train_dataset=train,
            processing_class=own, teacher=study.teacher if taught else None,
            teacher_cache=Path(args.output_dir, "teacher") if taught and inside is None else None,
            objective=objective if inside is None else objective + inside,
        )  # fmt: skip
        trainer.train()
        trainer.save_model()
        notes = {"objective": str(trainer.objective), "rows": len(train), "bf16": args.bf16}
        (target / "notes.json").write_text(json.dumps(notes | settings))

    def trained(row, kind, seed):
        """A student as it was saved; with a threshold, its rows leave early."""
        name, threshold = rows[row]
        model = hd.load_classifier(source := folder(name, kind, seed))
        if threshold is not None:
            model.exit_threshold = threshold
        return hd.Contender(model, tokenizer=AutoTokenizer.from_pretrained(source), name=row)

    def report(row, kind, seed):
        """What one row of the table is worth, or its report where an earlier start left one."""
        path, notes = folder(row, kind, seed) / "report.json", folder(rows[row][0], kind, seed) / "notes.json"
        if not path.exists():
            if not notes.exists():
                fit(rows[row][0], kind, seed)
            note = json.loads(notes.read_text())
            measured = hd.measure(trained(row, kind, seed), dev, teacher=study.teacher, speed=None,
                                  max_length=args.max_length, notes=note)  # fmt: skip
            measured.save(path)
        return hd.Report.load(path)

    reports = {kind: {row: [] for row in rows} for kind in LOGITS}
    for row, kind, seed in [(row, kind, seed) for seed in study.seeds for row in rows for kind in LOGITS]:
        reports[kind][row].append(report(row, kind, seed))
    if study.speed:
        first = {(row, kind): reports[kind][row][0] for row in rows for kind in LOGITS}
        models = {key: trained(*key, study.seeds[0]) for key in first}
        timed = hd.time_together(first, models, dev, teacher=study.teacher, max_length=args.max_length)
        for (row, kind), measured in timed.items():
            reports[kind][row][0] = measured
            measured.save(folder(row, kind, study.seeds[0]) / "report.json")
    print(table := hd.compare_students(*reports.values()))
    if study.plot:
        hd.write_frontier(study.plot, *reports.values())
    if study.page:
        hd.write_section(study.page, study.name, table)


if __name__ == "__main__":
    parser = HfArgumentParser((Study, hd.DistillationArguments))
    parser.set_defaults(output_dir="out/pareto", num_train_epochs=3, learning_rate=1e-4, warmup_steps=0.1,
                        max_length=128, per_device_train_batch_size=32, bf16=hd.fast_bf16(),
                        save_strategy="no", report_to="none")  # fmt: skip
    main(*parser.parse_args_into_dataclasses())
