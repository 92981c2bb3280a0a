"""Answers in a file teach as the teacher that wrote them; a broken file is told by row, value and fix."""

import csv
import json
import math

import pandas as pd
import pytest
import torch
from datasets import Dataset

from hfdistill.data import load
from hfdistill.teachers.text.files import answers_from, write_answers
from hfdistill.teachers.text.teacher import TextTeacher
from hfdistill.teachers.text.values import AnswerError
from tests.conftest import make_dataset
from tests.data.conftest import messages
from tests.teachers.text.test_teacher import CLASSES, Opinions, train, weights

TEXTS = ["a bad film", "a great film", "so, so"]
WANTED = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def with_texts(answers, **columns):
    return [{"text": text, **answer} for text, answer in zip(TEXTS, answers, strict=True)]


def odd(number):
    """Probabilities that no short decimal gives."""
    return [math.sin(number) ** 2, math.cos(number) ** 2]


def test_answers_train_bit_for_bit_as_the_live_teacher_that_wrote_them(tmp_path):
    texts = make_dataset()["text"][:]
    live = TextTeacher(lambda texts: [odd(len(text)) for text in texts], CLASSES, cache=tmp_path / "live")
    file = write_answers(live, texts, tmp_path / "answers.jsonl")
    rows = [{"text": text, "probabilities": odd(len(text))} for text in texts]
    trained = [
        train(teacher, tmp_path / "out")
        for teacher in (live, answers_from(file), answers_from(jsonl(tmp_path / "own.jsonl", rows), CLASSES))
    ]
    assert torch.equal(weights(trained[0]), weights(trained[1]))
    assert torch.equal(weights(trained[0]), weights(trained[2]))


FORMS = {
    "list": [{"probabilities": [0.9, 0.1]}, {"probabilities": [0.2, 0.8]}, {"probabilities": [0.5, 0.5]}],
    "mapping": [
        {"probs": {"Positive": 0.1, "negative": 0.9}},
        {"probs": {"positive": 0.8}},
        {"probs": {"negative": 0.5}},
    ],
    "a column for each class": [
        {"positive": 0.1, "negative": 0.9},
        {"positive": 0.8, "negative": 0.2},
        {"positive": 0.5, "negative": 0.5},
    ],
    "label and confidence": [
        {"label": "negative", "confidence": 0.9},
        {"label": "positive", "confidence": 0.8},
        {"label": 0, "confidence": 0.5},
    ],
    "votes": [
        {"votes": ["negative"] * 9 + ["positive"]},
        {"votes": ["positive"] * 4 + ["negative"]},
        {"votes": ["positive", "negative"]},
    ],
    "an API": [
        {"top_logprobs": [{"token": " negative", "logprob": math.log(0.9)}, {"token": "The", "logprob": -9}]},
        {"top_logprobs": [{"token": "Positive", "logprob": math.log(0.8)}]},
        {"top_logprobs": {"positive": math.log(0.5), "I": -3.0, "negative": math.log(0.5)}},
    ],
    "logits": [{"logits": [math.log(9), 0]}, {"logits": [0, math.log(4)]}, {"logits": [1, 1]}],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(tmp_path, form):
    teacher = answers_from(jsonl(tmp_path / "answers.jsonl", with_texts(FORMS[form])), CLASSES)
    torch.testing.assert_close(teacher.probabilities(TEXTS), WANTED, atol=1e-6, rtol=0)
    assert teacher.classes == CLASSES


@pytest.mark.parametrize(
    "form", ["list", "mapping", "a column for each class", "label and confidence", "votes", "an API"]
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".json"])
def test_every_kind_of_file_is_read(tmp_path, form, suffix):
    rows, file = with_texts(FORMS[form]), tmp_path / f"answers{suffix}"
    if form == "label and confidence":
        rows[2]["label"] = "negative"
    if suffix == ".json":
        file.write_text(json.dumps(rows))
    elif suffix == ".parquet":
        if form == "an API":
            rows[2]["top_logprobs"] = [{"token": "positive", "logprob": math.log(0.5)}]
        Dataset.from_list(rows).to_parquet(file)
    else:
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0], delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(
                [{n: v if isinstance(v, str) else json.dumps(v) for n, v in row.items()} for row in rows]
            )
    found = answers_from(file, CLASSES).probabilities(TEXTS)
    torch.testing.assert_close(found, WANTED, atol=1e-6, rtol=0)


