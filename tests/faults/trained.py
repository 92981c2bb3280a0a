"""python -m tests.faults.trained FOLDER [dies]: a run of six steps that goes on where it stood."""

import os
import signal
import sys

from transformers import TrainerCallback

from hfdistill import DistillationArguments, DistillationTrainer, newest_checkpoint
from tests.conftest import make_bert, make_dataset, make_tokenizer

STEPS = 6
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


class Dying(TrainerCallback):
    """Process 1 is killed in the third step."""

    def on_step_begin(self, args, state, control, **others):
        if state.global_step == 2 and args.process_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def build(folder, *, callbacks=(), **options):
    return DistillationTrainer(
        make_bert(2, seed=2, **DROPOUT),
        DistillationArguments(
            str(folder), max_steps=STEPS, per_device_train_batch_size=4, save_strategy="steps", save_steps=1,
            learning_rate=1e-2, report_to="none", disable_tqdm=True, seed=3, use_cpu=True,
            **options,
        ),
        teacher=make_bert(3, seed=1),
        train_dataset=make_dataset(21),
        processing_class=make_tokenizer(),
        callbacks=list(callbacks),
    )  # fmt: skip


def run(folder, *, dies=False):
    trainer = build(folder, callbacks=[Dying()] if dies else [])
    trainer.train(resume_from_checkpoint=newest_checkpoint(folder))


if __name__ == "__main__":
    run(sys.argv[1], dies="dies" in sys.argv)
