"""Objectives that look inside the networks, their projections, and values that change over training."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from hfdistill import (
    KD,
    After,
    CheckpointError,
    CrossEntropy,
    DistillationTrainer,
    HiddenMSE,
    Linear,
    MiniLMv2,
    NonFiniteError,
    Objective,
    Teacher,
    Trace,
    Until,
)
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.trainer.conftest import GradientRecorder, SaveAt


def wide_teacher():
    return make_bert(4, seed=1, hidden_size=32)


def inside():
    return 0.5 * CrossEntropy() + KD(temperature=2) + 2 * HiddenMSE() + MiniLMv2(relation_heads=4)


class ProjectionRecorder(TrainerCallback):
    """The projection's gradient at every optimizer step."""

    def __init__(self):
        self.steps, self.trainer = [], None

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        grads = [
            p.grad.detach().double().reshape(-1)
            for p in self.trainer.blend.parameters()
            if p.grad is not None
        ]
        self.steps.append(torch.cat(grads))


@pytest.fixture
def build(arguments):
    def make(rows=21, **options):
        given = {
            "model": make_bert(2, seed=2),
            "args": arguments(learning_rate=0.05),
            "teacher": wide_teacher(),
            "objective": inside(),
            "train_dataset": make_dataset(rows),
            "processing_class": make_tokenizer(),
        }
        return DistillationTrainer(**{**given, **options})

    return make


def flat(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def test_every_split_gives_the_same_gradients(build, arguments):
    def gradients(size, accumulated):
        student, projections = GradientRecorder(), ProjectionRecorder()
        args = arguments(per_device_train_batch_size=size, gradient_accumulation_steps=accumulated)
        projections.trainer = build(args=args, callbacks=[student, projections])
        projections.trainer.train()
        return student.steps + projections.steps

    whole = gradients(16, 1)
    for split in [(8, 2), (4, 4), (1, 16)]:
        for expected, found in zip(whole, gradients(*split), strict=True):
            assert expected.norm() > 1e-4
            assert (found - expected).norm() / expected.norm() <= 1e-6, split


def test_gradient_checkpointing_changes_nothing(build, arguments):
    plain, saving = (
        build(args=arguments(learning_rate=0.05, activation_checkpointing=on)) for on in (False, True)
    )
    plain.train()
    saving.train()
    assert torch.allclose(flat(plain.model), flat(saving.model), atol=1e-6)


def test_projections_are_trained_and_stay_out_of_the_student(build, tmp_path):
    trainer = build()
    before = flat(trainer.blend).clone()
    trainer.train()
    assert not torch.equal(flat(trainer.blend), before)
    trainer.save_model(str(tmp_path / "student"))
    saved = load_file(tmp_path / "student" / "model.safetensors")
    assert set(saved) == set(make_bert(2).state_dict())
    group = trainer.optimizer.param_groups[-1]
    assert {id(p) for p in group["params"]} == {id(p) for p in trainer.blend.parameters()}
    assert group["weight_decay"] == 0


def test_projections_are_clipped_apart_from_the_student(build, arguments):
    trainer = build(args=arguments(max_grad_norm=1e-3, learning_rate=1.0))
    before = flat(trainer.blend).clone()
    trainer.train()
    moved = (flat(trainer.blend) - before).norm().item()
    assert 0 < moved <= 3 * 1e-3 * 1.01  # three SGD steps of at most the clipped norm


def test_projections_resume_bit_for_bit(build, arguments, tmp_path):
    args = {"num_train_epochs": 2, "optim": "adamw_torch", "learning_rate": 1e-3}
    straight = build(args=arguments(**args))
    straight.add_callback(SaveAt(2, 3, 5))
    straight.train()
    for step in (2, 3, 5):
        resumed = build(args=arguments(**args))
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
        assert torch.equal(flat(resumed.model), flat(straight.model))
        assert torch.equal(flat(resumed.blend), flat(straight.blend))


def test_missing_projections_are_an_error(build, arguments, tmp_path):
    build(args=arguments(save_strategy="epoch")).train()
    (tmp_path / "run" / "checkpoint-3" / "objective.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"objective\.safetensors.* is missing"):
        build(args=arguments()).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))


def test_a_users_optimizer_without_the_projections_is_refused(build):
    model = make_bert(2, seed=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    with pytest.raises(ValueError, match="optimizer_cls_and_kwargs"):
        build(model=model, optimizers=(optimizer, schedule)).train()
    alone = build(model=model, optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None))
    before = flat(alone.blend).clone()
    alone.train()
    assert not torch.equal(flat(alone.blend), before)


def test_stages_in_one_run(build, arguments):
    """TinyBERT's two stages: inside first, then the logits; what has no weight is neither run nor read."""
    asked = []

    class Spy(Teacher):
        def __init__(self):
            super().__init__()
            self.model = wide_teacher()

        def trace(self, batch, *, taps=frozenset()):
            from hfdistill.network.inputs import accepted_inputs
            from hfdistill.network.trace import run

            asked.append(len(taps))
            with torch.no_grad():
                return run(self.model, batch, accepts=accepted_inputs(self.model), taps=taps)

    trainer = build(
        teacher=Spy(),
        objective=Until(0.5) * HiddenMSE() + After(0.5) * KD(),
        args=arguments(max_steps=6, learning_rate=0.01),
    )
    trainer.train()
    assert asked == [2, 2, 2, 0, 0, 0]
    logs = [h for h in trainer.state.log_history if "loss" in h]
    assert [h["loss_kd"] > 0 for h in logs] == [False] * 3 + [True] * 3
    assert [h["loss_hidden_mse"] > 0 for h in logs] == [True] * 3 + [False] * 3


