"""What divides the student is asked of the accelerator, and what cannot be divided is refused."""

from types import SimpleNamespace

import pytest
import torch
from transformers.integrations import deepspeed

from hfdistill import KD, CrossEntropy, DistillationTrainer, HiddenMSE, Peer, Theseus
from hfdistill.network.divided import make_whole, own_part, whole, whole_models, whole_parameters
from hfdistill.trainer.checks import check_replacements
from hfdistill.trainer.sharding import Sharding
from tests.conftest import make_bert, make_dataset, make_tokenizer


def accelerator(**plugins):
    return SimpleNamespace(state=SimpleNamespace(**plugins))


@pytest.mark.parametrize(
    ("plugins", "name"),
    [
        ({}, ""),
        ({"deepspeed_plugin": None}, ""),
        ({"deepspeed_plugin": SimpleNamespace(zero_stage=1)}, "ZeRO-1"),
        ({"deepspeed_plugin": SimpleNamespace(zero_stage=3)}, "ZeRO-3"),
        ({"fsdp_plugin": SimpleNamespace(fsdp_version=2)}, "FSDP2"),
        ({"fsdp_plugin": SimpleNamespace(fsdp_version=1), "deepspeed_plugin": None}, "FSDP1"),
    ],
)
def test_the_accelerator_knows_what_was_launched(plugins, name):
    sharding = Sharding.of(accelerator(**plugins))
    assert (sharding.name, bool(sharding)) == (name, bool(name))


def test_a_run_on_one_process_divides_nothing(arguments):
    trainer = DistillationTrainer(
        make_bert(1),
        arguments(),
        teacher=None,
        train_dataset=make_dataset(4),
        processing_class=make_tokenizer(),
    )
    assert not trainer.sharding


def test_zero3_is_told_to_write_whole_models():
    plugin = SimpleNamespace(zero_stage=3, deepspeed_config={"zero_optimization": {"stage": 3}})
    Sharding.of(accelerator(deepspeed_plugin=plugin)).settle(make_bert(1))
    assert plugin.deepspeed_config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True


@pytest.mark.parametrize(("named", "layers"), [(None, ["BertLayer"]), (["BertOutput"], ["BertOutput"])])
def test_fsdp2_divides_no_module_around_the_word_embeddings(named, layers):
    model = make_bert(1)
    assert set(model._no_split_modules) == {"BertEmbeddings", "BertLayer"}
    plugin = SimpleNamespace(fsdp_version=2, transformer_cls_names_to_wrap=named)
    Sharding.of(accelerator(fsdp_plugin=plugin)).settle(model)
    assert plugin.transformer_cls_names_to_wrap == layers


def test_theseus_is_refused_where_weights_are_never_whole():
    callbacks = [Theseus(make_bert(4, seed=1))]
    with pytest.raises(ValueError, match=r"ZeRO-3 puts the parameters of a block together.*zero_stage: 2"):
        check_replacements(callbacks, Sharding("ZeRO-3"))
    check_replacements([], Sharding("ZeRO-3"))
    for name in ("", "FSDP2", "ZeRO-2"):
        check_replacements(callbacks, Sharding(name))


def build(arguments, **options):
    settings = {
        "objective": CrossEntropy() + KD() + HiddenMSE(),
        "teacher": make_bert(3, seed=1, hidden_size=32),
    }
    return DistillationTrainer(
        make_bert(2, seed=2), arguments(learning_rate=0.1), train_dataset=make_dataset(8),
        processing_class=make_tokenizer(), **{**settings, **options},
    )  # fmt: skip


PARTS = [
    ({}, "projections"),
    ({"teacher": Peer(make_bert(3, seed=1)), "objective": None}, "The peer has parameters"),
]


@pytest.mark.parametrize(("options", "what"), PARTS, ids=["projections", "peer"])
def test_fp16_scales_no_optimizer_but_the_students(arguments, options, what, monkeypatch):
    trainer = build(arguments, **options)
    monkeypatch.setattr(DistillationTrainer, "sharding", Sharding("FSDP2"))
    monkeypatch.setattr(trainer.accelerator.state, "_mixed_precision", "fp16")
    with pytest.raises(ValueError, match=f"{what}.*student of FSDP2, which keeps the scale.*bf16=True"):
        trainer.create_optimizer()


def test_an_optimizer_of_the_users_own_is_refused_without_the_projections(arguments, monkeypatch):
    monkeypatch.setattr(DistillationTrainer, "sharding", Sharding("ZeRO-2"))
    student = make_bert(2, seed=2)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    trainer = DistillationTrainer(
        student, arguments(), teacher=make_bert(3, seed=1, hidden_size=32), objective=KD() + HiddenMSE(),
        train_dataset=make_dataset(8), processing_class=make_tokenizer(), optimizers=(optimizer, None),
    )  # fmt: skip
    with pytest.raises(ValueError, match="projections to train, and the optimizer was made without them"):
        trainer.create_optimizer()


def test_an_optimizer_of_their_own_moves_projections_as_the_students_would(arguments, monkeypatch):
    together = build(arguments)
    together.train()
    apart = build(arguments)
    monkeypatch.setattr(DistillationTrainer, "create_optimizer", create_apart)
    apart.train()
    own = apart._extra_parameters
    held = {id(p) for group in apart.optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for each in own.parameters() for p in each}
    pairs = zip(apart.blend.parameters(), together.blend.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    pairs = zip(apart.model.parameters(), together.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def create_apart(trainer, model=None):
    """Make the optimizers as FSDP2 would have them."""
    optimizer = super(DistillationTrainer, trainer).create_optimizer(model)
    trainer._extra_parameters.add_to(optimizer, trainer=trainer, sharding=Sharding("FSDP2"), made=False)
    return optimizer


class Config:
    """Stands for DeepSpeed's settings, which Transformers looks up by a weak reference."""

    def is_zero3(self):
        return True


def test_models_are_made_whole_while_zero3_is_on():
    config = Config()
    deepspeed.set_hf_deepspeed_config(config)
    try:
        assert deepspeed.is_deepspeed_zero3_enabled()
        with whole_models():
            assert not deepspeed.is_deepspeed_zero3_enabled()
        assert deepspeed.is_deepspeed_zero3_enabled()
    finally:
        deepspeed.unset_hf_deepspeed_config()
    with whole_models():
        assert not deepspeed.is_deepspeed_zero3_enabled()
    assert not deepspeed.is_deepspeed_zero3_enabled()


def test_what_is_whole_stays_as_it_is():
    model = make_bert(1)
    before = list(model.parameters())
    assert make_whole(model) is model
    assert all(one is other for one, other in zip(before, whole_parameters(model), strict=True))
    assert whole(0.5) == 0.5
    assert own_part(before[0]) is before[0]
