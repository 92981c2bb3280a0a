"""Students without attention: real models, whose answers depend on the text alone."""

import copy

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)

from hfdistill import KD, DistillationTrainer, HiddenMSE, measure
from hfdistill.evaluation.measure import Contender
from hfdistill.evaluation.speed import SpeedPlan
from hfdistill.students.attention_free import joined, texts_of
from hfdistill.students.bilstm import BiLSTMForSequenceClassification, bilstm_from_teacher
from hfdistill.students.cnn import CNNForSequenceClassification, cnn_from_teacher
from hfdistill.students.configs import BiLSTMConfig, CNNConfig, StaticConfig
from hfdistill.students.static import StaticForSequenceClassification, static_from_teacher
from hfdistill.students.vocabulary import prune_vocabulary
from hfdistill.students.weight_copy import load_weights
from tests.conftest import make_bert, make_dataset, make_sentences, make_tokenizer
from tests.network.test_architectures import tiny
from tests.students.conftest import wordpiece

MAKERS = {
    "static": lambda teacher, tokenizer, **options: static_from_teacher(
        teacher, tokenizer, width=12, **options
    ),
    "bilstm": lambda teacher, tokenizer, **options: bilstm_from_teacher(
        teacher, tokenizer, hidden_size=20, **options
    ),
    "cnn": lambda teacher, tokenizer, **options: cnn_from_teacher(teacher, tokenizer, filters=8, **options),
}
KINDS = {
    "static": (StaticConfig, StaticForSequenceClassification),
    "bilstm": (BiLSTMConfig, BiLSTMForSequenceClassification),
    "cnn": (CNNConfig, CNNForSequenceClassification),
}
PLAN = SpeedPlan(latency_rows=3, batch_size=4, throughput_rows=8, repeats=2)
TEXTS = [text for text, _ in make_sentences(12)]


@pytest.fixture(params=sorted(MAKERS))
def kind(request):
    return request.param


def made(kind, *, labels=None, **options):
    torch.manual_seed(0)
    return MAKERS[kind](make_bert(2, seed=1, labels=labels), make_tokenizer(), **options)


def logits(model, *texts, side="right", **extra):
    tokenizer = make_tokenizer()
    tokenizer.padding_side = side
    rows = tokenizer(*texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], **extra).logits


def arguments(folder, **options):
    settings = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "seed": 3}
    settings |= {"per_device_train_batch_size": 8, "learning_rate": 1e-2, "dataloader_pin_memory": False}
    return TrainingArguments(str(folder), **{**settings, **options})


