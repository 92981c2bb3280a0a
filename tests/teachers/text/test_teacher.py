"""A function of texts teaches: asked once about each text, recorded, usable wherever a teacher is."""

import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import ClassLabel, Dataset
from safetensors.torch import load_file
from transformers import TrainingArguments

from hfdistill import (
    KD,
    CacheError,
    DistillationTrainer,
    Ensemble,
    HiddenMSE,
    ModelTeacher,
    Tap,
    load,
    record,
    write_answers,
)
from hfdistill.teachers.text.calibration import Calibration, fit_calibration, label_ids
from hfdistill.teachers.text.teacher import AskedFunction, TextTeacher, _labelled
from hfdistill.teachers.text.values import AnswerError
from tests.conftest import BAD, make_bert, make_byte_tokenizer, make_dataset, make_roberta, make_tokenizer

CLASSES = ["negative", "positive"]


class Opinions:
    """Finds the opinion word, and counts what it is asked."""

    classes = CLASSES

    def __init__(self, fails_at=None):
        self.calls, self.fails_at = [], fails_at

    def fingerprint(self):
        return "opinions"

    def __call__(self, texts):
        if len(self.calls) + 1 == self.fails_at:
            raise ConnectionError("503")
        self.calls.append(list(texts))
        return [[0.9, 0.1] if any(word in text.split() for word in BAD) else [0.2, 0.8] for text in texts]

    def asked(self):
        return [text for call in self.calls for text in call]


def train(
    teacher, folder, *, data=None, objective=None, steps=4, student=None, tokenizer=None, evaluation=None
):
    args = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=8, report_to="none", use_cpu=True,
        disable_tqdm=True, save_strategy="no", seed=1,
    )  # fmt: skip
    data = make_dataset() if data is None else data
    trainer = DistillationTrainer(
        student or make_bert(2, seed=2), args, teacher=teacher, objective=objective or KD(),
        train_dataset=data, eval_dataset=evaluation, processing_class=tokenizer or make_tokenizer(),
    )  # fmt: skip
    trainer.train()
    return trainer


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def test_it_answers_texts_directly(tmp_path):
    teacher = TextTeacher(Opinions(), cache=tmp_path)
    found = teacher.probabilities(["a bad film", "a great film", "a bad film"])
    torch.testing.assert_close(found, torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]]))
    assert teacher.logits([]).shape == (0, 2)


def test_it_trains_a_student_as_a_model_of_the_same_answers_does(tmp_path):
    """The recorded logits reach the objective: a teacher that looks the same logits up trains bit for bit."""
    function = Opinions()
    one = train(TextTeacher(function, cache=tmp_path / "a"), tmp_path / "one")
    again = train(TextTeacher(Opinions(), cache=tmp_path / "a"), tmp_path / "two")
    other = train(
        TextTeacher(lambda texts: [[0.5, 0.5]] * len(texts), CLASSES, cache=tmp_path), tmp_path / "3"
    )
    assert torch.equal(weights(one), weights(again))
    assert not torch.equal(weights(one), weights(other))
    data = make_dataset()
    assert sorted(set(function.asked())) == sorted(set(data["text"]))


def test_each_text_is_asked_once_and_a_few_twice(tmp_path):
    function = Opinions()
    teacher = TextTeacher(function, cache=tmp_path, batch_size=5)
    train(teacher, tmp_path / "out")
    asked, texts = function.asked(), make_dataset()["text"][:]
    assert len(asked) == len(set(texts)) + 5  # those of the first call, to see whether answers repeat
    assert max(map(len, function.calls)) == 5
    later = Opinions()
    assert torch.equal(TextTeacher(later, cache=tmp_path).logits(texts), teacher.logits(texts))
    assert later.calls == []


