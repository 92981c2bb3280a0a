"""Teachers made of several models, measured like one."""

import numpy as np
import pytest
import torch

from hfdistill import (
    CachedTeacher,
    Ensemble,
    FoldTeacher,
    ModelTeacher,
    Teacher,
    TextTeacher,
    Trace,
    few_shot,
    measure,
)
from hfdistill.evaluation.measure import Contender
from hfdistill.evaluation.speed import SpeedPlan
from hfdistill.teachers import TeacherAsModel
from tests.conftest import make_bert, make_byte_tokenizer, make_dataset, make_roberta, make_tokenizer
from tests.teachers.cache.cached import recorded

QUICK = SpeedPlan(latency_rows=2, batch_size=4, throughput_rows=8, repeats=1)


def measured(teacher, **options):
    given = {"tokenizer": make_tokenizer(), "speed": None, **options}
    return measure(make_bert(2, seed=2), make_dataset(24), teacher=teacher, **given)


def test_an_ensemble_is_measured_by_its_mean_with_the_size_of_all_its_members():
    members = [make_bert(4, seed=1), make_bert(3, seed=5)]
    report = measured(Ensemble(members), speed=QUICK)
    texts, labels = list(make_dataset(24)["text"]), torch.tensor(make_dataset(24)["label"])
    batch = make_tokenizer()(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        mean = sum(member(**batch).logits.softmax(-1) for member in members) / 2
        student = make_bert(2, seed=2)(**batch).logits
    assert report.teacher.name == "Ensemble"
    assert report.teacher.metrics["accuracy"] == (mean.argmax(-1) == labels).double().mean()
    assert report.student.fidelity["agreement"] == (student.argmax(-1) == mean.argmax(-1)).double().mean()
    assert report.teacher.parameters == sum(member.num_parameters() for member in members)
    assert report.teacher.embedding_parameters == sum(
        member.get_input_embeddings().weight.numel() for member in members
    )
    assert report.teacher.speed.latency_ms_p50 > 0
    assert "Ensemble" in report.table()


def test_members_and_their_class_order_are_the_ensembles_own():
    other = make_bert(3, seed=5, labels={0: "positive", 1: "negative"})
    mixed = measured(Ensemble([make_bert(4, seed=1), other])).teacher.metrics
    turned = measured(Ensemble([other, make_bert(4, seed=1)])).teacher.metrics
    assert mixed["accuracy"] == turned["accuracy"]
    assert mixed["nll"] == pytest.approx(turned["nll"], rel=1e-5)


def test_a_teacher_of_one_model_is_that_model():
    assert measured(ModelTeacher(make_bert(4, seed=1))).teacher == measured(make_bert(4, seed=1)).teacher


class Turned(Teacher):
    """Answers by code of its own, and has a model."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def trace(self, batch):
        return Trace(self.model(**batch).logits.flip(-1))


class TurnedModel(ModelTeacher):
    def trace(self, batch, *, taps=frozenset()):
        return Trace(super().trace(batch).logits.flip(-1))


@pytest.mark.parametrize("kind", [Turned, TurnedModel])
def test_a_teacher_that_answers_by_code_of_its_own_is_measured_by_its_answers(kind):
    model = make_bert(4, seed=1, hidden_dropout_prob=0.5).train()
    found, plain = measured(kind(model)).teacher, measured(make_bert(4, seed=1)).teacher
    assert found.metrics["accuracy"] == pytest.approx(1 - plain.metrics["accuracy"])
    assert plain.metrics["accuracy"] != 0.5
    assert found.parameters == plain.parameters


def test_the_teachers_of_folds_answer_by_their_mean():
    models = [make_bert(4, seed=1), make_bert(3, seed=5)]
    report = measured(Contender(FoldTeacher(models, {}), name="folds"))
    assert report.teacher.name == "folds"
    assert report.teacher.parameters == sum(model.num_parameters() for model in models)


def test_an_ensemble_with_one_other_tokenizer_reads_by_it():
    tokenizer = make_byte_tokenizer()
    members = [ModelTeacher(make_roberta(seed=i), tokenizer=tokenizer) for i in (1, 2)]
    own = measured(Contender(make_roberta(seed=1), tokenizer=tokenizer)).teacher.metrics
    alone = measured(Ensemble(members, weights=[1, 0])).teacher.metrics
    assert alone["nll"] == pytest.approx(own["nll"], rel=1e-5)


class Nameless(Teacher):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))

    def trace(self, batch):
        return Trace(self.weight.expand(len(batch["input_ids"]), 2))


def test_teachers_that_cannot_be_measured_are_refused(tmp_path):
    recorded(tmp_path)
    with pytest.raises(ValueError, match=r"CachedTeacher answers from disk.*Measure the models"):
        measured(CachedTeacher(tmp_path))
    with pytest.raises(ValueError, match="Ensemble answers from disk"):
        measured(Ensemble([CachedTeacher(tmp_path), make_bert(3, seed=1)]))
    with pytest.raises(ValueError, match="Nameless does not name its classes"):
        measured(Nameless())
    both = [make_bert(3), ModelTeacher(make_roberta(), tokenizer=make_byte_tokenizer())]
    with pytest.raises(ValueError, match=r"parts of this Ensemble read different tokens.*one by one"):
        TeacherAsModel(Ensemble(both))


class Told(ModelTeacher):
    def bind_student(self, student):
        self.told = [student]


@pytest.mark.parametrize("kind", [Ensemble, lambda members: FoldTeacher(members, {})])
def test_each_member_is_told_of_the_student(kind):
    members, student = [Told(make_bert(2, seed=i)) for i in (1, 2)], make_bert(2)
    kind([members[0], Ensemble([members[1]])]).bind_student(student)
    assert all(member.told == [student] for member in members)


def test_teachers_of_texts_are_measured_together_without_a_size_or_a_speed(tmp_path):
    """The mean of both, in another order of classes; what was looked up has neither weights nor tokens."""
    data = make_dataset(8)
    places = {text: i for i, text in enumerate(data["text"][:])}
    one = [[0.6, 0.4] if i % 3 else [0.2, 0.8] for i in range(8)]
    other = [[0.1, 0.9] if i > 4 else [0.7, 0.3] for i in range(8)]
    names = ["negative", "positive"]
    teachers = [
        TextTeacher(lambda texts: [one[places[t]] for t in texts], names, cache=tmp_path, name="a"),
        TextTeacher(
            lambda texts: [other[places[t]][::-1] for t in texts], names[::-1], cache=tmp_path, name="b"
        ),
    ]
    report = measure(Ensemble(teachers), data, teacher=teachers[0])
    mean = (torch.tensor(one) + torch.tensor(other)) / 2
    labels = torch.tensor(data["label"])
    assert report.student.metrics["accuracy"] == (mean.argmax(-1) == labels).double().mean()
    assert (
        report.student.fidelity["agreement"]
        == (mean.argmax(-1) == torch.tensor(one).argmax(-1)).double().mean()
    )
    assert report.student.speed is None
    assert report.data.tokens_p50 == int(np.median([len(text.split()) for text in places]))
    table = report.table()
    assert "teacher: a\n" in table  # no dtype
    assert "parameters" not in table


def test_the_embeddings_of_a_model_that_is_asked_about_texts_count(tmp_path):
    encoder = make_bert(2).bert
    teacher = few_shot(encoder, ["negative", "positive"], tokenizer=make_tokenizer(), cache=tmp_path)
    found = measured(teacher).teacher
    assert found.embedding_parameters == encoder.get_input_embeddings().weight.numel()
    assert found.parameters == encoder.num_parameters()
