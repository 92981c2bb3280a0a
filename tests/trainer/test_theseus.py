"""Module replacement: the teacher's blocks at rate 0, the student's at 1, and a plain model all along."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    TrainerCallback,
)

from hfdistill import (
    KD,
    AttentionKL,
    CheckpointError,
    CrossEntropy,
    DistillationTrainer,
    HiddenMSE,
    Linear,
    MiniLMv2,
    Step,
    Theseus,
    TinyBERTAttention,
    shrink,
)
from hfdistill.network.architectures import blocks
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.trainer.conftest import quiet_arguments

ZERO = Step({0: 0, 0.999: 1})
HALF = Step({0: 0.5, 0.999: 1})
SMALL = {"num_labels": 2, "vocab_size": 36, "pad_token_id": 0}
BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
KINDS = {
    "bert": BERT,
    "camembert": BERT,
    "electra": {**BERT, "embedding_size": 16},
    "roberta": BERT,
    "xlm-roberta": BERT,
    "mpnet": BERT,
    "deberta": BERT,
    "deberta-v2": {**BERT, "relative_attention": True, "pos_att_type": ["c2p"], "position_buckets": 4},
    "mobilebert": {**BERT, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "distilbert": {"dim": 16, "n_layers": 4, "n_heads": 4, "hidden_dim": 32, "max_position_embeddings": 40},
}


@pytest.fixture
def teacher():
    return make_bert(4, seed=1)


@pytest.fixture
def build(teacher, tmp_path):
    def make(rate=HALF, *, folder="run", theseus=None, **options):
        return DistillationTrainer(
            shrink(teacher, layers=[1, 2]),
            quiet_arguments(tmp_path / folder, **{"learning_rate": 0.1, **options}),
            train_dataset=make_dataset(32),
            processing_class=make_tokenizer(),
            callbacks=[theseus or Theseus(teacher, rate=rate)],
            teacher=None,
            objective=1.0 * CrossEntropy(),
        )

    return make


def begin(theseus, student, folder):
    """The student as it is in the first step of a run, without running one."""
    args, state = quiet_arguments(folder), SimpleNamespace(global_step=0, max_steps=10)
    theseus.on_train_begin(args, state, None, model=student)
    theseus.on_step_begin(args, state, None, model=student)
    return student.train()


def batch(rows=4):
    texts = [row["text"] for row in make_dataset(rows)]
    return make_tokenizer()(texts, padding=True, return_tensors="pt")


@pytest.mark.parametrize("kind", KINDS)
def test_at_rate_0_it_computes_as_its_teacher_and_in_evaluation_alone(kind, tmp_path):
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "dropout": 0.0}
    quiet |= {"attention_dropout": 0.0, "seq_classif_dropout": 0.0, "classifier_dropout": 0.0}
    torch.manual_seed(1)
    teacher = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(kind, **{**SMALL, **quiet, **KINDS[kind]})
    ).eval()
    student = shrink(teacher, layers=[1, 2])
    inputs = {"input_ids": torch.tensor([[2, 9, 7, 3], [2, 8, 3, 0]])}
    inputs["attention_mask"] = (inputs["input_ids"] != 0).long()
    alone = student(**inputs).logits
    begin(Theseus(teacher, rate=ZERO), student, tmp_path)
    torch.testing.assert_close(student(**inputs).logits, teacher(**inputs).logits, rtol=0, atol=0)
    student.eval()
    torch.testing.assert_close(student(**inputs).logits, alone, rtol=0, atol=0)


@pytest.mark.parametrize("theirs", ["eager", "sdpa"])
def test_the_teacher_may_have_another_attention_and_another_dtype(teacher, theirs, tmp_path):
    """The student's masks are not those that eager attention adds, nor its states in half precision."""
    for part in teacher.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    student = shrink(teacher.bfloat16(), layers=[1, 2])
    student.set_attn_implementation("sdpa" if theirs == "eager" else "eager")
    expected = teacher.float()(**batch()).logits
    teacher.bfloat16().set_attn_implementation(theirs)
    begin(Theseus(teacher, rate=ZERO), student, tmp_path)
    torch.testing.assert_close(student(**batch()).logits, expected)
    assert teacher.config._attn_implementation == theirs
    assert teacher.dtype == torch.bfloat16