def test_a_call_that_fails_loses_no_answer_and_only_the_rest_is_asked(tmp_path):
    texts = [f"text {i}" for i in range(200)]
    first = Opinions(fails_at=37)
    with pytest.raises(ConnectionError):
        TextTeacher(first, cache=tmp_path, batch_size=4).logits(texts)
    assert len(first.calls) == 36
    second = Opinions()
    found = TextTeacher(second, cache=tmp_path, batch_size=4).logits(texts)
    answered = set(first.asked())
    assert sorted(second.asked()) == sorted(set(texts) - answered)
    assert found.shape == (200, 2)


def test_every_answer_is_on_disk_before_the_next_call(tmp_path, monkeypatch):
    """So a kill at any moment loses the call that is under way, and nothing else."""
    monkeypatch.setattr("hfdistill.teachers.cache.recording._Pace.is_due", lambda self: True)
    found = []

    class Watched(Opinions):
        def __call__(self, texts):
            shards = tmp_path.glob("*/shard-*.safetensors")
            found.append(sum(len(load_file(shard)["keys"]) for shard in shards))
            return super().__call__(texts)

    TextTeacher(Watched(), cache=tmp_path, batch_size=4).logits([f"text {i}" for i in range(20)])
    assert found == [0, 0, 4, 8, 12, 16]  # the first texts are asked about twice


def test_a_call_that_fails_within_a_batch_of_training_loses_nothing(tmp_path):
    teacher = TextTeacher(Opinions(fails_at=5), cache=tmp_path, batch_size=4)
    texts = [f"text {i}" for i in range(40)]
    with pytest.raises(ConnectionError):
        teacher.trace(teacher._collate(texts))
    second = Opinions()
    TextTeacher(second, cache=tmp_path, batch_size=4).logits(texts)
    assert len(second.asked()) == 40 - 12  # calls 1 and 2 were about the same four texts


def test_the_cost_is_told_first_and_a_limit_is_held(tmp_path, caplog):
    function = Opinions()
    teacher = TextTeacher(function, cache=tmp_path, batch_size=4, limit=10)
    with (
        caplog.at_level("INFO", "hfdistill"),
        pytest.raises(CacheError, match=r"11 of 11 texts .* in 3 calls"),
    ):
        teacher.logits([f"text {i}" for i in range(11)])
    assert function.calls == []
    with caplog.at_level("INFO", "hfdistill"):
        teacher.logits([f"text {i}" for i in range(10)])
    assert "10 of 10 texts are to be asked about, in 3 calls of up to 4, 8 of them twice" in caplog.text
    with pytest.raises(CacheError, match="limit=10 allows 0 more"):
        teacher.logits(["one more"])


def test_other_functions_answers_are_never_taken(tmp_path):
    def says(share):
        return lambda texts: [[share, 1 - share]] * len(texts)

    one, other = (TextTeacher(says(share), CLASSES, cache=tmp_path) for share in (0.9, 0.4))
    assert one.probabilities(["a"])[0, 0] == pytest.approx(0.9)
    assert other.probabilities(["a"])[0, 0] == pytest.approx(0.4)
    assert one.fingerprint() != other.fingerprint()
    assert TextTeacher(says(0.9), CLASSES, cache=tmp_path).fingerprint() == one.fingerprint()


def test_a_function_with_a_changing_state_is_told_to_take_a_name(tmp_path):
    seen = []

    def answer(texts):
        seen.extend(texts)
        return [[0.5, 0.5]] * len(texts)

    with pytest.raises(CacheError, match="state changed while it was asked"):
        TextTeacher(answer, CLASSES, cache=tmp_path).logits(["a"])
    seen.clear()
    TextTeacher(answer, CLASSES, cache=tmp_path, name="half").logits(["a"])
    TextTeacher(answer, CLASSES, cache=tmp_path, name="half").logits(["a"])
    assert seen == ["a", "a"]  # once to answer, once to see whether it repeats


def test_answers_that_do_not_repeat_are_refused_unless_that_is_wanted(tmp_path):
    draws = torch.Generator().manual_seed(0)

    def answer(texts):
        return torch.rand(len(texts), 2, generator=draws).softmax(-1)

    with pytest.raises(CacheError, match="Asked twice about the same 3 texts"):
        TextTeacher(answer, CLASSES, cache=tmp_path, name="noise").logits(["a", "b", "c"])
    teacher = TextTeacher(answer, CLASSES, cache=tmp_path, name="noise", repeatable=False)
    assert torch.equal(teacher.logits(["a"]), teacher.logits(["a"]))


