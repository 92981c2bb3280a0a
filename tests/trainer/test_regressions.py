"""Ways in which a run could go wrong without a word."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from datasets import Dataset
from transformers import BertModel, DataCollatorWithPadding, TrainerCallback, TrainingArguments, pipeline

from hfdistill import CheckpointError, DistillationTrainer
from tests.conftest import GOOD, make_bert, make_dataset, make_tokenizer
from tests.trainer.conftest import GradientRecorder


@pytest.fixture
def build(arguments):
    def make(rows=16, **options):
        given = {
            "model": make_bert(2, seed=2),
            "args": arguments(),
            "teacher": make_bert(3, seed=1),
            "train_dataset": make_dataset(rows),
            "processing_class": make_tokenizer(),
        }
        return DistillationTrainer(**{**given, **options})

    return make


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 8}, "seed"),
        ({"learning_rate": 0.5}, "learning_rate"),
        ({"per_device_train_batch_size": 4}, "rows a step"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_is_not_gone_on_with_under_other_settings(build, arguments, change, named):
    build(args=arguments(save_strategy="epoch")).train()
    with pytest.raises(CheckpointError, match=f"other settings .*{named}: .*allow_changed=True"):
        build(args=arguments(save_strategy="epoch", **change)).train(resume_from_checkpoint=True)


def test_a_run_may_be_made_longer(build, arguments):
    build(args=arguments(save_strategy="epoch")).train()
    longer = build(args=arguments(save_strategy="epoch", num_train_epochs=2))
    assert longer.train(resume_from_checkpoint=True).global_step == 4


def test_other_rows_or_another_student_are_another_run(build, arguments):
    build(args=arguments(save_strategy="epoch")).train()
    with pytest.raises(CheckpointError, match="rows: 16 → 12"):
        build(rows=12).train(resume_from_checkpoint=True)
    with pytest.raises(CheckpointError, match=r"student: .*'num_hidden_layers': 2.*'num_hidden_layers': 1"):
        build(model=make_bert(1)).train(resume_from_checkpoint=True)


def test_a_regression_student_answers_with_its_value(build, arguments, tmp_path):
    one = {"num_labels": 1, "labels": {0: "score"}}
    data = Dataset.from_dict({"text": GOOD, "label": [i / 8 for i in range(8)]})
    trainer = build(
        model=make_bert(2, seed=2, **one), teacher=make_bert(3, seed=1, **one), train_dataset=data
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "student"))
    raw = trainer.predict(data).predictions[0].item()
    answer = pipeline("text-classification", model=str(tmp_path / "student"))(GOOD[0])[0]["score"]
    assert answer == pytest.approx(raw, abs=1e-6)


def test_parts_add_up_where_the_data_end_early(build, arguments):
    endless = make_dataset(32).map(lambda b: make_tokenizer()(b["text"]), batched=True).to_iterable_dataset()
    trainer = build(train_dataset=endless, args=arguments(max_steps=10, logging_steps=3))
    trainer.train()
    logs = [h for h in trainer.state.log_history if "loss" in h]
    assert len(logs) >= 3
    for entry in logs:
        assert entry["loss"] == pytest.approx(entry["loss_kd"] + entry["loss_cross_entropy"], rel=1e-6)


def test_what_an_epoch_leaves_in_a_window_does_not_join_the_next_step(build, arguments):
    """Five batches at two a step, data without a length: the fifth is not added to the next first step."""
    data = make_dataset(20).map(lambda b: make_tokenizer()(b["text"]), batched=True)
    recorder = GradientRecorder()
    args = arguments(per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=4)
    build(train_dataset=data.to_iterable_dataset(), args=args, callbacks=[recorder]).train()
    assert len(recorder.steps) == 4
    assert torch.allclose(recorder.steps[2], recorder.steps[0], atol=1e-7)


def test_a_transform_of_the_users_own_is_left_alone(build, arguments):
    tokenizer = make_tokenizer()

    def read(batch):
        return {**tokenizer(batch["text"], padding=True), "labels": batch["label"]}

    data = make_dataset(16)
    data.set_transform(read)
    args = arguments(remove_unused_columns=False)
    assert build(train_dataset=data, args=args).train().global_step == 2


def test_a_collator_of_the_users_own_reads_the_text(build, arguments):
    tokenizer = make_tokenizer()

    def collate(rows):
        batch = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
        return {**batch, "labels": torch.tensor([row["label"] for row in rows])}

    args = arguments(remove_unused_columns=False)
    assert build(data_collator=collate, args=args).train().global_step == 2
    padding = build(data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8))
    assert padding.train().global_step == 2


def test_a24_a_new_run_in_an_old_folder_keeps_its_own_checkpoints(build, arguments, tmp_path):
    long = arguments(save_strategy="steps", save_steps=6, max_steps=6)
    build(args=long).train()
    short = arguments(save_strategy="steps", save_steps=2, max_steps=4, save_total_limit=1, learning_rate=0.1)
    build(args=short).train()
    assert [p.name for p in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-4"]
    again = build(args=arguments(save_strategy="no", max_steps=4, learning_rate=0.1))
    assert again.train(resume_from_checkpoint=True).global_step == 4


def test_the_best_checkpoint_is_found_again_in_a_moved_folder(build, arguments, tmp_path):
    best_first = iter([0.9, 0.1, 0.1, 0.1, 0.1])
    options = {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "metric_for_best_model": "accuracy",
        "save_total_limit": 1,
        "load_best_model_at_end": True,
    }

    def script(folder, epochs):
        return build(
            args=arguments(output_dir=str(folder), num_train_epochs=epochs, **options),
            eval_dataset=make_dataset(8), compute_metrics=lambda p: {"accuracy": next(best_first)},
        )  # fmt: skip

    script(tmp_path / "here", 2).train()
    (tmp_path / "here").rename(tmp_path / "there")
    moved = script(tmp_path / "there", 4)
    moved.train(resume_from_checkpoint=True)
    assert moved.state.best_model_checkpoint == str(tmp_path / "there" / "checkpoint-2")
    assert (tmp_path / "there" / "checkpoint-2").is_dir()


def test_no_pickle_and_no_token_is_pushed(build, arguments, monkeypatch, tmp_path):
    seen = []

    def upload(*, folder_path, ignore_patterns=(), **options):
        kept = [p for p in Path(folder_path).iterdir() if p.is_file() and not p.name.startswith("_")]
        seen.extend((p.name, b"hf_secret" in p.read_bytes()) for p in kept)
        return SimpleNamespace(done=lambda: True, result=lambda: None)

    hub = SimpleNamespace(create_repo=lambda name, **o: SimpleNamespace(repo_id=name), upload_folder=upload)
    monkeypatch.setattr(transformers.trainer, "hf_api", lambda: hub)
    monkeypatch.setattr("hfdistill.trainer.publishing.HfApi", lambda **options: hub)
    args = arguments(save_strategy="epoch", push_to_hub=True, hub_model_id="a/b", hub_token="hf_secret")
    build(args=args).train()
    assert "model.safetensors" in dict(seen)
    assert not any(leaks or name.endswith(".bin") for name, leaks in seen)
    assert not list(tmp_path.rglob("*training_args.bin"))


def test_a_checkpoint_without_optimizer_cannot_be_gone_on_from(build, arguments):
    build(args=arguments(save_strategy="epoch", save_only_model=True)).train()
    with pytest.raises(CheckpointError, match=r"no optimizer state .*save_only_model=True"):
        build(args=arguments()).train(resume_from_checkpoint=True)


def test_an_encoder_by_its_path_becomes_a_student_with_the_teachers_classes(build, tmp_path):
    BertModel(make_bert(2).config).save_pretrained(tmp_path / "encoder")
    trainer = build(model=str(tmp_path / "encoder"))
    assert trainer.model.config.id2label == {0: "negative", 1: "positive"}
    trainer.train()


def test_a_compiled_teacher_gets_its_inputs(build):
    compiled = torch.compile(make_bert(1, seed=1), backend="eager")
    build(teacher=compiled).train()


def test_the_teacher_is_looked_at_once_the_run_has_begun(build):
    class Begun(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.ready = True

        def on_log(self, args, state, control, **kwargs):
            assert self.ready

    build(callbacks=[Begun()], eval_dataset=make_dataset(8)).train()


def test_a_tokenizer_with_more_tokens_than_the_teacher_is_refused(build):
    with pytest.raises(
        ValueError, match=r"36 tokens and the teacher's embedding 30.*resize_token_embeddings\(36\)"
    ):
        build(teacher=make_bert(3, vocab_size=30))


def test_long_texts_are_cut_to_what_both_models_can_read(build, caplog):
    caplog.set_level(logging.WARNING)
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 10**9
    data = Dataset.from_dict({"text": [" ".join(GOOD * 10)] * 4, "label": [0, 1, 0, 1]})
    trainer = build(
        train_dataset=data, processing_class=tokenizer, teacher=make_bert(3, max_position_embeddings=24)
    )
    assert {len(ids) for ids in trainer.train_dataset["input_ids"]} == {24}
    trainer.train()


def test_a_positional_argument_cannot_be_given_twice():
    with pytest.raises(TypeError, match="data_collator"):
        DistillationTrainer(make_bert(), TrainingArguments("out"), None, teacher=None, data_collator=None)


def test_d19_saved_folders_hold_no_pickle(build, arguments, tmp_path):
    trainer = build(args=arguments(save_strategy="epoch"))
    trainer.train()
    trainer.save_model(str(tmp_path / "student"))
    assert {path.suffix for path in (tmp_path / "student").iterdir()} == {".json", ".safetensors"}