@pytest.mark.parametrize("pairs", [False, True])
def test_neither_padding_nor_the_rows_beside_it_change_an_answer(kind, pairs):
    student = made(kind, pairs=pairs)
    texts = (TEXTS, TEXTS[::-1]) if pairs else (TEXTS,)
    together = logits(student, *texts)
    alone = torch.cat([logits(student, *[[text] for text in row]) for row in zip(*texts, strict=True)])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)
    torch.testing.assert_close(together, logits(student, *texts, side="left"), rtol=0, atol=2e-6)
    order = torch.randperm(len(TEXTS), generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = logits(student, *[[column[i] for i in order] for column in texts])
    torch.testing.assert_close(together[order], shuffled, rtol=0, atol=2e-6)
    assert together.std(0).min() > 1e-3


def test_all_but_one_read_the_order_of_words():
    forth, back = ["the good film was dull"], ["dull was film good the"]
    for kind, same in (("static", True), ("bilstm", False), ("cnn", False)):
        student = made(kind)
        assert torch.allclose(logits(student, forth), logits(student, back), atol=1e-6) == same


def test_saved_and_loaded(kind, tmp_path):
    student = made(kind, pairs=True, labels={0: "no", 1: "maybe", 2: "yes"})
    student.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(loaded) is KINDS[kind][1]
    assert type(AutoConfig.from_pretrained(tmp_path)) is KINDS[kind][0]
    assert torch.equal(logits(student, TEXTS, TEXTS[::-1]), logits(loaded, TEXTS, TEXTS[::-1]))
    assert not loaded.training
    answer = pipeline("text-classification", model=str(tmp_path), device="cpu")
    assert answer({"text": TEXTS[0], "text_pair": TEXTS[1]})["label"] in ("no", "maybe", "yes")
    report = measure(str(tmp_path), make_pairs(), speed=PLAN)
    assert report.student.parameters == student.num_parameters()
    assert report.student.embedding_parameters == student.get_input_embeddings().weight.numel()


def make_pairs():
    pairs = [(TEXTS[i], TEXTS[-i], i % 3) for i in range(12)]
    return Dataset.from_dict(
        dict(zip(("text", "text_pair", "label"), map(list, zip(*pairs, strict=True)), strict=True))
    )


def test_learns_from_its_teacher(kind, tmp_path):
    labels = {0: "a", 1: "b", 2: "c"}
    teacher, student = make_bert(2, seed=1, labels=labels), made(kind, labels=labels)
    teacher.classifier.weight.data.mul_(8)
    data = make_dataset(32).remove_columns("label").add_column("label", [0, 1, 2, 0] * 8)
    before = measure(student, data, teacher=teacher, tokenizer=make_tokenizer(), speed=None)
    trainer = DistillationTrainer(
        student,
        arguments(tmp_path, num_train_epochs=12),
        teacher=teacher,
        train_dataset=data,
        objective=KD(temperature=2),
        processing_class=make_tokenizer(),
    )
    trainer.train()
    after = measure(student, data, teacher=teacher, tokenizer=make_tokenizer(), speed=None)
    assert after.student.fidelity["agreement"] > max(0.9, before.student.fidelity["agreement"])


def test_resumed_as_straight_through(kind, tmp_path):
    def run(folder, **options):
        trainer = DistillationTrainer(
            made(kind),
            arguments(folder, num_train_epochs=2, save_strategy="epoch", save_total_limit=None),
            teacher=make_bert(2, seed=1),
            train_dataset=make_dataset(32),
            processing_class=make_tokenizer(),
        )
        trainer.train(**options)
        return {name: weight.clone() for name, weight in trainer.model.state_dict().items()}

    straight = run(tmp_path / "a")
    resumed = run(tmp_path / "b", resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    assert all(torch.equal(weight, resumed[name]) for name, weight in straight.items())


def test_plain_trainer_and_its_losses(kind, tmp_path):
    student = made(kind)
    rows = make_tokenizer()(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    labels = torch.arange(len(TEXTS)) % 2
    output = student(**rows, labels=labels)
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))
    loss, raw = student(**rows, labels=labels, return_dict=False)
    assert torch.equal(loss, output.loss)
    assert torch.equal(raw, output.logits)
    real = copy.deepcopy(student)
    real.config.problem_type = "multi_label_classification"
    several = torch.ones(len(TEXTS), 2)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, several)
    torch.testing.assert_close(real(**rows, labels=several).loss, expected)
    data = Dataset.from_dict(
        {**{name: value.tolist() for name, value in rows.items()}, "labels": labels.tolist()}
    )
    trainer = Trainer(student, arguments(tmp_path, num_train_epochs=1), train_dataset=data)
    assert torch.isfinite(torch.tensor(trainer.train().training_loss))