def test_a_broken_answer_names_the_text(tmp_path):
    with pytest.raises(AnswerError, match=r"The text 'b': the probabilities of the 2 classes sum to 0\.7"):
        TextTeacher(lambda texts: [[0.5, 0.5], [0.5, 0.2]], CLASSES, cache=tmp_path).logits(["a", "b"])
    with pytest.raises(AnswerError, match="given 2 texts and returned 1 answers"):
        TextTeacher(lambda texts: [[0.5, 0.5]], CLASSES, cache=tmp_path).logits(["a", "b"])


def test_it_is_a_member_of_an_ensemble(tmp_path):
    teacher = TextTeacher(Opinions(), ["positive", "negative"], cache=tmp_path)
    both = Ensemble([make_bert(2, seed=3), teacher])
    trainer = train(both, tmp_path / "out")
    assert trainer.state.global_step == 4


def test_it_teaches_beside_a_member_with_a_tokenizer_of_its_own(tmp_path):
    other = ModelTeacher(make_roberta(2), tokenizer=make_byte_tokenizer())
    function = Opinions()
    train(Ensemble([other, TextTeacher(function, cache=tmp_path)]), tmp_path / "out")
    assert set(function.asked()) <= set(make_dataset()["text"])


def test_pairs_are_asked_as_pairs(tmp_path):
    def answer(pairs):
        return [[0.9, 0.1] if one == two else [0.1, 0.9] for one, two in pairs]

    teacher = TextTeacher(answer, CLASSES, cache=tmp_path)
    found = teacher.probabilities([("a film", "a film"), ("a film", "the plot")])
    torch.testing.assert_close(found[:, 0], torch.tensor([0.9, 0.1]))
    data = Dataset.from_dict({"text": ["a film"] * 8, "text_pair": ["a film", "the plot"] * 4})
    train(teacher, tmp_path / "out", data=data)


def test_data_without_its_text_is_told_to_bring_it(tmp_path):
    data = Dataset.from_dict({"input_ids": [[2, 5, 3]] * 8, "attention_mask": [[1, 1, 1]] * 8})
    with pytest.raises(ValueError, match=r"Give train_dataset with its text"):
        train(TextTeacher(Opinions(), cache=tmp_path), tmp_path / "out", data=data)


def test_terms_on_layers_are_refused(tmp_path):
    teacher = TextTeacher(Opinions(), cache=tmp_path)
    with pytest.raises(ValueError, match="use a term on logits"):
        train(teacher, tmp_path / "out", objective=HiddenMSE())
    with pytest.raises(ValueError, match="no layers to look into"):
        teacher.check_taps({Tap("hidden", 1)})


def test_a_model_of_the_library_is_recorded_like_any_other(tmp_path):
    cached = record(
        AskedFunction(Opinions(), TextTeacher(Opinions(), cache=tmp_path).reader, identity="x"),
        make_dataset(), folder=tmp_path / "kept",
        tokenizer=TextTeacher(Opinions(), cache=tmp_path).tokenizer,
    )  # fmt: skip
    assert len(cached.store or ()) == len(set(make_dataset()["text"]))


# calibration


def test_a_prior_moves_the_answers_to_known_shares(tmp_path):
    teacher = TextTeacher(
        lambda t: [[0.5, 0.5]] * len(t), CLASSES, cache=tmp_path, prior={"positive": 0.9, "negative": 0.1}
    )
    torch.testing.assert_close(teacher.probabilities(["a"]), torch.tensor([[0.1, 0.9]]))
    with pytest.raises(ValueError, match="prior gives each class a share"):
        TextTeacher(Opinions(), cache=tmp_path, prior={"positive": 0.9})


