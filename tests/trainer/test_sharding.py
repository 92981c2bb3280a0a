"""What divides the student is asked of the accelerator, and what cannot be divided is refused."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers.integrations import deepspeed

from hfdistill import KD, CrossEntropy, DistillationTrainer, HiddenMSE, Peer, Theseus
from hfdistill.files.checkpoint import CheckpointError
from hfdistill.network import divided
from hfdistill.network.divided import make_whole, own_part, whole, whole_models, whole_parameters
from hfdistill.trainer.checks import check_replacements
from hfdistill.trainer.extra_parameters import ExtraParameters
from hfdistill.trainer.sharding import Sharding
from tests.conftest import make_bert, make_dataset, make_tokenizer

LABELS = 1.0 * CrossEntropy()


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
        check_replacements(callbacks, Sharding("ZeRO-3"), LABELS)
    check_replacements([], Sharding("ZeRO-3"), LABELS)
    for name in ("", "FSDP2", "ZeRO-2"):
        check_replacements(callbacks, Sharding(name), LABELS)


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


def test_what_zero3_divides_is_gathered_and_given_back_whole(monkeypatch):
    monkeypatch.setattr(divided, "_is_partitioned", lambda parameter: parameter.dim() == 2)
    monkeypatch.setattr(divided, "_gathered", contextlib.nullcontext)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight.requires_grad_(False)
    before, bias = model[0].weight, model[0].bias
    parts = list(whole_parameters(model))
    assert [tuple(part.shape) for part in parts] == [(3, 3), (3,), (3,)]
    assert torch.equal(parts[0], before)
    assert make_whole(model) is model
    assert model[0].weight is not before
    assert torch.equal(model[0].weight, before)
    assert model[1].weight is model[0].weight  # still tied
    assert not model[0].weight.requires_grad
    assert model[0].bias is bias


def test_a_model_that_deepspeed_trains_stays_divided():
    model = torch.nn.Linear(2, 2)
    model.ds_id, before = 0, model.weight
    assert make_whole(model).weight is before
    assert make_whole("no model") == "no model"


def test_a_dtensor_is_read_whole_or_in_its_own_part():
    divided_tensor = SimpleNamespace(full_tensor=lambda: torch.ones(4), to_local=lambda: torch.ones(2))
    assert whole(divided_tensor).tolist() == [1.0] * 4
    assert own_part(divided_tensor).tolist() == [1.0] * 2


def bound_projections(width=4):
    """A blend whose own optimizer has moved it once, as under FSDP2."""
    term = torch.nn.Linear(3, width, bias=False)
    term.again = term.weight  # one tensor by two names
    extra = ExtraParameters(term)
    extra._own = torch.optim.AdamW(term.parameters(), lr=0.1)
    term(torch.ones(2, 3)).sum().backward()
    extra.step(SimpleNamespace(param_groups=[{"lr": 0.5}]))
    return extra


def test_projections_and_an_optimizer_of_their_own_go_on_from_a_checkpoint(tmp_path):
    one, other = bound_projections(), bound_projections()
    assert one._own.param_groups[0]["lr"] == 0.5
    one.save(tmp_path)
    assert set(load_file(tmp_path / "objective.safetensors")) == {"weight"}
    other.load(tmp_path)
    for extra in (one, other):
        extra.objective(torch.full((2, 3), 0.3)).sum().backward()
        extra.step(SimpleNamespace(param_groups=[{"lr": 0.1}]))
    assert torch.equal(other.objective.weight, one.objective.weight)
    moments = [extra._own.state_dict()["state"][0] for extra in (one, other)]
    assert [float(each["step"]) for each in moments] == [2.0, 2.0]
    assert torch.equal(moments[0]["exp_avg"], moments[1]["exp_avg"])


def test_a_checkpoint_of_other_projections_or_without_their_optimizer_is_refused(tmp_path):
    extra = bound_projections()
    with pytest.raises(CheckpointError, match=r"was not saved under FSDP or DeepSpeed"):
        extra.load(tmp_path)
    extra.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"\(objective.safetensors holds others\)"):
        bound_projections(width=5).load(tmp_path)
    (tmp_path / "objective.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"\(objective.safetensors is missing\)"):
        extra.load(tmp_path)
