"""Teacher hygiene, label spaces, evaluation, and stops."""

import copy
import logging

import pytest
import torch
from datasets import Dataset
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    TrainerCallback,
    TrainingArguments,
)

from hfdistill import (
    KD,
    CrossEntropy,
    DistillationArguments,
    DistillationTrainer,
    LabelSpaceError,
    ModelTeacher,
    NonFiniteError,
    Objective,
    Teacher,
    Trace,
    register,
)
from tests.conftest import GOOD, make_bert, make_dataset, make_tokenizer


@pytest.fixture
def build(arguments):
    def make(**options):
        given = {
            "model": make_bert(2, seed=2),
            "args": arguments(learning_rate=0.1),
            "teacher": make_bert(3, seed=1),
            "train_dataset": make_dataset(21),
            "eval_dataset": make_dataset(17),
            "processing_class": make_tokenizer(),
        }
        return DistillationTrainer(**{**given, **options})

    return make


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


# ---- the teacher ----


def test_teacher_is_frozen_and_in_eval_at_every_forward(build):
    teacher = make_bert(3, seed=1, hidden_dropout_prob=0.5)
    teacher.train()
    seen = []
    teacher.register_forward_hook(
        lambda module, inputs, outputs: seen.append(
            (any(m.training for m in module.modules()), outputs.logits.requires_grad, torch.is_grad_enabled())
        )
    )

    class Meddle(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            teacher.train()

    trainer = build(teacher=teacher, callbacks=[Meddle()])
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    trainer.train()
    assert len(seen) >= 3
    assert set(seen) == {(False, False, False)}
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_teacher_is_in_no_optimizer_and_no_checkpoint(build, arguments, tmp_path):
    trainer = build(args=arguments(save_strategy="epoch"))
    trainer.train()
    mine = {id(p) for p in trainer.model.parameters()}
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert held <= mine
    names = {path.name for path in (tmp_path / "run" / "checkpoint-3").iterdir()}
    assert "training_args.bin" not in names
    loaded = type(trainer.model).from_pretrained(tmp_path / "run" / "checkpoint-3")
    assert set(loaded.state_dict()) == set(trainer.model.state_dict())
    assert loaded.config.num_hidden_layers == 2


def test_a_teacher_that_reads_more_than_the_student(build):
    """DistilBERT has no token_type_ids; the BERT teacher gets those of the pairs."""
    config = DistilBertConfig(
        vocab_size=36, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=32,
        id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1},
    )  # fmt: skip
    student = DistilBertForSequenceClassification(config)
    rows = make_dataset(16)
    pairs = Dataset.from_dict(
        {"text": rows["text"][:], "text_pair": rows["text"][::-1], "label": rows["label"][:]}
    )
    teacher = make_bert(3, seed=1)
    read = []
    teacher.register_forward_pre_hook(lambda m, a, k: read.append(k), with_kwargs=True)
    trainer = build(model=student, teacher=teacher, train_dataset=pairs, eval_dataset=None)
    trainer.train()
    assert all({"input_ids", "attention_mask", "token_type_ids"} == set(batch) for batch in read)
    assert max(int(batch["token_type_ids"].max()) for batch in read) == 1
    batch = dict(make_tokenizer()(pairs["text"][:], pairs["text_pair"][:], padding=True, return_tensors="pt"))
    by_hand = teacher(**batch).logits
    assert torch.allclose(trainer._ask_teacher(batch).logits, by_hand)


def test_a_teacher_object_of_ones_own(build):
    class Always(Teacher):
        def trace(self, batch):
            return Trace(logits=torch.tensor([[3.0, -3.0]]).repeat(len(batch["input_ids"]), 1))

    trainer = build(teacher=Always(), objective=1.0 * KD(temperature=1))
    value = trainer.compute_loss(
        trainer.model.train(), trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    )
    assert value > 0


def test_teacher_from_a_path(build, tmp_path):
    make_bert(3, seed=1).half().save_pretrained(tmp_path / "teacher")
    trainer = build(teacher=str(tmp_path / "teacher"))
    assert next(trainer.teacher.parameters()).dtype == torch.float32
    trainer.train()


