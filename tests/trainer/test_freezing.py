"""Word embeddings that a run leaves as they are."""

import pytest
from torch import nn

from hfdistill import DistillationArguments, DistillationTrainer
from hfdistill.files.checkpoint import CheckpointError, newest_checkpoint
from hfdistill.trainer.arguments import freeze
from tests.conftest import make_bert, make_dataset, make_tokenizer


@pytest.fixture
def build(tmp_path):
    def make(**options):
        settings = {"use_cpu": True, "report_to": "none", "learning_rate": 0.1, "max_steps": 4}
        args = DistillationArguments(
            str(tmp_path), per_device_train_batch_size=8, disable_tqdm=True, **{**settings, **options}
        )
        student, teacher = make_bert(2, seed=2), make_bert(3, seed=1)
        return DistillationTrainer(
            student, args, teacher=teacher, train_dataset=make_dataset(21), processing_class=make_tokenizer()
        )

    return make


def test_the_table_stays_and_everything_else_learns(build):
    trainer = build(freeze_embeddings=True)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    stayed = {name for name, value in trainer.model.state_dict().items() if value.equal(before[name])}
    assert stayed == {"bert.embeddings.word_embeddings.weight"}
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert id(trainer.model.get_input_embeddings().weight) not in held


def test_a_run_does_not_go_on_with_another_choice(build, tmp_path):
    build(freeze_embeddings=True, save_steps=2).train()
    with pytest.raises(CheckpointError, match="freeze_embeddings: True → False"):
        build(max_steps=6).train(resume_from_checkpoint=newest_checkpoint(tmp_path))
    resumed = build(max_steps=6, freeze_embeddings=True)
    resumed.train(resume_from_checkpoint=newest_checkpoint(tmp_path))
    assert resumed.state.global_step == 6


def test_a_model_without_a_table_is_refused():
    with pytest.raises(ValueError, match=r"Linear has none\. Leave it out"):
        freeze(nn.Linear(2, 2), DistillationArguments("out", freeze_embeddings=True))
    freeze(nn.Linear(2, 2), DistillationArguments("out"))
