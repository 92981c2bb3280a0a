"""The frozen teacher: in eval mode at every forward, without a graph, and told apart by its fingerprint."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from hfdistill import Ensemble, ModelTeacher, Tap, Teacher, Trace
from hfdistill.teachers import as_teacher, assign_column_prefixes
from hfdistill.teachers.base import compile_models
from tests.conftest import make_bert, make_byte_tokenizer, make_roberta, make_tokenizer


class Parrot(Teacher):
    """The smallest teacher a user can write."""

    def trace(self, batch):
        return Trace(logits=torch.zeros(len(batch["input_ids"]), 2))


class Classifier(nn.Module):
    """A classifier that is no Transformers model."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(40, 2)

    def forward(self, input_ids):
        return {"logits": self.table(input_ids).mean(1)}


def batch():
    ids = torch.tensor([[2, 5, 3, 0], [2, 6, 7, 3]])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "token_type_ids": torch.zeros_like(ids)}


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_teacher_is_in_eval_mode_at_each_forward_whatever_was_done_to_it():
    model = make_bert(hidden_dropout_prob=0.5)
    teacher, modes = ModelTeacher(model), []
    model.register_forward_pre_hook(lambda module, _: modes.append([m.training for m in module.modules()]))
    first = teacher.trace(batch()).logits
    for disturb in (
        teacher.train,
        model.train,
        lambda: model.bert.encoder.train(),
        nn.ModuleList([teacher]).train,
    ):
        disturb()
        assert torch.equal(teacher.trace(batch()).logits, first)
    assert len(modes) == 5
    assert not any(training for seen in modes for training in seen)


def test_the_teacher_gives_logits_without_a_graph_and_keeps_its_weights():
    model = make_bert()
    before, teacher = state(model), ModelTeacher(model)
    trace = teacher.trace(batch())
    assert not trace.logits.requires_grad
    assert torch.equal(trace.logits, model(**batch()).logits)
    assert torch.equal(trace.attention_mask, batch()["attention_mask"])
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_teacher_that_was_thawed_still_gives_no_graph():
    model = make_bert()
    teacher = ModelTeacher(model)
    model.requires_grad_(True)
    assert not teacher.trace(batch()).logits.requires_grad


def test_a_compiled_teacher_answers_alike_and_its_model_stays_as_it_is():
    model, graphs, batch = make_bert(1), [], {"input_ids": torch.tensor([[2, 5, 3]])}
    teacher = ModelTeacher(model)
    plain, weights, print_before = (
        teacher.trace(batch).logits,
        list(model.state_dict()),
        teacher.fingerprint(),
    )

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    teacher.compile_model(backend=backend)
    torch.testing.assert_close(teacher.trace(batch).logits, plain)
    compiled = len(graphs)
    assert compiled > 0
    readings = teacher.trace(batch, taps={Tap("hidden", 1)}).readings  # which compiled code could not give
    assert readings[Tap("hidden", 1)].shape[:2] == (1, 3)
    assert len(graphs) == compiled
    assert (list(model.state_dict()), teacher.fingerprint()) == (weights, print_before)
    assert len(list(teacher.parameters())) == len(list(model.parameters()))


@pytest.mark.parametrize("compiled", [False, True])
def test_every_model_of_a_teacher_is_compiled_as_the_student_is(compiled, monkeypatch):
    settings = []
    monkeypatch.setattr(ModelTeacher, "compile_model", lambda self, **given: settings.append(given))
    args = SimpleNamespace(torch_compile=compiled, torch_compile_backend="eager", torch_compile_mode=None)
    compile_models(Ensemble([make_bert(), make_bert()]), args)
    assert settings == [{"backend": "eager", "mode": None}] * 2 * compiled


def test_a_student_in_the_same_graph_leaves_the_teacher_without_a_gradient():
    teacher, student = ModelTeacher(make_bert(seed=1)), make_bert(seed=2)
    (student(**batch()).logits - teacher.trace(batch()).logits).square().sum().backward()
    assert student.classifier.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.parameters())


