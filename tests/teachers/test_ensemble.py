"""Several teachers as one: means of probabilities, weights by hand, classes by name, one member's inside."""

import math

import numpy as np
import pytest
import torch

from hfdistill import KD, Ensemble, LabelSpaceError, ModelTeacher, Tap, Teacher, Trace
from hfdistill.objectives import Setting
from tests.conftest import make_bert, make_byte_tokenizer, make_roberta, make_tokenizer


class Config:
    """As much of a config as names the classes."""

    def __init__(self, *names, problem_type=None):
        self.id2label, self.num_labels, self.problem_type = dict(enumerate(names)), len(names), problem_type


class Says(Teacher):
    """Always the same logits, in float64."""

    def __init__(self, *rows, config=None, wants_labels=False):
        super().__init__()
        self.logits, self.config = torch.tensor(rows, dtype=torch.float64), config
        self.wants_labels, self.seen = wants_labels, None

    def trace(self, batch):
        self.seen = batch.get("labels")
        return Trace(self.logits)


ONE = Says([0.0, 2.0, -1.0], [1.0, 0.5, 0.0])
TWO = Says([1.0, 0.0, 3.0], [-2.0, 0.5, 4.0])
SURE = [[0.0, 2.0, -1.0], [0.0, 0.0, 0.0]]


def softmax(row, temperature=1.0):
    exps = [math.exp(z / temperature) for z in row]
    return [e / sum(exps) for e in exps]


def batch(rows=2):
    ids = torch.tensor([[2, 5, 6, 3], [2, 9, 3, 0]])[:rows]
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "token_type_ids": torch.zeros_like(ids)}


# The mean


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("weights", [None, [3, 1]])
def test_the_answer_is_the_mean_of_probabilities_at_the_temperature(temperature, weights):
    logits = Ensemble([ONE, TWO], weights=weights, temperature=temperature).trace({}).logits
    first = 0.75 if weights else 0.5
    for i in range(2):
        pair = (softmax(side.logits[i].tolist(), temperature) for side in (ONE, TWO))
        expected = [first * p + (1 - first) * q for p, q in zip(*pair, strict=True)]
        assert (logits[i] / temperature).softmax(-1).tolist() == pytest.approx(expected, abs=1e-12)