def test_every_parameter_learns_and_none_is_the_teachers(kind):
    teacher = make_bert(2, seed=1).requires_grad_(False)
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    student = MAKERS[kind](teacher, make_tokenizer())
    rows = make_tokenizer()(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    student(**rows, labels=torch.arange(len(TEXTS)) % 2).loss.backward()
    assert all(
        p.requires_grad and p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters()
    )
    student.get_input_embeddings().weight.data.zero_()
    assert all(torch.equal(before[name], weight) for name, weight in teacher.state_dict().items())
    assert student.config.id2label == teacher.config.id2label
    assert student.config.id2label is not teacher.config.id2label


def test_the_same_seed_gives_the_same_student(kind):
    first, second = made(kind).state_dict(), made(kind).state_dict()
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_in_other_types(kind, dtype):
    student = made(kind, pairs=True)
    exact = logits(student, TEXTS, TEXTS[::-1])
    other = logits(student.to(dtype), TEXTS, TEXTS[::-1])
    assert other.dtype == dtype
    torch.testing.assert_close(other.float(), exact, rtol=0.1, atol=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = logits(student.float().train(), TEXTS, TEXTS[::-1])
    assert torch.isfinite(mixed).all()


def pruned(kind):
    """A student, one with fewer words, and their tokenizers."""
    tokenizer = wordpiece()
    student = MAKERS[kind](make_bert(2, seed=1, vocab_size=len(tokenizer)), tokenizer)
    small, new = prune_vocabulary(student, tokenizer, make_dataset())
    assert len(new) < len(tokenizer)
    return student, tokenizer, small, new


def test_its_vocabulary_can_be_pruned(kind):
    student, tokenizer, small, new = pruned(kind)
    rows = (t(TEXTS, padding=True, return_tensors="pt") for t in (tokenizer, new))
    with torch.no_grad():
        whole, cut = (model(**row).logits for model, row in zip((student, small), rows, strict=True))
    assert torch.equal(whole, cut)
    assert small.config.sep_token_id == new.sep_token_id


def test_measured_beside_a_teacher_with_another_vocabulary(kind):
    student, tokenizer, small, new = pruned(kind)
    teacher = Contender(student, tokenizer=tokenizer, name="big")
    report = measure(Contender(small, tokenizer=new), make_dataset(), teacher=teacher, speed=PLAN)
    assert report.student.fidelity["agreement"] == 1


def test_checkpointing_of_activations_is_refused_before_the_first_step(kind, tmp_path):
    student = made(kind)
    with pytest.raises(
        ValueError, match=rf"^activation_checkpointing computes .* {type(student).__name__} has none that"
    ):
        DistillationTrainer(
            student,
            arguments(tmp_path, activation_checkpointing=True),
            teacher=make_bert(2, seed=1),
            train_dataset=make_dataset(8),
            processing_class=make_tokenizer(),
        )


def test_a_static_student_has_no_hidden_states(tmp_path):
    with pytest.raises(ValueError, match=r"HiddenMSE"):
        DistillationTrainer(
            made("static"),
            arguments(tmp_path),
            teacher=make_bert(2, seed=1),
            train_dataset=make_dataset(8),
            objective=HiddenMSE(layers={1: 2}),
            processing_class=make_tokenizer(),
        )


def test_texts_of_a_pair_end_at_the_first_separator():
    config = StaticConfig(pairs=True, sep_token_id=3)
    ids = torch.tensor([[2, 7, 3, 8, 9, 3, 0], [2, 7, 8, 3, 3, 9, 3], [2, 7, 3, 0, 0, 0, 0]])
    first, second = texts_of(ids, (ids != 0).long(), config)
    assert first.int().tolist() == [[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0]]
    assert second.int().tolist() == [[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0]]


def test_the_feature_of_a_pair():
    first, second = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 0.5]])
    assert joined([first, second]).tolist() == [[1, -2, 3, 0.5, 3, -1, 2, 2.5]]
    assert torch.equal(joined([first]), first)


def test_pairs_need_a_separator(kind):
    tokenizer = make_tokenizer()
    tokenizer.sep_token = None
    with pytest.raises(ValueError, match=r"neither a sep_token nor an eos_token"):
        MAKERS[kind](make_bert(1), tokenizer, pairs=True)


def test_a_teacher_that_labels_tokens_is_refused(kind):
    teacher = tiny("bert", auto=AutoModelForTokenClassification)
    with pytest.raises(ValueError, match=r"labels tokens.*shrink\(teacher, layers=3\)"):
        MAKERS[kind](teacher, make_tokenizer())


def test_weights_that_do_not_fit_are_named():
    model = make_bert(1)
    state = {**model.state_dict(), "odd": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"(?s)do not fit a BertForSequenceClassification built .*odd"):
        load_weights(model, state)
    load_weights(model, make_bert(1, seed=4).state_dict())
    assert torch.equal(model.classifier.weight, make_bert(1, seed=4).classifier.weight)