def test_a_temperature_divides_the_recorded_logits(tmp_path):
    function = Opinions()
    plain, warm = (TextTeacher(function, cache=tmp_path, temperature=t) for t in (1.0, 2.0))
    torch.testing.assert_close(warm.logits(["a bad film"]), plain.logits(["a bad film"]) / 2)
    assert len(function.calls) == 2  # recorded once, and looked at twice
    assert plain.fingerprint() != warm.fingerprint()


def test_calibration_finds_the_temperature_and_the_shift_that_made_the_labels():
    torch.manual_seed(0)
    true = torch.randn(4000, 3) * 2
    labels = torch.distributions.Categorical(logits=true).sample()
    found = fit_calibration(3 * (true - torch.tensor([0.5, 0.0, -0.5])), labels)
    assert found.temperature == pytest.approx(3.0, rel=0.08)
    assert found.shift == pytest.approx((0.5, 0.0, -0.5), abs=0.1)
    alone = fit_calibration(3 * true, labels, prior=False)
    assert alone.shift is None
    assert alone.temperature == pytest.approx(3.0, rel=0.08)
    few = fit_calibration(torch.tensor([[9.0, 0.0]]), torch.tensor([0]))
    assert 0.1 < few.temperature < 2  # one row that is right does not make it certain


def test_calibrate_is_fitted_when_the_teacher_is_first_asked(tmp_path):
    function = Opinions()
    texts, labels = ["a bad film", "a great film"] * 10, ["negative", "positive"] * 10
    teacher = TextTeacher(function, cache=tmp_path, calibrate=(texts, labels))
    assert function.calls == []
    assert float(teacher.probabilities(["a bad film"])[0, 0]) > 0.95
    with pytest.raises(ValueError, match="fits temperature and prior"):
        TextTeacher(function, cache=tmp_path, calibrate=(texts, labels), temperature=2.0)
    with pytest.raises(ValueError, match="labelled 'fine'"):
        TextTeacher(function, cache=tmp_path, calibrate=(["a"], ["fine"])).logits(["a"])
    with pytest.raises(ValueError, match="above 0"):
        Calibration(math.inf)


def test_several_labels_to_calibrate_by_are_numbers_of_any_kind(tmp_path):
    def answer(texts):
        return [[0.9, 0.2] if "bad" in text else [0.3, 0.8] for text in texts]

    texts, labels = ["a bad film", "a great film"] * 5, [[1, 0], [0, 1]] * 5
    fits = [
        TextTeacher(
            answer, CLASSES, multi_label=True, cache=tmp_path, name="two", calibrate=(texts, rows)
        ).calibration
        for rows in (labels, np.array(labels), [np.array(row) for row in labels], torch.tensor(labels))
    ]
    assert fits[0].temperature < 1
    assert fits == [fits[0]] * 4
    columns = Dataset.from_dict({"text": texts, "label": labels})
    for rows in (columns, columns.with_format("numpy"), columns.with_format("torch")):
        options = {"multi_label": True, "cache": tmp_path, "name": "two"}
        assert TextTeacher(answer, CLASSES, calibrate=rows, **options).calibration == fits[0]


def test_a_calibration_that_failed_is_fitted_when_the_teacher_is_asked_again(tmp_path):
    rows = {"negative": ["a bad film"] * 9, "positive": ["a great film"] * 9}
    wanted = TextTeacher(Opinions(), cache=tmp_path / "one", calibrate=rows).logits(["a bad film"])
    teacher = TextTeacher(Opinions(fails_at=1), cache=tmp_path / "two", calibrate=rows)
    with pytest.raises(ConnectionError):
        teacher.logits(["a bad film"])
    teacher.asked.answer.fails_at = None
    assert torch.equal(teacher.logits(["a bad film"]), wanted)