def test_a_teacher_that_takes_no_token_types_is_given_none():
    settings = {"vocab_size": 40, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    model = DistilBertForSequenceClassification(DistilBertConfig(**settings))
    teacher = ModelTeacher(model)
    assert "token_type_ids" not in teacher.inputs()
    expected = model(input_ids=batch()["input_ids"], attention_mask=batch()["attention_mask"]).logits
    assert torch.equal(teacher.trace(batch()).logits, expected)


def test_any_module_with_logits_teaches():
    model = Classifier()
    teacher = as_teacher(model)
    assert teacher.config is None
    assert teacher.inputs() == {"input_ids"}
    assert torch.equal(teacher.trace(batch()).logits, model(batch()["input_ids"])["logits"])


# Tokens


def test_a_tokenizer_of_its_own_means_columns_of_its_own():
    model = make_roberta()
    teacher = ModelTeacher(model, tokenizer=make_byte_tokenizer())
    own = dict(make_byte_tokenizer()(["good", "a dull film"], padding=True, return_tensors="pt"))
    both = {**batch(), **{f"teacher_{name}": value for name, value in own.items()}}
    assert teacher.select_inputs(both).keys() == own.keys()
    trace = teacher.trace(both)
    assert torch.equal(trace.logits, model(**own).logits)
    assert torch.equal(trace.attention_mask, own["attention_mask"])
    assert {"teacher_input_ids", "teacher_attention_mask"} <= teacher.inputs()
    assert not teacher.same_tokens
    with pytest.raises(
        ValueError, match="reads teacher_input_ids, but the batch has input_ids, attention_mask"
    ):
        teacher.trace(batch())


def test_without_a_word_on_the_students_tokenizer_what_was_said_holds(tmp_path):
    make_bert().save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    found, said = as_teacher(tmp_path), ModelTeacher(make_bert(), tokenizer=make_tokenizer())
    assert assign_column_prefixes(found, None) == {}
    assert assign_column_prefixes(said, None) == {"teacher_": [said]}
    for teacher in (found, said):
        assert assign_column_prefixes(teacher, make_byte_tokenizer()) == {"teacher_": [teacher]}
        assert assign_column_prefixes(teacher, make_tokenizer()) == {}
        assert (teacher.prefix, teacher.same_tokens) == ("", True)
        assert torch.equal(teacher.trace(batch()).logits, make_bert()(**batch()).logits)


# Fingerprints


def test_equal_teachers_have_one_fingerprint_wherever_they_come_from(tmp_path):
    model = make_bert()
    fingerprint = ModelTeacher(model).fingerprint()
    assert len(fingerprint) == 64
    assert ModelTeacher(make_bert()).fingerprint() == fingerprint
    for name in ("here", "there"):
        model.save_pretrained(tmp_path / name)
    here, there = (as_teacher(tmp_path / name).fingerprint() for name in ("here", "there"))
    assert here == there == fingerprint == ModelTeacher(model).fingerprint()
    model.config.architectures = ["BertModel"]  # as of an encoder that was fine-tuned and is not saved yet
    assert ModelTeacher(model).fingerprint() == fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_bit_of_one_weight_changes_the_fingerprint(dtype):
    model = make_bert().to(dtype)
    seen = {ModelTeacher(model).fingerprint()}
    for name in (
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.1.output.dense.bias",
        "classifier.weight",
    ):
        weight = model.state_dict()[name].view(-1).view(torch.uint8)
        weight[0] ^= 1
        seen.add(ModelTeacher(model).fingerprint())
    assert len(seen) == 4


def test_a_change_of_config_type_or_shape_changes_the_fingerprint():
    changes = [
        make_bert(),
        make_bert(hidden_act="relu"),
        make_bert(labels={0: "positive", 1: "negative"}),
        make_bert(layer_norm_eps=1e-6),
        make_bert().to(torch.bfloat16),
        make_bert(seed=3),
    ]
    flat, square = Classifier(), Classifier()
    flat.table, square.table = (
        nn.Embedding(1, 4, _weight=torch.ones(1, 4)),
        nn.Embedding(2, 2, _weight=torch.ones(2, 2)),
    )
    assert len({ModelTeacher(model).fingerprint() for model in [*changes, flat, square]}) == 8


def test_the_library_version_does_not_change_the_fingerprint(monkeypatch):
    model = make_bert()
    before = ModelTeacher(model).fingerprint()
    monkeypatch.setattr("transformers.configuration_utils.__version__", "99.0.0")
    assert model.config.to_dict()["transformers_version"] == "99.0.0"
    assert ModelTeacher(model).fingerprint() == before


# Sources


def test_a_teacher_comes_from_a_path_a_model_or_itself(tmp_path):
    model = make_bert()
    model.save_pretrained(tmp_path / "teacher")
    expected = model(**batch()).logits
    for source in (tmp_path / "teacher", str(tmp_path / "teacher"), model):
        teacher = as_teacher(source)
        assert isinstance(teacher, ModelTeacher)
        torch.testing.assert_close(teacher.trace(batch()).logits, expected)
        assert teacher.config.id2label == model.config.id2label
    own = Parrot()
    assert as_teacher(own) is own


@pytest.mark.parametrize("source", [None, 3, ["a"], make_bert().config, make_bert])
def test_anything_else_is_no_teacher(source):
    with pytest.raises(TypeError, match=rf"found {type(source).__name__}\. Type teacher="):
        as_teacher(source)


def test_a_teacher_of_ones_own_needs_trace_alone():
    teacher = Parrot()
    assert teacher.trace(batch()).logits.shape == (2, 2)
    assert (teacher.config, teacher.inputs(), teacher.fingerprint()) == (None, frozenset(), "Parrot")


def test_a_teacher_of_ones_own_is_put_into_evaluation_mode_unless_it_learns():
    class Own(Teacher):
        def __init__(self):
            super().__init__()
            self.network = make_bert(1).train()

    class Learner(Own):
        learns = True

    assert not any(part.training for part in as_teacher(Own()).modules())
    assert as_teacher(Learner()).network.training


def test_a_teacher_without_trace_says_what_it_lacks():
    with pytest.raises(NotImplementedError, match=r"Teacher needs a `trace\(batch\)` that returns a Trace"):
        Teacher().trace(batch())


def test_a_teacher_with_methods_of_earlier_names_is_asked_by_these():
    class Earlier(Teacher):
        def start(self, student):
            self.student = student

        def reads(self, batch):
            return {"input_ids": batch["mine"]}

        def for_taps(self):
            return None

    teacher, student = Earlier(), make_bert()
    teacher.bind_student(student)
    assert teacher.student is student
    assert teacher.select_inputs({"mine": 1}) == {"input_ids": 1}
    assert teacher.inspectable() is None
    plain = ModelTeacher(student)
    assert plain.reads({"input_ids": 2}) == {"input_ids": 2}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        plain.nothing  # noqa: B018