def test_classes_are_those_that_the_answers_name_sorted(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", with_texts(FORMS["votes"]))
    assert answers_from(file).classes == ["negative", "positive"]


def test_votes_of_several_columns(tmp_path):
    rows = with_texts(
        [
            {"ann": "negative", "bob": "negative"},
            {"ann": "positive", "bob": "negative"},
            {"ann": "positive", "bob": None},
        ]
    )
    found = answers_from(jsonl(tmp_path / "a.jsonl", rows), answer=["ann", "bob"]).logits(TEXTS).softmax(-1)
    torch.testing.assert_close(found[:, 1], torch.tensor([0.0, 0.5, 1.0]), atol=1e-6, rtol=0)


def test_pairs_are_found_by_both_texts(tmp_path):
    rows = [
        {"text": "a", "text_pair": b, "label": label, "confidence": 0.9}
        for b, label in (("b", "no"), ("c", "yes"))
    ]
    teacher = answers_from(jsonl(tmp_path / "a.jsonl", rows))
    assert teacher.logits([("a", "c"), ("a", "b")]).argmax(-1).tolist() == [1, 0]


def test_rows_without_an_answer_are_told_and_left_out_on_demand(tmp_path, caplog):
    teacher = answers_from(jsonl(tmp_path / "some.jsonl", with_texts(FORMS["list"])), CLASSES)
    data = Dataset.from_dict({"text": [*TEXTS, "unheard of", "nor this"]})
    with pytest.raises(
        RuntimeError,
        match=r"2 of 5 rows have no answer in some\.jsonl, such as 'unheard of'.*teacher\.answered",
    ):
        train(teacher, tmp_path / "out", data=data)
    assert teacher.answered(data)["text"][:] == TEXTS
    assert (
        "2 of 5 rows have no answer in some.jsonl and are left out; the first is 'unheard of'" in caplog.text
    )
    with pytest.raises(AnswerError, match="None of the 1 rows has an answer"):
        teacher.answered(Dataset.from_dict({"text": ["a bad film "]}))
    with pytest.raises(ValueError, match=r"^The data has the columns txt, and none is called text"):
        teacher.answered(Dataset.from_dict({"txt": ["a bad film"]}))


GOOD = {"text": "a", "probabilities": [0.5, 0.5]}
BROKEN = {
    "sums": (
        [GOOD, {"text": "b", "probabilities": [0.5, 0.2]}],
        r"x\.jsonl, line 2 \('b'\): the probabilities .* sum to 0\.7.*Divide",
    ),
    "unknown class": (
        [{"text": "a", "label": "fine", "confidence": 0.9}],
        r"line 1 \('a'\) names the class 'fine', .*add it to classes=",
    ),
    "two answers": (
        [GOOD, {"text": "a", "probabilities": [0.4, 0.6]}],
        r"line 2 \('a'\) was answered otherwise on line 1: \[0\.5, 0\.5\].*Keep one",
    ),
    "NaN": (
        [GOOD, {"text": "b", "probabilities": [math.nan, 0.5]}],
        r"line 2 \('b'\): the answer for class 'negative' is nan.*Leave such rows",
    ),
    "percentages": (
        [{"text": "a", "probabilities": [90, 10]}],
        r"line 1 \('a'\): the probabilities sum to 100: .*Divide them by 100",
    ),
    "no class among the tokens": (
        [{"text": "a", "top_logprobs": [{"token": "The", "logprob": -0.1}]}],
        r"line 1 \('a'\): none of the tokens 'The' is one of the classes .*top_logprobs",
    ),
    "log-probabilities that are none": (
        [{"text": "a", "log_probabilities": [0.3, 0.7]}],
        r"line 1 \('a'\): the log-probability of 'negative' is 0\.3, above 0.*kind=",
    ),
    "too few numbers": (
        [GOOD, {"text": "b", "probabilities": [1.0]}],
        r"line 2 \('b'\): the answer has 1 numbers .* 2 classes .*Give one for each",
    ),
    "no answer": (
        [GOOD, {"text": "b"}],
        r"line 2 \('b'\) has no answer.*Leave such rows out",
    ),
    "no text": (
        [GOOD, {"text": None, "probabilities": [0.5, 0.5]}],
        r"line 2 has no text, found None.*leave it out",
    ),
    "confidence in percent": (
        [{"text": "a", "label": "negative", "confidence": 90}],
        r"line 1 \('a'\): the confidence is 90\.0.*Divide percentages by 100",
    ),
    "no confidence": (
        [{"text": "a", "label": "negative", "confidence": "sure"}],
        r"line 1 \('a'\): the confidence is 'sure', no number",
    ),
    "no column": (
        [{"text": "a", "said": "negative"}],
        r"x\.jsonl has the columns \['said'\], none of which .*answer=",
    ),
    "several columns": (
        [{**GOOD, "logits": [0, 1]}],
        r"x\.jsonl has the answers \['probabilities', 'logits'\].*Say which",
    ),
    "no list": (
        [{"text": "a", "probabilities": "[0.5, 0.5"}],
        r"line 1 \('a'\): the column 'probabilities' holds '\[0\.5, 0\.5'.*Write JSON",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_names_row_value_and_fix(tmp_path, name):
    rows, message = BROKEN[name]
    with pytest.raises(AnswerError, match=message):
        answers_from(jsonl(tmp_path / "x.jsonl", rows), CLASSES)


def test_files_that_are_none_of_ours_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        answers_from(tmp_path / "absent.csv")
    file = tmp_path / "answers.txt"
    file.write_text("a\n")
    with pytest.raises(AnswerError, match=r"answers are read from \.parquet, \.csv, .*\.xlsx\. Save"):
        answers_from(file)
    file = jsonl(tmp_path / "a.jsonl", [GOOD])
    with pytest.raises(AnswerError, match=r"does not name its classes .*classes="):
        answers_from(file)
    with pytest.raises(AnswerError, match=r"has no column 'answr', found \['text', 'probabilities'\]"):
        answers_from(file, CLASSES, answer="answr")
    file.write_text('{"text": "a"\n')
    with pytest.raises(AnswerError, match=r"a\.jsonl, line 1, is not JSON"):
        answers_from(file)
    file = tmp_path / "a.csv"
    file.write_text("text,label\nso, so,yes\n")
    with pytest.raises(AnswerError, match="line 2 has 3 cells where the header has 2"):
        answers_from(file)
    file.write_text("text,label\n")
    with pytest.raises(AnswerError, match="holds no answer"):
        answers_from(file)


def test_another_file_is_another_teacher(tmp_path):
    one, other = ([{"text": "a", "probabilities": p}] for p in ([0.5, 0.5], [0.4, 0.6]))
    prints = [
        answers_from(jsonl(tmp_path / "a.jsonl", rows), CLASSES).fingerprint() for rows in (one, other, one)
    ]
    assert prints[0] == prints[2] != prints[1]


def test_answers_are_written_for_pairs_and_read_again(tmp_path):
    teacher = TextTeacher(lambda pairs: [odd(len(a) - len(b)) for a, b in pairs], CLASSES, cache=tmp_path)
    pairs = [("a", "bcd"), ("ab", "c")]
    file = write_answers(teacher, pairs, tmp_path / "p.jsonl")
    assert torch.equal(answers_from(file, CLASSES).logits(pairs), teacher.logits(pairs))
    with pytest.raises(ValueError, match=r"in \.jsonl"):
        write_answers(teacher, pairs, tmp_path / "p.csv")
    assert Opinions.classes == CLASSES


def test_lines_without_text_pass_and_rows_that_are_no_objects_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [json.dumps(row) for row in with_texts([{"probabilities": row.tolist()} for row in WANTED])]
    path.write_text("\n\n  \n".join(rows) + "\n\n")
    assert torch.allclose(answers_from(path, CLASSES).probabilities(TEXTS), WANTED)
    path.write_text(rows[0] + "\n\n[1, 2]\n")
    with pytest.raises(AnswerError, match=r"a\.jsonl, line 3, holds no object: .*\. Write one object"):
        answers_from(path, CLASSES)
    whole = tmp_path / "a.json"
    whole.write_text('{"text": "a"}')
    with pytest.raises(AnswerError, match=r"a\.json has the columns .*, none of which"):
        answers_from(whole, CLASSES)
    whole.write_text("[{")
    with pytest.raises(AnswerError, match=r"a\.json, line 1, is not JSON .* Write an array of objects"):
        answers_from(whole, CLASSES)


def test_columns_of_the_classes_may_be_named_one_by_one(tmp_path):
    rows = with_texts([{"negative": no, "positive": yes} for no, yes in WANTED.tolist()])
    path = jsonl(tmp_path / "a.jsonl", rows)
    teacher = answers_from(path, ["positive", "negative"], answer=["negative", "positive"])
    assert torch.allclose(teacher.probabilities(TEXTS), WANTED.flip(1))
    spaced = with_texts([{" Negative": no, "positive ": yes} for no, yes in WANTED.tolist()])
    path = jsonl(tmp_path / "b.jsonl", spaced)
    teacher = answers_from(path, ["positive", "negative"], answer=[" Negative", "positive "])
    assert torch.allclose(teacher.probabilities(TEXTS), WANTED.flip(1))


def test_each_token_of_an_api_has_its_logarithm(tmp_path):
    top = [{"token": "positive", "logprob": -0.1}, {"token": "negative"}]
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a", "top_logprobs": top}])
    with pytest.raises(AnswerError, match='each entry needs "token" and "logprob", found'):
        answers_from(path, CLASSES)


def test_a_frame_is_not_a_file_of_answers():
    with pytest.raises(TypeError, match=r"first argument is the path of a file, found a DataFrame\. Write"):
        answers_from(pd.DataFrame({"text": ["a"], "label": ["b"]}))


def test_a_file_of_answers_is_read_with_the_options_of_load(tmp_path, caplog):
    file, certain = tmp_path / "answers.csv", [[1e-9, 1.0], [1.0, 1e-9]]
    file.write_bytes("text,answer\ncafé,good\ntea,bad\n".encode("latin-1"))
    with pytest.raises(
        AnswerError, match=r"line 2, is not UTF-8\. If 'café,good' .* encoding='cp1252'; else"
    ):
        answers_from(file)
    read = answers_from(file, encoding="latin-1").probabilities(["café", "tea"])
    assert torch.allclose(read, torch.tensor(certain))
    file.write_text("text;answer\nso, so;good\ntea, black;bad\n")
    for options in ({}, {"delimiter": ";"}):
        read = answers_from(file, **options).probabilities(["so, so", "tea, black"])
        assert torch.allclose(read, torch.tensor(certain))
    assert messages(caplog) == ["answers.csv: cells are separated by ';' (pass delimiter= for another)"]
    file.write_text('text,answer\ntea,bad\ncup,good\n"see,bad\ntea,bad\n",good\n')
    with pytest.raises(AnswerError, match=r"line 4 .*look like rows .*quotes=True\.$"):
        answers_from(file)
    read = answers_from(file, quotes=True).probabilities(["cup", "see,bad\ntea,bad\n"])
    assert torch.allclose(read, torch.tensor([certain[0], certain[0]]))
    file.write_text('text,answer\n"tea",bad\ncup,good\n')
    rows = Dataset.from_dict({"text": ['"tea"', "cup"]})
    assert [answers_from(file, quotes=q).answers_all(rows) for q in (False, None)] == [True, False]
    file.write_text("")
    with pytest.raises(AnswerError, match=r"answers\.csv is empty\. Save it with a header, the names of its"):
        answers_from(file)


def test_true_and_false_are_the_classes_that_they_are_to_load(tmp_path):
    rows = [{"text": "a", "label": True}, {"text": "b", "label": False}]
    teacher = answers_from(jsonl(tmp_path / "a.jsonl", rows))
    assert teacher.classes == load(tmp_path / "a.jsonl")["train"].features["label"].names == ["False", "True"]
    assert teacher.probabilities(["a", "b"]).argmax(-1).tolist() == [1, 0]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "xlsx"])
def test_true_and_false_are_read_with_a_confidence_and_in_columns_of_classes(tmp_path, kind):
    if kind == "xlsx":
        pytest.importorskip("openpyxl")

    def written(**columns):
        frame, file = pd.DataFrame({"text": ["a", "b"], **columns}), tmp_path / f"answers.{kind}"
        if kind == "jsonl":
            frame.to_json(file, orient="records", lines=True)
        else:
            write = {"csv": frame.to_csv, "parquet": frame.to_parquet, "xlsx": frame.to_excel}[kind]
            write(file, index=False)
        return file

    sure = answers_from(written(label=[True, False], confidence=[0.75, 0.6]))
    assert sure.classes == ["False", "True"]
    assert torch.allclose(sure.probabilities(["a", "b"]), torch.tensor([[0.25, 0.75], [0.6, 0.4]]))
    several = answers_from(written(x=[True, False], y=[True, True]), ["x", "y"], multi_label=True)
    assert (several.logits(["a", "b"]) > 0).tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.xlsx"])
def test_packed_files_and_sheets_of_answers_are_read(tmp_path, name):
    rows = pd.DataFrame({"text": TEXTS, "negative": WANTED[:, 0], "positive": WANTED[:, 1]})
    if name.endswith(".xlsx"):
        pytest.importorskip("openpyxl")
        rows.to_excel(tmp_path / name, index=False)
    elif name.startswith("a.csv"):
        rows.to_csv(tmp_path / name, index=False)
    else:
        rows.to_json(tmp_path / name, orient="records", lines=True, double_precision=15)
    assert torch.allclose(answers_from(tmp_path / name, CLASSES).probabilities(TEXTS), WANTED)


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        (
            "a.json",
            '{"text": "tea", "answer": "a"}\n\n{"text": "tea", "answer": "b"}\n',
            r"line 3 .* on line 1",
        ),
        (
            "a.jsonl",
            '[{"text": "tea", "answer": "a"},\n\n{"text": "tea", "answer": "b"}]',
            r"entry 2 .* on entry 1",
        ),
        ("a.csv", "text,answer\ntea,a\n\ntea,b\n", r"line 4 .* on line 2"),
    ],
)
def test_a_row_is_named_by_where_it_stands_whatever_the_file_is_called(tmp_path, name, content, place):
    (tmp_path / name).write_text(content)
    with pytest.raises(AnswerError, match=place):
        answers_from(tmp_path / name)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("start", ["[", '{"text": ['])