@pytest.mark.parametrize("sharing", ["same object", "shared embeddings"])
def test_a_teacher_that_is_the_student_is_refused(build, sharing):
    model = make_bert(2, seed=2)
    teacher = model if sharing == "same object" else make_bert(2, seed=3)
    if teacher is not model:
        teacher.bert.embeddings = model.bert.embeddings
    with pytest.raises(ValueError, match=r"share parameters.*copy\.deepcopy"):
        build(model=model, teacher=teacher)


# ---- no teacher: the baseline in the same loop ----


def test_without_a_teacher_it_is_fine_tuning(build):
    trainer = build(teacher=None)
    assert str(trainer.blend) == "1 * CrossEntropy()"
    trainer.train()
    with pytest.raises(ValueError, match=r"learns from a teacher, and teacher=None"):
        build(teacher=None, objective=KD() + CrossEntropy())


def test_a_term_that_reads_no_teacher_does_not_run_it(build):
    teacher = make_bert(3, seed=1)
    calls = []
    teacher.register_forward_hook(lambda *a: calls.append(1))
    build(teacher=teacher, objective=1.0 * CrossEntropy(), eval_dataset=None).train()
    assert not calls


# ---- label spaces ----


def permuted(model, order):
    """The same classifier with its classes in another order."""
    other = copy.deepcopy(model)
    index = torch.tensor(order)
    with torch.no_grad():
        other.classifier.weight.copy_(model.classifier.weight[index])
        other.classifier.bias.copy_(model.classifier.bias[index])
    names = [model.config.id2label[i] for i in order]
    other.config.id2label = dict(enumerate(names))
    other.config.label2id = {name: i for i, name in enumerate(names)}
    return other


def test_a2_a_permuted_teacher_teaches_bit_for_bit_the_same(build):
    names = {0: "anger", 1: "joy", 2: "fear"}
    teacher = make_bert(3, seed=1, labels=names)
    data = make_dataset(21).remove_columns("label").add_column("label", [i % 3 for i in range(21)])
    weights = []
    for other in (teacher, permuted(teacher, [2, 0, 1])):
        trainer = build(
            model=make_bert(2, seed=2, labels=names), teacher=other, train_dataset=data, eval_dataset=None
        )
        trainer.train()
        weights.append(flat(trainer.model))
    assert torch.equal(*weights)


def test_unnamed_classes_need_a_label_map(build):
    teacher = make_bert(3, seed=1, labels={0: "LABEL_0", 1: "LABEL_1"})
    with pytest.raises(LabelSpaceError, match=r"label_map=\{'LABEL_0': 'negative'"):
        build(teacher=teacher)
    trainer = build(teacher=teacher, label_map={"LABEL_0": "positive", "LABEL_1": "negative"})
    assert trainer._columns == [1, 0]


def test_other_number_of_classes(build):
    with pytest.raises(LabelSpaceError, match=r"3 outputs .* student 2 .*num_labels=3"):
        build(teacher=make_bert(3, labels={0: "a", 1: "b", 2: "c"}))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["good", "bad"], ["train_dataset", "row 0", "'good'", "class_encode_column"]),
        ([0, 5], ["train_dataset", "row 1", "5", "num_labels=6"]),
        ([0, -1], ["train_dataset", "row 1", "-1", "validation"]),
        ([[1.0, 0.0], [0.0, 1.0]], ["train_dataset", "row 0", "problem_type='multi_label_classification'"]),
    ],
    ids=["text", "out of range", "hidden", "one-hot"],
)
def test_bad_labels_are_refused_before_the_first_step(build, labels, words):
    data = Dataset.from_dict({"text": GOOD[:2], "label": labels})
    with pytest.raises(LabelSpaceError) as caught:
        build(train_dataset=data)
    assert all(word in str(caught.value) for word in words)


def test_data_without_labels_needs_an_objective_without(build):
    data = make_dataset(8).remove_columns("label")
    with pytest.raises(ValueError, match=r"no labelled row.*objective=KD"):
        build(train_dataset=data)
    build(train_dataset=data, objective=KD(temperature=4)).train()


def test_teacher_accuracy_is_logged_and_chance_is_a_warning(build, caplog):
    caplog.set_level(logging.WARNING)
    knowing = make_bert(3, seed=1)
    trainer = build(
        model=knowing, teacher=None, train_dataset=make_dataset(32), eval_dataset=make_dataset(32)
    )
    trainer.args.num_train_epochs = 20
    trainer.train()
    caplog.clear()
    good = build(teacher=knowing.eval(), eval_dataset=make_dataset(32).select(range(21, 32)))
    good.train()
    logged = next(entry for entry in good.state.log_history if "teacher_accuracy" in entry)
    assert logged["teacher_accuracy"] > 0.9
    assert logged["teacher_rows"] == 11
    assert not caplog.records
    build(teacher=permuted_head(knowing)).train()
    assert "nothing to teach" in caplog.text


