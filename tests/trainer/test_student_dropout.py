"""`student_dropout`: the probability of a student's dropout layers while it trains."""

import contextlib

import pytest
import torch
from torch import nn
from transformers import ModernBertConfig, ModernBertForSequenceClassification, TrainerCallback

from hfdistill import DistillationArguments, DistillationTrainer
from hfdistill.files.checkpoint import CheckpointError, newest_checkpoint
from hfdistill.trainer.dropout import StudentDropout
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.families import FAMILIES, TEXTS


def with_dropout(model, rate=0.5):
    """The same architecture, with every dropout that its config knows."""
    config = model.config
    for name, value in list(vars(config).items()):
        if "dropout" in name and isinstance(value, (int, float)) and not isinstance(value, bool):
            setattr(config, name, rate)
    return type(model)(config).train()


def modern_bert():
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ModernBertConfig(intermediate_size=32, pad_token_id=0, cls_token_id=2, sep_token_id=3, **sizes)
    return ModernBertForSequenceClassification(config)


def two_answers(model, inputs):
    return model(**inputs).logits, model(**inputs).logits


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_without_dropout_a_training_student_answers_alike(family):
    model, tokenizer = with_dropout(family.model()), family.tokenizer()
    inputs = tokenizer(TEXTS[:1], return_tensors="pt")
    if any(isinstance(module, nn.Dropout) and module.p for module in model.modules()):
        first, second = two_answers(model, inputs)
        assert not torch.equal(first, second)
    StudentDropout(DistillationArguments("out", student_dropout=0)).apply(model)
    first, second = two_answers(model, inputs)
    assert torch.equal(first, second)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_probability_beside_the_layers_is_set_too(attention):
    model = with_dropout(modern_bert())
    model.set_attn_implementation(attention)
    for module in model.modules():  # what is left is the number of the attention
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 7, 8, 9, 3]])}
    first, second = two_answers(model, inputs)
    assert not torch.equal(first, second)
    StudentDropout(DistillationArguments("out", student_dropout=0)).apply(model)
    first, second = two_answers(model, inputs)
    assert torch.equal(first, second)


def test_recurrent_layers_are_set_too():
    model = nn.Sequential(nn.LSTM(4, 4, num_layers=2, dropout=0.5), nn.Dropout2d(0.5))
    dropout = StudentDropout(DistillationArguments("out", student_dropout=0.25))
    dropout.apply(model)
    assert (model[0].dropout, model[1].p) == (0.25, 0.25)
    without = StudentDropout(DistillationArguments("out"))
    without.apply(model)
    without.restore()
    assert (model[0].dropout, model[1].p) == (0.25, 0.25)
    dropout.restore()
    assert (model[0].dropout, model[1].p) == (0.5, 0.5)


def test_a_number_of_dropouts_is_no_probability():
    model = nn.Linear(2, 2)
    model.num_dropouts, model.dropout, model.with_dropout = 5, 0, True
    StudentDropout(DistillationArguments("out", student_dropout=0.25)).apply(model)
    assert (model.num_dropouts, model.dropout, model.with_dropout) == (5, 0.25, True)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan"), "0.1", False])
def test_what_is_no_probability_is_refused(rate):
    with pytest.raises(ValueError, match=r"at least 0 and below 1, found .*Pass student_dropout=0 for none"):
        DistillationArguments("out", student_dropout=rate)


@pytest.fixture
def build(tmp_path):
    def make(max_steps=4, *, config_rate=0.5, **options):
        settings = {"use_cpu": True, "report_to": "none", "learning_rate": 0.1, "disable_tqdm": True}
        args = DistillationArguments(
            str(tmp_path),
            per_device_train_batch_size=8,
            max_steps=max_steps,
            save_steps=2,
            **settings,
            **options,
        )
        rates = {"hidden_dropout_prob": config_rate, "attention_probs_dropout_prob": config_rate}
        student, teacher = make_bert(2, seed=2, **rates), make_bert(3, seed=1)
        data = {"train_dataset": make_dataset(21), "processing_class": make_tokenizer()}
        return DistillationTrainer(student, args, teacher=teacher, **data)

    return make


def test_a_run_without_dropout_ends_as_one_of_a_config_without(build, tmp_path):
    trainer, plain = build(student_dropout=0, save_strategy="no"), build(config_rate=0.0, save_strategy="no")
    trainer.train()
    plain.train()
    expected = plain.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trainer.model.state_dict().items())
    trainer.save_model(str(tmp_path / "saved"))
    assert type(trainer.model).from_pretrained(tmp_path / "saved").config.hidden_dropout_prob == 0.5


def rates_of(model):
    return {module.p for module in model.modules() if isinstance(module, nn.Dropout)}


@pytest.mark.parametrize("fails", [False, True])
def test_a_student_has_its_own_dropout_before_and_after_a_run(build, fails):
    trainer, seen = build(student_dropout=0.25, save_strategy="no"), []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model, **others):
            seen.append(rates_of(model))
            if fails:
                raise RuntimeError("stopped")

    trainer.add_callback(Look())
    assert rates_of(trainer.model) == {0.5}
    for _ in range(2):
        with pytest.raises(RuntimeError, match="stopped") if fails else contextlib.nullcontext():
            trainer.train()
        assert (seen.pop(), rates_of(trainer.model)) == ({0.25}, {0.5})


FAST = {"bf16": True, "student_dropout": 0}


@pytest.mark.parametrize(
    ("options", "is_fused"),
    [
        (FAST, {"student": False, "evaluated": True, "teacher": True}),
        ({**FAST, "bf16": False}, {"student": True, "evaluated": True, "teacher": True}),
        ({"bf16": True}, {"student": True, "evaluated": True, "teacher": True}),
        ({**FAST, "activation_checkpointing": True}, {"student": True, "evaluated": True, "teacher": True}),
    ],
    ids=["bf16", "float32", "its own dropout", "repeated in backward"],
)
def test_the_fused_kernel_whose_backward_is_slow_in_bf16_is_avoided(build, options, is_fused):
    trainer, seen = build(1, save_strategy="no", **options), {}

    def look(role):
        def hook(module, *_):
            name = role if role == "teacher" or module.training else "evaluated"
            seen[name] = torch.backends.cuda.flash_sdp_enabled()

        return hook

    trainer.model.bert.register_forward_pre_hook(look("student"))
    trainer.teacher.model.bert.register_forward_pre_hook(look("teacher"))
    trainer.train()
    trainer.evaluate(trainer.train_dataset)
    assert seen == is_fused


def test_a_run_does_not_go_on_with_another_dropout(build, tmp_path):
    build(student_dropout=0).train()
    with pytest.raises(CheckpointError, match=r"student_dropout: 0 → None"):
        build(6).train(resume_from_checkpoint=newest_checkpoint(tmp_path))
    resumed = build(6, student_dropout=0)
    resumed.train(resume_from_checkpoint=newest_checkpoint(tmp_path))
    assert resumed.state.global_step == 6