def test_what_cannot_be_asked_is_told_at_construction(tmp_path):
    with pytest.raises(ValueError, match=r"found function and classes=None\. Type TextTeacher\(answer"):
        TextTeacher(lambda texts: texts, cache=tmp_path)
    with pytest.raises(ValueError, match=r"found str and classes=\['no', 'yes'\]"):
        TextTeacher("a model", ["no", "yes"], cache=tmp_path)
    for options in ({"batch_size": -1}, {"batch_size": 0}, {"limit": 0}, {"limit": 2.5}):
        (name, value), *_ = options.items()
        with pytest.raises(ValueError, match=f"{name} is a number of texts from 1 up, found {value}"):
            TextTeacher(Opinions(), cache=tmp_path, **options)
    with pytest.raises(ValueError, match="calibrate= has 1 texts and 2 labels"):
        TextTeacher(Opinions(), cache=tmp_path, calibrate=(["a"], [0, 1])).logits(["a bad film"])
    assert not TextTeacher(Opinions(), cache=tmp_path).drop_live_teacher()


def test_a_limit_holds_where_rows_were_not_counted_before(tmp_path):
    teacher = TextTeacher(Opinions(), cache=tmp_path, limit=3, repeatable=False)
    teacher._count(3)
    with pytest.raises(CacheError, match=r"limit=3 texts were asked about, and there are more"):
        teacher._count(1)


def test_labels_and_scores_side_by_side_are_answers_of_each_text(tmp_path):
    def answer(texts):
        return ["positive"] * len(texts), [0.75] * len(texts)

    teacher = TextTeacher(answer, CLASSES, cache=tmp_path)
    assert teacher.probabilities(["a", "b", "c"]).flatten().tolist() == pytest.approx([0.25, 0.75] * 3)


def test_a_prior_names_each_class_and_sums_to_one():
    with pytest.raises(
        ValueError, match="prior gives each class a share, and 'odd', 'positive' do not match"
    ):
        Calibration.of_prior({"negative": 0.5, "odd": 0.5}, CLASSES)
    with pytest.raises(ValueError, match=r"shares lie above 0 and sum to 1. Divide counts by their sum"):
        Calibration.of_prior([30, 70], CLASSES)
    with pytest.raises(ValueError, match="calibrate= has no row with a label"):
        fit_calibration(torch.zeros(2, 2), torch.tensor([-100, -100]))


def test_labels_are_read_by_name_or_number():
    assert label_ids(["Positive ", 0, None, -100], CLASSES).tolist() == [1, 0, -100, -100]
    assert label_ids([[1, 0], [True, False]], CLASSES, multi_label=True).tolist() == [[1.0, 0.0]] * 2
    with pytest.raises(
        ValueError, match="Row 1 is labelled 'odd', and the classes are 'negative', 'positive'"
    ):
        label_ids([0, "odd"], CLASSES)
    for label in (["positive"], [1, 0, 1], ["1", "0"], 1, None):
        with pytest.raises(
            ValueError, match=r"Row 1 is labelled .*, and 0 or 1 for each of the classes 'neg"
        ):
            label_ids([[0, 1], label], CLASSES, multi_label=True)


def test_labelled_rows_to_calibrate_by_may_be_pairs():
    data = Dataset.from_dict({"text": ["a", "b"], "text_pair": ["c", "d"], "label": [1, 0]})
    assert _labelled(data, CLASSES) == ([("a", "c"), ("b", "d")], [1, 0])
    assert _labelled(data.remove_columns("text_pair"), CLASSES) == (["a", "b"], [1, 0])
    with pytest.raises(ValueError, match=r"^calibrate= has the columns text, text_pair, and none is"):
        _labelled(data.remove_columns("label"), CLASSES)


def test_labels_to_calibrate_by_go_by_the_names_of_their_classes(tmp_path):
    """`load` numbers classes by the alphabet; a teacher may have them in any order."""
    texts, names = ["a bad film", "a great film"] * 10, ["negative", "positive"] * 10
    frame = pd.DataFrame({"text": texts, "label": names})
    data = load(frame)["train"]
    other = Dataset.from_dict({"text": texts, "label": [1, 0] * 10}).cast_column(
        "label", ClassLabel(names=["positive", "negative"])
    )
    fits = [
        TextTeacher(Opinions(), cache=tmp_path, calibrate=rows).calibration
        for rows in ((texts, names), data, other, frame)
    ]
    assert fits[0].temperature < 1
    assert fits == [fits[0]] * 4


