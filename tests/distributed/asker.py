"""The part of test_two_askers: each process trains by a function that writes down what it is asked."""

import os
from pathlib import Path

from transformers import TrainingArguments

from hfdistill import KD, DistillationTrainer, TextTeacher
from tests.conftest import BAD, make_bert, make_dataset, make_tokenizer


def main(folder: Path, _: int) -> None:
    log = folder / f"asked-{os.environ.get('RANK', 0)}.txt"

    def answer(texts):
        with log.open("a") as stream:
            stream.writelines(f"{text}\n" for text in texts)
        return [[0.9, 0.1] if set(text.split()) & set(BAD) else [0.2, 0.8] for text in texts]

    teacher = TextTeacher(
        answer, ["negative", "positive"], cache=folder / "answers", batch_size=2, name="opinions"
    )
    args = TrainingArguments(
        str(folder / "out"), max_steps=2, per_device_train_batch_size=4, report_to="none", use_cpu=True,
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    DistillationTrainer(
        make_bert(2, seed=2), args, teacher=teacher, objective=KD(), train_dataset=make_dataset(),
        processing_class=make_tokenizer(),
    ).train()  # fmt: skip
