"""Which students are tried of a teacher, and which way to run one is the first within the limits."""

import time
from types import SimpleNamespace

import pytest
from transformers import AlbertConfig, AlbertForSequenceClassification

from hfdistill.recipe.goal import candidates as module
from hfdistill.recipe.goal import sizing
from hfdistill.recipe.goal.candidates import candidates
from hfdistill.recipe.goal.sizing import WAYS, Scale, Size, Sizes
from hfdistill.recipe.goal.target import Goal
from tests.conftest import make_bert, make_dataset, make_tokenizer


def test_depths_neurons_width_and_students_without_attention():
    listed = candidates(make_bert(4))
    assert {candidate.name: candidate.plan.arguments for candidate in listed} == {
        "static": {"width": 16},
        "CNN": {},
        "BiLSTM": {},
        "1 layer": {"layers": 1},
        "2 layers, half the width": {"layers": 2, "heads": 2},
        "2 layers, half the neurons": {"layers": 2, "ffn": 16},
        "2 layers": {"layers": 2},
        "3 layers": {"layers": 3},
        "4 layers, half the width": {"layers": 4, "heads": 2},
        "4 layers, half the neurons": {"layers": 4, "ffn": 16},
        "4 layers": {"layers": 4},
    }
    assert [c.name for c in listed if not c.fits] == ["static", "CNN", "BiLSTM", "4 layers"]
    assert len({candidate.slug for candidate in listed}) == len(listed)
    assert [c.plan.arguments["layers"] for c in candidates(make_bert(12), ["layers"])] == [2, 4, 6, 8, 10, 12]
    assert [c.name for c in candidates(make_bert(3), ["cnn", "width"])] == [
        "CNN",
        "1 layer, half the width",
        "3 layers, half the width",
    ]


def test_an_architecture_that_cannot_be_fitted_or_narrowed_is_cut_alone():
    sizes = {"hidden_size": 16, "embedding_size": 8, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = AlbertForSequenceClassification(AlbertConfig(vocab_size=36, intermediate_size=32, **sizes))
    listed = candidates(model, ["layers", "static"])
    assert [c.name for c in listed] == ["static", "1 layer", "2 layers", "3 layers"]
    assert not any(c.fits for c in listed)


SIZES = Sizes(tuple(Size(form, pruned, ms, mb) for (form, pruned), ms, mb in [
    (("pytorch", False), 8.0, 40.0), (("onnx", False), 4.0, 40.0), (("int8", False), 2.0, 10.0)
]))  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "form"),
    [
        ({"max_ms": 9}, "pytorch"),
        ({"max_ms": 5}, "onnx"),
        ({"max_ms": 5, "max_mb": 20}, "int8"),
        ({"max_ms": 1}, None),
    ],
)
def test_the_first_way_within_the_limits(limits, form):
    best = SIZES.best(Goal(**limits))
    assert (best.form if best else None) == form
    if form == "int8":
        assert SIZES.best(Goal(**limits, int8=False)) is None


@pytest.mark.parametrize(
    ("limits", "plain", "tried"),
    [
        ({"max_mb": 9}, (8.0, 40.0), [("int8", True)]),
        ({"max_mb": 4}, (8.0, 40.0), []),
        ({"max_ms": 5}, (8.0, 40.0), [("onnx", False), ("int8", False)]),
        ({"max_mb": 20}, (8.0, 40.0), [("int8", False), ("pytorch", True), ("int8", True)]),
        ({"max_ms": 5, "max_mb": 20}, (8.0, 40.0), [("int8", False), ("onnx", True), ("int8", True)]),
    ],
)
def test_only_ways_that_could_help_are_measured(limits, plain, tried):
    """A smaller file does not answer faster, and ONNX is as large: neither is built for nothing."""
    scale = Scale(Goal(**limits), make_dataset(), None, max_length=None)
    cut, made = candidates(make_bert(2), ["layers"])[0], candidates(make_bert(2), ["cnn"])[0]
    table = {("pytorch", False): Size("pytorch", False, *plain)}
    if ("int8", True) in tried:
        table["int8", False] = Size("int8", False, 1.0, 25.0)
    worth = [way for way in WAYS[1:] if scale._is_worth_it(way, table, cut)]
    assert worth == tried
    assert [way for way in WAYS[1:] if scale._is_worth_it(way, table, made)] == [w for w in tried if not w[1]]
    assert [way for way in WAYS if scale._is_worth_it(way, {}, cut)] == [("pytorch", False)]