def test_texts_are_asked_about_and_no_names_of_columns(tmp_path):
    function, texts = Opinions(), ["a bad film", "a great film"]
    teacher = TextTeacher(function, cache=tmp_path)
    frame = pd.DataFrame({"text": texts, "label": ["negative", "positive"]})
    logits = teacher.logits(texts)
    asked = len(function.asked())
    for rows in (
        frame,
        Dataset.from_pandas(frame),
        pa.table({"text": texts}),
        pd.Series(texts),
        tuple(texts),
    ):
        assert torch.equal(teacher.logits(rows), logits)
    path = write_answers(teacher, frame, tmp_path / "answers.jsonl")
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == texts
    assert len(function.asked()) == asked
    for rows, words in (
        ("good", r"Type \[text\]"),
        ([{"text": "a"}], "neither a"),
        ([("a", 1)], "nor"),
        (["a", None], "None is neither"),
        (
            Dataset.from_dict({"text": ["a"]}).to_iterable_dataset(),
            "asked about all rows at once, and found a st",
        ),
        (["a", "\ud800"], "'.ud800' is neither"),
        (Dataset.from_dict({"text": ["a", None]}), "None is neither"),
        (Dataset.from_dict({"text": ["a"], "text_pair": [None]}), r"\('a', None\) is neither"),
    ):
        with pytest.raises(TypeError, match=words):
            teacher.logits(rows)
    with pytest.raises(ValueError, match=r"^The data has the columns label, and none is called text"):
        teacher.logits(frame[["label"]])


class Classifier:
    """What scikit-learn's classifiers have: columns in the order of `classes_`."""

    def __init__(self, classes):
        self.classes_ = np.array(classes)

    def predict_proba(self, texts):
        return np.array([[0.8, 0.2] if "great" in text else [0.1, 0.9] for text in texts])


@pytest.mark.parametrize("classes", [None, ["Positive", "negative"], ["negative", "positive"]])
def test_the_columns_of_a_classifier_go_by_name(classes, tmp_path):
    teacher = TextTeacher(Classifier(["positive", "negative"]).predict_proba, classes, cache=tmp_path)
    place = [name.lower() for name in teacher.classes].index("positive")
    found = teacher.probabilities(["a great film", "a bad film"])[:, place]
    assert found.tolist() == pytest.approx([0.8, 0.1])
    in_order = TextTeacher(Classifier([3, 7]).predict_proba, ["good", "bad"], cache=tmp_path)
    assert in_order.probabilities(["a great film"])[0].tolist() == pytest.approx([0.8, 0.2])


def test_a_classifier_with_other_names_and_one_that_is_no_function_are_told(tmp_path):
    with pytest.raises(AnswerError, match=r"'positive', 'negative', and the classes are 'bad', 'positive'"):
        TextTeacher(Classifier(["positive", "negative"]).predict_proba, ["bad", "positive"], cache=tmp_path)
    renamed = TextTeacher(Classifier(["pos", "neg"]).predict_proba, ["good", "bad"], cache=tmp_path)
    assert renamed.probabilities(["a great film"])[0].tolist() == pytest.approx([0.8, 0.2])
    with pytest.raises(ValueError, match=r"found Classifier .* Type TextTeacher\(it\.predict_proba\)\."):
        TextTeacher(Classifier([3, 7]), CLASSES, cache=tmp_path)


def test_a_function_may_yield_answers_and_one_that_returns_nothing_is_told(tmp_path):
    def answer(texts):
        return ((0.25, 0.75) for _ in texts)

    found = TextTeacher(answer, CLASSES, cache=tmp_path).probabilities(["a"])[0]
    assert found.tolist() == pytest.approx([0.25, 0.75])
    with pytest.raises(AnswerError, match=r"given 2 texts and returned None\. Return one answer for each"):
        TextTeacher(lambda texts: None, CLASSES, cache=tmp_path).logits(["a", "b"])