def test_what_is_nested_too_deeply_is_refused(tmp_path, name, start):
    (tmp_path / name).write_text(start + "[" * 200_000)
    with pytest.raises(AnswerError, match=r"deeper than can be read.*Write an array of objects"):
        answers_from(tmp_path / name)
    (tmp_path / name).write_text('{"text": "tea", "answer": "a"}\n' + start + "[" * 200_000)
    with pytest.raises(AnswerError, match=r"line 2, holds no object.*Write one object a line"):
        answers_from(tmp_path / name)


def test_columns_of_the_classes_are_the_answers_where_labels_name_them(tmp_path):
    """The labels beside them may be those of people; with classes= and without, the same is read."""
    path = tmp_path / "answers.csv"
    path.write_text("text,label,good,bad\na,good,0.2,0.8\nb,bad,0.7,0.3\n")
    for classes in (None, ["bad", "good"]):
        teacher = answers_from(path, classes)
        found = teacher.probabilities(["a", "b"])[:, teacher.classes.index("good")]
        assert found.tolist() == pytest.approx([0.2, 0.7])
    of_people = answers_from(path, answer="label")
    assert of_people.probabilities(["a"])[0].tolist() == pytest.approx([0, 1], abs=1e-6)


def test_classes_that_labels_write_in_several_cases_are_one(tmp_path):
    path = tmp_path / "answers.csv"
    path.write_text("text,label\na,Good\nb,bad\nc,good\nd,Bad \n")
    teacher = answers_from(path)
    assert teacher.classes == ["Bad", "Good"]
    assert teacher.logits(["a", "b", "c", "d"]).argmax(-1).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("classes", [None, ["none", "Joy"]])
def test_what_predict_writes_is_read_whole(classes, tmp_path):
    """Beside the labels of people and the answers, which would be one class alone."""
    path = tmp_path / "labelled.csv"
    path.write_text(
        "text,label,prediction,probability,probability_Joy,probability_None\na,None,Joy,0.7,0.7,0.3\n"
    )
    teacher = answers_from(path, classes)
    found = teacher.probabilities(["a"])[0, [name.lower() for name in teacher.classes].index("joy")]
    assert float(found) == pytest.approx(0.7)
    assert len(teacher.classes) == 2