def test_each_group_is_drawn_once_a_forward_for_the_whole_batch(teacher, tmp_path):
    student, inputs = shrink(teacher, layers=[1, 2]), batch()
    begin(Theseus(teacher, rate=HALF, seed=3), student, tmp_path)
    seen = set()
    for forward in range(8):
        drawn = np.random.default_rng((3, 0, forward)).random(2) < 0.5
        seen.add(tuple(drawn))
        found = student(**inputs).logits
        hidden = teacher.bert.embeddings(inputs["input_ids"], token_type_ids=inputs["token_type_ids"])
        mask = (1.0 - inputs["attention_mask"][:, None, None, :].float()) * torch.finfo(torch.float32).min
        for i, stands_in in enumerate(drawn):
            # At the start the student's block i is the teacher's block i.
            for block in blocks(teacher)[i : i + 1] if stands_in else blocks(teacher)[2 * i : 2 * i + 2]:
                hidden = block(hidden, mask)
                hidden = hidden if isinstance(hidden, torch.Tensor) else hidden[0]
        expected = teacher.classifier(teacher.bert.pooler(hidden))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert len(seen) == 4


def test_gradients_reach_the_students_blocks_that_computed_and_nothing_else(teacher, tmp_path):
    student, before = shrink(teacher, layers=[1, 2]), {n: p.clone() for n, p in teacher.named_parameters()}
    begin(Theseus(teacher, rate=HALF, seed=3), student, tmp_path)
    for forward in range(8):  # among them one in which the first block computes before the teacher's last two
        student.zero_grad()
        student(**batch()).logits.sum().backward()
        drawn = np.random.default_rng((3, 0, forward)).random(2) < 0.5
        reached = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
        layers = {int(name.split(".")[3]) for name in reached}
        assert layers == {i for i in range(2) if drawn[i]}
        assert all(name.startswith("bert.encoder.layer.") for name in reached)
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert all(torch.equal(p, before[name]) for name, p in teacher.named_parameters())


def test_a_run_moves_the_blocks_alone_and_leaves_a_plain_model(build, teacher, tmp_path):
    trainer = build()
    trainer.train()
    trainer.save_model()
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert type(student) is BertForSequenceClassification
    assert student.config.num_hidden_layers == 2
    fresh = shrink(teacher, layers=[1, 2]).state_dict()
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, fresh[name])}
    assert moved
    assert all(name.startswith("bert.encoder.layer.") for name in moved)
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())
    assert "forward" not in vars(blocks(trainer.model)[0])
    torch.testing.assert_close(trainer.model.eval()(**batch()).logits, student(**batch()).logits)


class Interrupted(TrainerCallback):
    def on_step_end(self, args, state, control, **others):
        raise KeyboardInterrupt


def test_a_run_that_is_interrupted_or_never_begins_leaves_a_plain_model_too(build):
    trainer = build()
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())
    trainer.add_callback(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())
    assert not any("forward" in vars(block) for block in blocks(trainer.model))
    assert not trainer.model._forward_pre_hooks


@pytest.mark.parametrize("term", [AttentionKL(), MiniLMv2(), TinyBERTAttention()], ids=repr)
def test_terms_within_blocks_that_are_replaced_are_refused_before_the_first_step(teacher, tmp_path, term):
    build = partial(
        DistillationTrainer,
        shrink(teacher, layers=[1, 2]),
        quiet_arguments(tmp_path, max_steps=2),
        train_dataset=make_dataset(32),
        processing_class=make_tokenizer(),
        callbacks=[Theseus(teacher, rate=HALF)],
        teacher=teacher,
    )
    with pytest.raises(ValueError, match=r"within each block .* Theseus lets .*Use terms on labels, logits"):
        build(objective=CrossEntropy() + 0.5 * term)
    build(objective=CrossEntropy() + 0.5 * KD() + HiddenMSE()).train()


