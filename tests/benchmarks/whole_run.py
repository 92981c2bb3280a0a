"""A whole distillation from start to saved student: ours, by hand, and by TextBrewer 0.2.1 as it documents.

python -m tests.benchmarks.whole_run --data ../shared/data/sst2 --teacher ../shared/models/minilm-l6-sst2

Every contender is a process of its own, on one thread, that starts from the same files: the teacher's folder
and the rows. What counts is the CPU time of that process, imports, reading and tokenising included.
TextBrewer is installed into a folder of its own. The accuracy on the evaluation rows is measured afterwards.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

OURS = {
    "recommended": {},
    "CE + KD, recorded": {"objective": [{"cross_entropy": {"weight": 0.5}}, {"kd": {"weight": 0.5}}]},
    "fitted, no training": None,
}
"""What a page of ours says of its own; None for a cut student that is fitted and not trained."""

BY_HAND = ("by hand, labels", "by hand, CE + KD", "TextBrewer, hidden + attention")
LENGTH, BATCH = 128, 32


def page_of(task, extra):
    """Return the page by which `hfdistill train` runs it."""
    training = {"output_dir": task["out"], "num_train_epochs": task["epochs"], "max_length": LENGTH}
    training |= {"per_device_train_batch_size": BATCH, "seed": task["seed"], "eval_strategy": "no"}
    training |= {"save_strategy": "no", "use_cpu": True, "teacher_check_rows": 0}
    if extra:
        training |= {"learning_rate": 1e-4, "warmup_steps": 0.1}
    return {
        "teacher": task["teacher"],
        "student": {"shrink": {"layers": 3}},
        "data": {"source": task["data"], "train_rows": task["rows"]},
        "training": training,
        "measure": None,
        **extra,
    }


def batches_of(task, tokenizer):
    """Return a loader of the task's rows, padded batch by batch."""
    from datasets import load_dataset
    from torch.utils.data import DataLoader

    rows = load_dataset("parquet", data_files=str(Path(task["data"], "train.parquet")), split="train")
    rows = rows.shuffle(seed=task["seed"]).select(range(task["rows"]))
    text = "sentence" if "sentence" in rows.column_names else "text"
    ids = tokenizer(rows[text][:], truncation=True, max_length=LENGTH)
    items = [{**{k: ids[k][i] for k in ids}, "labels": y} for i, y in enumerate(rows["label"][:])]
    return DataLoader(
        items,
        batch_size=BATCH,
        shuffle=True,
        collate_fn=lambda b: dict(tokenizer.pad(b, return_tensors="pt")),
    )


def models_of(task, **options):
    """Return tokenizer, teacher and a student whose blocks are every second one of the teacher's."""
    import torch
    from transformers import AutoModelForSequenceClassification as Model
    from transformers import AutoTokenizer

    torch.manual_seed(task["seed"])
    teacher = Model.from_pretrained(task["teacher"], **options).eval()
    student = Model.from_pretrained(task["teacher"], num_hidden_layers=3, **options)
    for own, other in enumerate((1, 3, 5)):
        student.bert.encoder.layer[own].load_state_dict(teacher.bert.encoder.layer[other].state_dict())
    return AutoTokenizer.from_pretrained(task["teacher"]), teacher, student


def by_hand(task, *, soft):
    """Train as a loop in PyTorch does, in float32."""
    import torch
    from torch.nn import functional
    from transformers import get_linear_schedule_with_warmup

    tokenizer, teacher, student = models_of(task)
    loader = batches_of(task, tokenizer)
    steps = len(loader) * task["epochs"]
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    student.train()
    for batch in (batch for _ in range(task["epochs"]) for batch in loader):
        outputs = student(**batch)
        loss = outputs.loss
        if soft:
            with torch.no_grad():
                other = teacher(**{k: v for k, v in batch.items() if k != "labels"}).logits
            own, other = (functional.log_softmax(x / 4, -1) for x in (outputs.logits, other))
            kl = functional.kl_div(own, other, reduction="batchmean", log_target=True)
            loss = 0.5 * loss + 0.5 * 16 * kl
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    student.save_pretrained(task["out"])
    tokenizer.save_pretrained(task["out"])


