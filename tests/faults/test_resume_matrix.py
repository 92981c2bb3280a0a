"""Every kind of run, gone on with from within an epoch and from its end: the same bytes.

`python -m pytest -m slow -s tests/faults/test_resume_matrix.py`
"""

import json
import shutil

import pytest
import torch

from hfdistill import (
    KD,
    CrossEntropy,
    DistillationArguments,
    DistillationTrainer,
    EMATeacher,
    ExitCrossEntropy,
    FreshCopies,
    HiddenMSE,
    Peer,
    with_exits,
)
from hfdistill.data.augmentations import Delete
from tests.conftest import make_bert, make_dataset, make_tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:This DataLoader will create:UserWarning"
    ),  # of a machine with one core
]
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
WITH_PROJECTION = CrossEntropy() + 0.5 * KD() + 0.1 * HiddenMSE(projection="linear")
ORDERS = {
    "by length": {"length_grouping": True},
    "shuffled": {"length_grouping": False},
    "as they stand": {"train_sampling_strategy": "sequential"},
}


def student(**options):
    return make_bert(2, seed=2, **DROPOUT, **options)


def exits():
    torch.manual_seed(4)
    return with_exits(student())


SPECIAL = {
    "fresh copies": {"data": lambda: FreshCopies(make_dataset(21), Delete(p=0.5), seed=5)},
    "fresh copies, recorded": {
        "data": lambda: FreshCopies(make_dataset(21), Delete(p=0.5), seed=5),
        "records": True,
    },
    "evaluated": {"eval_strategy": "epoch", "eval_dataset": make_dataset(9)},
    "mixup": {"mixup": 0.4},
    "mixup and projections": {"mixup": 0.4, "objective": WITH_PROJECTION},
    "peer": {"teacher": lambda: Peer(make_bert(3, seed=5))},
    "ema": {"teacher": lambda: EMATeacher(decay=0.9)},
    "exits": {"model": exits, "objective": CrossEntropy() + 0.7 * ExitCrossEntropy() + KD()},
}


def build(
    folder,
    *,
    answers=None,
    records=False,
    teacher=None,
    data=None,
    model=student,
    objective=None,
    eval_dataset=None,
    **options,
):
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "seed": 3}
    settings |= {"save_strategy": "steps", "save_steps": 1, "logging_steps": 1, "use_cpu": True}
    settings |= {"gradient_accumulation_steps": 4, "report_to": "none", "disable_tqdm": True}
    return DistillationTrainer(
        model(),
        DistillationArguments(str(folder), **{**settings, **options}),
        teacher=teacher() if teacher else make_bert(3, seed=1),
        objective=objective,
        teacher_cache=answers if records else None,
        train_dataset=data() if data else make_dataset(21),
        eval_dataset=eval_dataset,
        processing_class=make_tokenizer(),
    )


def check_same(folder, other):
    """The files of two checkpoints are the same: weights, optimizer, random states, losses."""
    names, others = (
        {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        for root in (folder, other)
    )
    assert names == others
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= names
    one, two = (
        json.loads((path / "trainer_state.json").read_text())["log_history"] for path in (folder, other)
    )
    if not any("eval_loss" in entry for entry in one):  # which follows the checkpoint of an epoch's last step
        assert one == two
    for name in names - {"trainer_state.json", "hfdistill.json"}:  # the manifest has when the run began
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def check_resumes(folder, **options):
    """A run of two epochs is gone on with from the middle and end of the first, and within the second."""
    whole = build(folder / "whole", answers=folder / "answers", **options)
    whole.train()
    last = whole.state.global_step
    assert last % 2 == 0
    for step in (last // 4, last // 2, last * 3 // 4):
        run = folder / str(step)
        shutil.copytree(folder / "whole" / f"checkpoint-{step}", run / f"checkpoint-{step}")
        build(run, answers=folder / "answers", **options).train(resume_from_checkpoint=True)
        check_same(folder / "whole" / f"checkpoint-{last}", run / f"checkpoint-{last}")


@pytest.mark.parametrize("objective", [None, WITH_PROJECTION], ids=["", "projections"])
@pytest.mark.parametrize("records", [False, True], ids=["live", "recorded"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "accumulated", [1, 4]
)  # 4 leave a window of 2 micro-batches, the last of them of a row
@pytest.mark.parametrize("workers", [0, 2])
def test_any_run_resumes_bit_for_bit(tmp_path, workers, accumulated, order, records, objective):
    options = {"dataloader_num_workers": workers, "gradient_accumulation_steps": accumulated, **ORDERS[order]}
    check_resumes(tmp_path, records=records, objective=objective, **options)


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_draws_or_changes_resumes_bit_for_bit(tmp_path, kind):
    check_resumes(tmp_path, **SPECIAL[kind])