def test_scheduled_values_resume_bit_for_bit(build, arguments, tmp_path):
    objective = Linear(1, 0) * CrossEntropy() + Until(0.5) * HiddenMSE() + KD(temperature=Linear(8, 1))
    args = {"num_train_epochs": 2, "learning_rate": 0.01}
    straight = build(objective=objective, args=arguments(**args))
    straight.add_callback(SaveAt(2, 4))
    straight.train()
    for step in (2, 4):
        resumed = build(objective=objective, args=arguments(**args))
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
        assert torch.equal(flat(resumed.model), flat(straight.model))


def test_each_trial_of_a_model_init_has_fresh_projections(build):
    trainer = build(model=None, model_init=lambda: make_bert(2, seed=2))
    trainer.train()
    once = flat(trainer.blend).clone()
    trainer.train()
    assert torch.equal(flat(trainer.blend), once)


def test_maps_and_projections_are_shown_once(build, arguments, capsys):
    build(args=arguments(disable_tqdm=False)).train()
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert text.count("layers student:teacher 1:2, 2:4; projections of 512 parameters, not exported") == 1


def test_compiled_networks_cannot_be_looked_into(build, arguments):
    with pytest.raises(ValueError, match="torch_compile"):
        build(args=arguments(torch_compile=True, torch_compile_backend="eager"))


def test_a_teacher_without_readings_says_what_is_missing(build):
    class Blind(Teacher):
        def trace(self, batch, *, taps=frozenset()):
            return Trace(torch.zeros(len(batch["input_ids"]), 2))

    with pytest.raises(ValueError, match="looks inside the teacher"):
        build(teacher=Blind())


def test_checkpoints_of_the_same_run_show_the_objective(build, arguments, tmp_path):
    build(args=arguments(save_strategy="epoch")).train()
    assert "HiddenMSE" in Path(tmp_path / "run" / "checkpoint-3" / "hfdistill.json").read_text()


def test_a_model_init_of_another_depth_has_a_map_of_its_own(build):
    depths = iter([2, 3, 3])
    trainer = build(model=None, model_init=lambda: make_bert(next(depths), seed=2))
    assert [tap.layer for tap in sorted(trainer.blend.taps()[0]) if tap.kind == "hidden"] == [1, 2]
    trainer.train()
    assert [tap.layer for tap in sorted(trainer.blend.taps()[0]) if tap.kind == "hidden"] == [1, 2, 3]


def test_two_trainers_share_no_projections(build):
    objective = inside()
    first, second = build(objective=objective), build(objective=objective)
    before = flat(second.blend).clone()
    first.train()
    assert torch.equal(flat(second.blend), before)


def test_a_loss_functions_name_tells_runs_apart_and_not_its_address(build):
    def make():
        def loss(outputs, labels, num_items_in_batch=None):
            return torch.nn.functional.cross_entropy(outputs.logits, labels)

        return loss

    facts = [build(objective=None, compute_loss_func=make()).run_facts() for _ in range(2)]
    assert facts[0] == facts[1]
    assert "0x" not in str(facts[0])


def test_buffers_of_a_term_are_resumed(build, arguments, tmp_path):
    class Centred(Objective):
        """Logit MSE around a running mean of the teacher's logits."""

        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(2))

        def forward(self, student, teacher, labels):
            self.mean.mul_(0.9).add_(0.1 * teacher.logits.detach().mean(0))
            return (student.logits - teacher.logits + self.mean).square().mean()

    args = {"num_train_epochs": 2, "learning_rate": 0.01}
    straight = build(objective=Centred(), args=arguments(**args))
    straight.add_callback(SaveAt(3))
    straight.train()
    resumed = build(objective=Centred(), args=arguments(**args))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert torch.equal(flat(resumed.model), flat(straight.model))


def test_a_teacher_of_ones_own_can_be_looked_into(build):
    model = wide_teacher()

    class Own(Teacher):
        config = model.config

        def trace(self, batch, *, taps=frozenset()):
            from hfdistill.network.inputs import accepted_inputs
            from hfdistill.network.trace import run

            return run(model, batch, accepts=accepted_inputs(model), taps=taps)

    build(teacher=Own()).train()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_a_teacher_none_is_blamed(build):
    trainer = build(teacher=None, objective=1.0 * CrossEntropy())
    with torch.no_grad():
        trainer.model.classifier.bias[0] = float("nan")
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    assert "student's logits" in str(caught.value)
    assert "teacher's logits" not in str(caught.value)


def test_a_projections_bad_gradient_is_named(build):
    trainer = build()
    before = flat(trainer.blend).clone()
    next(trainer.blend.parameters()).register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(NonFiniteError, match=r"Step 1 .*the objective's terms\.2\.project"):
        trainer.train()
    assert torch.equal(flat(trainer.blend), before)


def test_a_term_without_weight_is_warned_of(build):
    with pytest.warns(UserWarning, match=r"HiddenMSE.* has weight 0 throughout"):
        build(objective=CrossEntropy() + 0 * HiddenMSE())