def by_textbrewer(task):
    """Train as TextBrewer's README does, with hidden states at four points and attention at three."""
    import torch
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
    from transformers import get_linear_schedule_with_warmup

    options = {"attn_implementation": "eager", "output_hidden_states": True, "output_attentions": True}
    tokenizer, teacher, student = models_of(task, **options)
    loader = batches_of(task, tokenizer)
    steps = len(loader) * task["epochs"]
    matches = [(2 * i, i, "hidden", "hidden_mse") for i in range(4)]
    matches += [(2 * i + 1, i, "attention", "attention_mse") for i in range(3)]
    names = ("layer_T", "layer_S", "feature", "loss")
    config = DistillationConfig(
        intermediate_matches=[dict(zip(names, match, strict=True)) | {"weight": 1} for match in matches]
    )

    def adaptor(batch, outputs):
        return {
            "logits": outputs.logits,
            "hidden": outputs.hidden_states,
            "attention": outputs.attentions,
            "inputs_mask": batch["attention_mask"],
        }

    distiller = GeneralDistiller(
        train_config=TrainingConfig(device="cpu", output_dir=task["out"], ckpt_frequency=0),
        distill_config=config,
        model_T=teacher,
        model_S=student,
        adaptor_T=adaptor,
        adaptor_S=adaptor,
    )
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    with distiller:
        distiller.train(
            optimizer,
            loader,
            num_epochs=task["epochs"],
            scheduler_class=get_linear_schedule_with_warmup,
            scheduler_args={"num_warmup_steps": steps // 10, "num_training_steps": steps},
        )
    for name in ("output_hidden_states", "output_attentions"):
        setattr(student.config, name, False)
    student.save_pretrained(task["out"])
    tokenizer.save_pretrained(task["out"])


def by_ours(name, task):
    """Run a page, or fit a cut student to 1,500 of the rows' texts and train nothing."""
    import hfdistill
    from hfdistill.recipe.check import check
    from hfdistill.recipe.page import Page

    extra = OURS[name]
    if extra is not None:
        hfdistill.run_recipe(check(Page("page", page_of(task, extra))))
        return
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(task["teacher"])
    rows = hfdistill.load(task["data"])["train"].shuffle(seed=task["seed"]).select(range(task["rows"]))
    plan = hfdistill.Refit(rows, rows=1500, max_length=LENGTH)
    student = hfdistill.shrink(task["teacher"], layers=3, fit=plan, tokenizer=tokenizer)
    for saved in (student, tokenizer):
        saved.save_pretrained(Path(task["out"], "student"))


def contend(name, task):
    """Run one contender in this process; return the folder of its student."""
    import torch

    torch.set_num_threads(1)
    if name in OURS:
        by_ours(name, task)
    elif name.startswith("TextBrewer"):
        by_textbrewer(task)
    else:
        by_hand(task, soft=name.endswith("KD"))


def install_textbrewer(folder):
    """Install TextBrewer 0.2.1 into a folder, without what it depends on: all of that is here."""
    if not Path(folder, "textbrewer").is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder]
        subprocess.run([*command, "textbrewer==0.2.1.post1", "tensorboardX", "protobuf"], check=True)


def measure(name, task, packages):
    """Return CPU seconds and accuracy of one contender, which runs in a process of its own."""
    from hfdistill import load
    from hfdistill import measure as measured

    paths = [str(Path.cwd()), packages, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "tests.benchmarks.whole_run", "--contender", name, json.dumps(task)]
    _, status, usage = os.wait4(subprocess.Popen(command, env=environment).pid, 0)
    if status:
        raise SystemExit(f"{name} ended with status {status}.")
    folder = Path(task["out"], "student") if name in OURS else Path(task["out"])
    rows = load(task["data"])["validation"]
    report = measured(str(folder), rows, max_length=LENGTH, speed=None, teacher=None)
    seconds, accuracy = usage.ru_utime + usage.ru_stime, report.student.metrics["accuracy"]
    return {"cpu_s": round(seconds, 1), "accuracy": accuracy, "peak_mb": round(usage.ru_maxrss / 1024)}


def main(args):
    """Run every contender with every seed, interleaved; print a table and write the numbers."""
    names, results = args.only or [*OURS, *BY_HAND], []
    with tempfile.TemporaryDirectory() as scratch:
        install_textbrewer(args.packages)
        for seed in range(1, args.seeds + 1):
            for name in names:
                task = {"teacher": args.teacher, "data": args.data, "rows": args.rows, "seed": seed}
                task |= {"epochs": args.epochs, "out": str(Path(scratch, f"{len(results)}"))}
                results.append({"contender": name, "seed": seed, **measure(name, task, args.packages)})
                print(json.dumps(results[-1]), flush=True)
                Path(args.out).write_text(json.dumps(vars(args) | {"results": results}, indent=1))
    print(f"| {args.rows:,} rows, {args.epochs} epochs | CPU s | accuracy | times the last one's CPU |")
    print("| --- | ---: | ---: | ---: |")
    of = {n: [r for r in results if r["contender"] == n] for n in names}
    whole = statistics.median(r["cpu_s"] for r in of[names[-1]])
    for name, runs in of.items():
        seconds = statistics.median(r["cpu_s"] for r in runs)
        accuracy = 100 * statistics.fmean(r["accuracy"] for r in runs)
        print(f"| {name} | {seconds:.0f} | {accuracy:.1f} | {seconds / whole:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data")
    parser.add_argument("--teacher")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=[*OURS, *BY_HAND], help="contenders, in this order")
    parser.add_argument("--packages", default=str(Path(tempfile.gettempdir(), "hfdistill-benchmarks")))
    parser.add_argument("--out", default="whole_run.json")
    parser.add_argument("--contender", nargs=2, metavar=("NAME", "TASK"), help="used by the benchmark itself")
    arguments = parser.parse_args()
    if arguments.contender:
        contend(arguments.contender[0], json.loads(arguments.contender[1]))
    else:
        main(arguments)