def test_8_bits_of_half_the_tokens_may_fit_where_8_bits_alone_cannot(monkeypatch):
    """12 MB are too few for a quarter of 70, and enough for a quarter of 46."""
    sizes = {("pytorch", False): 70.0, ("int8", True): 11.6}
    monkeypatch.setattr(
        sizing._Bench, "size", lambda _, form, pruned, table: Size(form, pruned, 1.0, sizes[form, pruned])
    )
    scale = Scale(Goal(max_mb=12), make_dataset(), None, max_length=None)
    cut = candidates(make_bert(2), ["layers"])[0]
    assert scale._measured(cut, Sizes(())).best(scale.goal) == Size("int8", True, 1.0, 11.6)
    table = {WAYS[0]: Size("pytorch", False, 1.0, 70.0), ("pytorch", True): Size("pytorch", True, 1.0, 60.0)}
    assert not scale._is_worth_it(("int8", True), table, cut)  # a quarter of 60 is known to be too large


def test_an_architecture_without_layers_leaves_the_students_without_attention(monkeypatch):
    def unknown(model):
        raise ValueError("no list of layers")

    monkeypatch.setattr(module.ModelSpec, "of", unknown)
    assert [one.name for one in candidates(make_bert(2), ["layers", "static"])] == ["static"]
    with pytest.raises(ValueError, match="no list of layers"):
        candidates(make_bert(2), ["layers"])


def test_half_the_tokens_take_the_time_of_all(monkeypatch):
    monkeypatch.setattr(sizing, "in_form", lambda network, form, folder: (network, 5.12345))
    monkeypatch.setattr(sizing, "_milliseconds", lambda loaded: pytest.fail("it is timed again"))
    bench = sizing._Bench(None, None, None)
    bench.networks[True] = "made before"
    size = bench.size("onnx", True, {("onnx", False): Size("onnx", False, 3.5, 9.0)})
    assert size == Size("onnx", True, 3.5, 5.123)


def test_a_candidate_that_runs_in_no_form_says_why(monkeypatch):
    def broken(*_):
        raise TypeError("no such\n  layer")

    monkeypatch.setattr(sizing._Bench, "size", broken)
    scale = SimpleNamespace(goal=Goal(max_ms=5), _is_worth_it=lambda *_: True)
    with pytest.raises(ValueError, match=r"^no such layer$"):
        Scale._measured(scale, None, Sizes(()))


@pytest.mark.slow
def test_a_model_that_is_too_slow_by_the_clock_runs_as_onnx(tmp_path):
    """Nothing is replaced here: the hook makes PyTorch slow, and the exported graph is without it."""
    model, tokenizer = make_bert(1), make_tokenizer()
    model.register_forward_pre_hook(lambda *_: time.sleep(0.03))
    scale = Scale(Goal(max_ms=20), make_dataset(), lambda *_: (model, tokenizer), max_length=16)
    cut = candidates(make_bert(2), ["layers"])[0]
    plain, onnx = scale.sizes(cut, tmp_path).measured
    assert (plain.form, onnx.form) == ("pytorch", "onnx")
    assert onnx.ms < 20 < 30 <= plain.ms
    assert scale.sizes(cut, tmp_path).best(Goal(max_ms=1000)) == plain
    assert scale.sizes(cut, tmp_path).best(scale.goal) == onnx