def permuted_head(model):
    """Right names over the wrong columns: what a swapped label order looks like."""
    wrong = permuted(model, [1, 0])
    wrong.config.id2label, wrong.config.label2id = model.config.id2label, model.config.label2id
    return wrong


# ---- objectives ----


def test_a_loss_of_ones_own(build):
    @register("margin_gap")
    class MarginGap(Objective):
        """The distance between the two margins."""

        def forward(self, student, teacher, labels):
            def margin(logits):
                top = logits.topk(2).values
                return top[:, 0] - top[:, 1]

            return (margin(student.logits) - margin(teacher.logits)).abs().mean()

    trainer = build(objective=0.5 * CrossEntropy() + 2 * MarginGap())
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["loss_margin_gap"] > 0 for entry in logs)
    assert str(trainer.blend) == "0.5 * CrossEntropy() + 2 * MarginGap()"


# ---- evaluation ----


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 17])
def test_eval_loss_is_the_mean_over_rows(build, rows):
    data = make_dataset(rows)
    trainer = build(eval_dataset=data)
    batch = make_tokenizer()(data["text"][:], padding=True, return_tensors="pt")
    logits = trainer.model(**batch).logits
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(data["label"][:])).item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)


def test_evaluation_needs_no_teacher(build):
    trainer = build()
    trainer.teacher.trace = None
    assert trainer.evaluate()["eval_loss"] > 0


def test_raw_text_can_be_evaluated_and_predicted_later(build):
    trainer = build(eval_dataset=None)
    assert trainer.evaluate(make_dataset(5))["eval_loss"] > 0
    assert trainer.predict(make_dataset(5)).predictions.shape == (5, 2)


# ---- stops instead of nonsense ----


def test_a_teacher_that_says_nan_stops_the_run(build):
    class Broken(ModelTeacher):
        def trace(self, batch):
            trace = super().trace(batch)
            trace.logits[1] = float("nan")
            return trace

    trainer = build(teacher=Broken(make_bert(3, seed=1)), eval_dataset=None)
    before = flat(trainer.model).clone()
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    message = str(caught.value)
    assert "Step 1" in message
    assert "teacher's logits on rows 1 '" in message
    assert "kd" in message
    assert torch.equal(flat(trainer.model), before)


def test_c20_a_gradient_that_is_no_number_stops_the_run(build, arguments):
    trainer = build(args=arguments(max_grad_norm=1.0))
    before = flat(trainer.model).clone()
    trainer.model.classifier.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(NonFiniteError, match=r"Step 1 .*gradient of classifier.weight"):
        trainer.train()
    assert torch.equal(flat(trainer.model), before)


def test_c22_weights_that_are_no_numbers_stop_the_evaluation(build):
    trainer = build()
    with torch.no_grad():
        trainer.model.classifier.bias[0] = float("nan")
    with pytest.raises(
        NonFiniteError, match=r"eval_loss is not finite on rows \[0, 1, 2, 3, 4\] \(17 of 17\)"
    ):
        trainer.evaluate()


# ---- arguments ----


def test_own_arguments(build, tmp_path):
    args = DistillationArguments(
        str(tmp_path / "run"), report_to="none", max_length=6, length_grouping=False, teacher_check_rows=0
    )
    trainer = build(args=args)
    assert max(len(ids) for ids in trainer.train_dataset["input_ids"]) == 6
    assert type(trainer._get_train_sampler()).__name__ == "RandomSampler"
    trainer.train()
    assert not any("teacher_accuracy" in entry for entry in trainer.state.log_history)


def test_several_gpus_in_one_process_are_refused(build, arguments):
    args = arguments()
    args._n_gpu = 2
    with pytest.raises(ValueError, match="accelerate launch"):
        build(args=args)


def test_raw_text_without_a_tokenizer_is_refused(build):
    with pytest.raises(ValueError, match=r"processing_class=AutoTokenizer"):
        build(processing_class=None)


def test_plain_training_arguments_are_enough(build, tmp_path):
    build(args=TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, num_train_epochs=1)).train()