def test_kd_at_the_temperature_has_the_mean_of_the_members_gradients():
    kd = KD(temperature=3)
    kd.bind(Setting("single_label", 3))

    def gradient(*teachers):
        logits = torch.tensor([[0.3, -1.0, 0.2], [2.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
        losses = [kd(Trace(logits), teacher.trace({}), torch.zeros(2)) for teacher in teachers]
        (sum(losses) / len(losses)).backward()
        return logits.grad

    together, apart = gradient(Ensemble([ONE, TWO], temperature=3)), gradient(ONE, TWO)
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-7)
    assert (gradient(Ensemble([ONE, TWO])) - apart).abs().max() > 1e-3  # softened after the mean: another one


def test_several_labels_average_their_sigmoids_and_values_average_themselves():
    multi = [Config("a", "b", problem_type="multi_label_classification") for _ in range(2)]
    logits = (
        Ensemble([Says([0.0, 2.0], config=multi[0]), Says([1.0, -3.0], config=multi[1])]).trace({}).logits
    )
    expected = [(0.5 + 1 / (1 + math.exp(-1))) / 2, (1 / (1 + math.exp(-2)) + 1 / (1 + math.exp(3))) / 2]
    assert logits.sigmoid()[0].tolist() == pytest.approx(expected, abs=1e-12)
    for weights in ([2, 1], np.array([2, 1]), torch.tensor([2.0, 1.0]), [np.float32(2), 1], iter([2, 1])):
        one = Ensemble([Says([1.0]), Says([4.0])], weights=weights)
        assert one.trace({}).logits.item() == pytest.approx(2.0)


@pytest.mark.parametrize("weights", [None, [0, 1], "entropy", "confidence"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_members_who_agree_give_back_their_own_logits(weights, temperature):
    model = make_bert(seed=1)
    alone = ModelTeacher(model).trace(batch()).logits
    both = Ensemble([model, make_bert(seed=1)], weights=weights, temperature=temperature)
    given = {**batch(), "labels": torch.tensor([0, 1])}
    torch.testing.assert_close(both.trace(given).logits, alone, rtol=0, atol=1e-6)
    kd, student = KD(temperature=4), Trace(torch.tensor([[0.3, -1.0], [2.0, 0.0]]))
    losses = [kd(student, Trace(logits), torch.zeros(2)) for logits in (alone, both.trace(given).logits)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-6)


def test_logits_that_are_far_apart_stay_finite():
    ensemble = Ensemble([Says([1000.0, -1000.0]), Says([-1000.0, 1000.0])], weights="entropy")
    logits = ensemble.trace({}).logits
    assert logits.softmax(-1).tolist() == [[0.5, 0.5]]
    half = Ensemble([make_bert(seed=1).to(torch.bfloat16), make_bert(seed=2)]).trace(batch()).logits
    assert half.dtype == torch.float32


# Classes


def test_classes_are_matched_by_name():
    names, other = ("no", "maybe", "yes"), ("Yes", "no", "maybe")
    first = Says([0.0, 2.0, -1.0], config=Config(*names))
    second, turned = (
        Says(r, config=Config(*n)) for r, n in (([1.0, 0.0, 3.0], names), ([3.0, 1.0, 0.0], other))
    )
    plain, permuted = (Ensemble([first, member]).trace({}).logits for member in (second, turned))
    assert torch.equal(plain, permuted)
    # the other way round the order is the other's, and it says so
    back = Ensemble([turned, first])
    assert back.config is turned.config
    torch.testing.assert_close(back.trace({}).logits, plain[:, [2, 0, 1]])


@pytest.mark.parametrize(
    "other",
    [
        Config("negative", "positive", "neutral"),
        Config("good", "bad"),
        Config("value"),
        Config("negative", "positive", problem_type="multi_label_classification"),
    ],
)
def test_members_of_other_classes_or_tasks_are_refused_by_name(other):
    members = {
        "film critic": Says([0.0, 1.0], config=Config("negative", "positive")),
        "odd": Says([0.0], config=other),
    }
    with pytest.raises(LabelSpaceError, match=r"film critic \(single_label: negative, positive\) and odd \("):
        Ensemble(members)


# Weights


def test_weights_by_entropy_are_those_of_the_formula():
    sure, unsure = SURE[0], [0.5, 0.0, 0.0]
    ensemble = Ensemble([Says(sure), Says(unsure), Says([0.0, 0.0, 0.0])], weights="entropy")
    logits = torch.stack([m.logits for m in ensemble.members])
    entropies = [-sum(p * math.log(p) for p in softmax(row)) for row in (sure, unsure, [0.0] * 3)]
    expected = [(1 - h / sum(entropies)) / 2 for h in entropies]
    assert ensemble.weigh(logits)[:, 0].tolist() == pytest.approx(expected, abs=1e-12)
    assert expected[0] > expected[1] > expected[2]


def test_weights_by_confidence_are_those_of_ca_mkd_and_unlabelled_rows_take_entropy():
    ensemble = Ensemble([ONE, TWO], weights="confidence")
    logits = torch.stack([ONE.logits, TWO.logits])
    weights = ensemble.weigh(logits, torch.tensor([1, -100]))
    errors = [-math.log(softmax(side.logits[0].tolist())[1]) for side in (ONE, TWO)]
    shares = [math.exp(e) / sum(map(math.exp, errors)) for e in errors]
    assert weights[:, 0].tolist() == pytest.approx([1 - share for share in shares], abs=1e-12)
    assert weights[0, 0] > 0.5  # the first is right there
    assert torch.equal(weights[:, 1], Ensemble([ONE, TWO], weights="entropy").weigh(logits)[:, 1])
    torch.testing.assert_close(weights.sum(0), torch.ones(2, dtype=torch.float64))
    assert ensemble.wants_labels
    assert torch.equal(ensemble.weigh(logits), Ensemble([ONE, TWO], weights="entropy").weigh(logits))


def test_weights_of_several_labels_are_the_means_over_their_known_classes():
    multi = "multi_label_classification"
    rows = [[0.0, 2.0], [1.0, -3.0]]
    ensemble = Ensemble(
        [Says(r, config=Config("a", "b", problem_type=multi)) for r in rows], weights="confidence"
    )
    logits = torch.stack([m.logits for m in ensemble.members])
    sigmoids = [[1 / (1 + math.exp(-z)) for z in row] for row in rows]
    errors = [-math.log(ps[1]) for ps in sigmoids]  # class a is not known
    expected = 1 - math.exp(errors[0]) / sum(map(math.exp, errors))
    weights = ensemble.weigh(logits, torch.tensor([[-100.0, 1.0]], dtype=torch.float64))
    assert weights[:, 0].tolist() == pytest.approx([expected, 1 - expected], abs=1e-9)
    entropies = [sum(-p * math.log(p) - (1 - p) * math.log(1 - p) for p in ps) for ps in sigmoids]
    expected = 1 - entropies[0] / sum(entropies)
    assert ensemble.weigh(logits)[0].item() == pytest.approx(expected, abs=1e-12)


def test_members_who_are_all_sure_weigh_alike():
    logits = torch.tensor([[[1000.0, 0.0]], [[0.0, 1000.0]]])
    assert Ensemble([ONE, TWO], weights="entropy").weigh(logits).tolist() == [[0.5], [0.5]]


def test_labels_reach_those_who_want_them_in_the_order_of_their_classes():
    plain = Says([0.0, 1.0, 2.0], config=Config("a", "b", "c"))
    turned = Says([0.0, 1.0, 2.0], config=Config("c", "a", "b"), wants_labels=True)
    ensemble = Ensemble([plain, turned])
    ensemble.trace({"labels": torch.tensor([0, 2, -100])})
    assert ensemble.wants_labels
    assert plain.seen is None
    assert turned.seen.tolist() == [1, 0, -100]


@pytest.mark.parametrize(
    ("members", "options", "words"),
    [
        ([], {}, "needs members, found none"),
        ([ONE], {"weights": "entropy"}, r"weights='entropy' of 1 member"),
        ([ONE, TWO], {"weights": "loudness"}, "Choose 'confidence' or 'entropy'"),
        ("out/teacher", {}, r"has several members, found 'out/teacher'\. Type Ensemble\(\[one, another\]\)"),
        ([ONE, TWO], {"weights": [1]}, "one number from 0 up for each"),
        ([ONE, TWO], {"weights": 0.5}, "weights=0.5 for 2 members: give one number"),
        ([ONE, TWO], {"weights": {"1": 3, "0": 1}}, "for 2 members: give one number from 0 up for each"),
        ([ONE, TWO], {"weights": [0, 0]}, "not all 0"),
        ([ONE, TWO], {"weights": [1, -1]}, "one number from 0 up"),
        ([ONE, TWO], {"weights": [1, math.nan]}, "one number from 0 up"),
        ([ONE, TWO], {"temperature": 0}, "temperature above 0, found 0"),
        ([ONE, TWO], {"features": 2}, "features=2 names no member"),
        ({"x": ONE, "y": TWO}, {"features": "z"}, "'x', 'y'"),
        (
            [Says([1.0], config=Config("v")), Says([1.0], config=Config("v"))],
            {"weights": "entropy"},
            "regression",
        ),
    ],
)
def test_ensembles_that_mean_nothing_are_refused(members, options, words):
    with pytest.raises(ValueError, match=words):
        Ensemble(members, **options)


# Inside, columns, fingerprints


def test_one_named_member_is_looked_into():
    deep, shallow = make_bert(4, seed=1), make_bert(2, seed=2)
    ensemble = Ensemble({"deep": deep, "shallow": shallow}, features="shallow")
    taps = {Tap("hidden", 2)}
    trace = ensemble.trace(batch(), taps=taps)
    expected = ModelTeacher(shallow).trace(batch(), taps=taps)
    assert torch.equal(trace.readings[Tap("hidden", 2)], expected.readings[Tap("hidden", 2)])
    assert torch.equal(trace.logits, Ensemble([deep, shallow]).trace(batch()).logits)
    assert ensemble.inspectable().model is shallow


def test_nobody_is_looked_into_without_a_name():
    ensemble = Ensemble([make_bert(seed=1), make_bert(seed=2)])
    assert ensemble.inspectable() is None
    with pytest.raises(
        ValueError, match=r"Name the member that they look into, as in Ensemble\(members, features=0\)"
    ):
        ensemble.trace(batch(), taps={Tap("hidden", 1)})


def test_each_member_reads_its_own_columns_under_the_mask_of_the_one_that_is_looked_into():
    bert = make_bert(seed=1)
    bytes_ = ModelTeacher(make_roberta(seed=2), tokenizer=make_byte_tokenizer())
    ensemble = Ensemble([bert, bytes_], features=1)
    own = {"input_ids": torch.tensor([[0, 40, 41, 2, 1], [0, 50, 51, 52, 2]])}
    own["attention_mask"] = (own["input_ids"] != 1).long()
    given = {**batch(), **{f"teacher_{name}": value for name, value in own.items()}}
    trace = ensemble.trace(given, taps={Tap("hidden", 2)})
    mean = (bert(**batch()).logits.softmax(-1) + bytes_.model(**own).logits.softmax(-1)) / 2
    torch.testing.assert_close(trace.logits.softmax(-1), mean)
    assert torch.equal(trace.attention_mask, own["attention_mask"])
    assert {"input_ids", "teacher_input_ids"} <= ensemble.inputs()
    with pytest.raises(ValueError, match="Record each member on its own"):
        ensemble.select_inputs(given)


def test_the_fingerprint_holds_members_and_weights():
    ensembles = [
        Ensemble([make_bert(seed=1), make_bert(seed=2)]),
        Ensemble([make_bert(seed=2), make_bert(seed=1)]),
        Ensemble([make_bert(seed=1), make_bert(seed=3)]),
        Ensemble([make_bert(seed=1), make_bert(seed=2)], weights=[1, 2]),
        Ensemble([make_bert(seed=1), make_bert(seed=2)], weights="entropy"),
        Ensemble([make_bert(seed=1), make_bert(seed=2)], temperature=2),
        Ensemble([make_bert(seed=1), make_bert(seed=2)], features=0),
    ]
    assert len({ensemble.fingerprint() for ensemble in ensembles}) == len(ensembles)
    again = Ensemble([make_bert(seed=1), make_bert(seed=2)], weights=[2.0, 2.0])
    assert again.fingerprint() == ensembles[0].fingerprint()


def test_members_come_from_folders_too(tmp_path):
    for i in (1, 2):
        make_bert(seed=i).save_pretrained(tmp_path / str(i))
        make_tokenizer().save_pretrained(tmp_path / str(i))
    ensemble = Ensemble([tmp_path / "1", str(tmp_path / "2")], features=str(tmp_path / "2"))
    assert ensemble.features == 1
    expected = Ensemble([make_bert(seed=1), make_bert(seed=2)]).trace(batch()).logits
    torch.testing.assert_close(ensemble.trace(batch()).logits, expected)


def test_weights_may_be_an_array():
    members = [make_bert(1), make_bert(1, seed=2)]
    for weights in (np.array([3, 1]), torch.tensor([3, 1])):
        assert Ensemble(members, weights=weights, temperature=np.float32(2)).weights == [0.75, 0.25]