def test_at_rate_1_it_is_fine_tuning_of_the_blocks(build, teacher):
    alone = build(folder="alone", theseus=Frozen())
    replaced = build(rate=Linear(1, 1))
    for trainer in (alone, replaced):
        trainer.train()
    for (name, one), (_, other) in zip(
        alone.model.named_parameters(), replaced.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name


class Frozen(Theseus):
    """Freezes what Theseus does, and replaces nothing."""

    def __init__(self):
        super().__init__(make_bert(4, seed=1), rate=Linear(1, 1))

    def on_train_begin(self, *args, **options):
        pass


def test_resumed_it_ends_where_an_unbroken_run_ends(build):
    options = {"save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 4}
    straight = build(rate=Linear(0.3, 1, until=0.7), **options)
    straight.train()
    resumed = build(rate=Linear(0.3, 1, until=0.7), **options)
    resumed.train(resume_from_checkpoint=str(straight.args.output_dir) + "/checkpoint-3")
    for one, other in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_does_not_go_on_at_another_rate(build):
    options = {"save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 4}
    build(**options).train()
    with pytest.raises(CheckpointError, match=r"drawn: .*0\.5.* → .*0\.3"):
        build(rate=Linear(0.3, 1, until=0.7), **options).train(resume_from_checkpoint=True)


def test_gradient_checkpointing_computes_the_same_draw_twice(build):
    ends = []
    for checkpointing in (False, True):
        trainer = build(folder=str(checkpointing), activation_checkpointing=checkpointing)
        trainer.train()
        ends.append(list(trainer.model.parameters()))
    assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(*ends, strict=True))


def test_other_seeds_draw_otherwise(build):
    ends = []
    for seed in (7, 8):
        trainer = build(folder=str(seed), theseus=Theseus(make_bert(4, seed=1), rate=HALF, seed=seed))
        trainer.train()
        ends.append(trainer.model.bert.encoder.layer[0].output.dense.weight)
    assert not torch.equal(*ends)


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (Step({0: 0.5, 0.7: 0.9}), "has to end at 1"),
        (0.5, "has to end at 1, .* found 0.5"),
        (Linear(-0.5, 1), r"is -0\.5 at progress 0\."),
        (Step({0: 0.5, 0.503: 1.5, 0.507: 1}), r"is 1\.5 at progress 0\.503"),
    ],
)
def test_rates_that_are_none_are_refused(teacher, rate, said):
    with pytest.raises(ValueError, match=said):
        Theseus(teacher, rate=rate)


@pytest.mark.parametrize(
    ("student", "said"),
    [
        (lambda teacher: shrink(teacher, layers=3), r"cannot be dealt out evenly to 3 .* one of 1, 2"),
        (lambda teacher: make_bert(2, seed=9), r"differ in bert\..*shrink\(teacher, layers=\[1, 2\]\)"),
        (lambda teacher: make_bert(2, hidden_size=8), "differ in bert"),
    ],
)
def test_a_student_that_is_not_cut_from_the_teacher_is_refused_before_the_first_step(
    teacher, student, said, tmp_path
):
    with pytest.raises(ValueError, match=said):
        DistillationTrainer(
            student(teacher),
            quiet_arguments(tmp_path),
            teacher=None,
            train_dataset=make_dataset(8),
            processing_class=make_tokenizer(),
            callbacks=[Theseus(teacher)],
        )


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("albert", {**BERT, "embedding_size": 16}, "ALBERT repeats"),
        ("modernbert", {**BERT, "global_attn_every_n_layers": 2}, "several kinds"),
        ("deberta-v2", {**BERT, "conv_kernel_size": 3}, "convolution"),
    ],
)
def test_architectures_whose_blocks_differ_are_refused(kind, more, said, tmp_path):
    config = AutoConfig.for_model(kind, **{**SMALL, **more})
    teacher = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ValueError, match=f"cannot take each other's places: .*{said}"):
        Theseus(teacher).on_init_end(quiet_arguments(tmp_path), None, None, model=teacher)


def test_several_processes_need_an_argument(teacher):
    args = type("Arguments", (), {"world_size": 2, "ddp_find_unused_parameters": None, "seed": 0})
    with pytest.raises(ValueError, match="ddp_find_unused_parameters=True"):
        Theseus(teacher).on_init_end(args, None, None, model=shrink(teacher, layers=2))
