"""Files of rows with a student's predictions beside them."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertForTokenClassification

import hfdistill
from hfdistill.prediction.label_file import predict
from hfdistill.prediction.predictor import Predictor, load_predictor
from tests.conftest import make_bert, make_sentences, make_tokenizer

TEXTS = [text for text, _ in make_sentences(20)]
OF_THREE = {0: "bad", 1: "fair, or so", 2: "good"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Students of each task, with their tokenizer."""
    folder = tmp_path_factory.mktemp("students")
    several = {"labels": OF_THREE, "problem_type": "multi_label_classification"}
    words = make_bert(2, seed=4, labels={0: "O", 1: "B-X"}).config
    torch.manual_seed(5)
    made = {
        "student": make_bert(2, seed=1, labels=OF_THREE),
        "several": make_bert(2, seed=2, **several),
        "number": make_bert(2, seed=3, labels={0: "score"}),
        "words": BertForTokenClassification(words),
    }
    for name, model in made.items():
        model.save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Path("rows.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "text", "note"])
        writer.writerows([f"{n:03}", text, 'a, "b"\nc'] for n, text in enumerate(TEXTS))
    return tmp_path


def alone(path, text, *pair):
    """Logits of one text, as Transformers gives them."""
    model = hfdistill.load_classifier(path)
    with torch.inference_mode():
        return model(**make_tokenizer()(text, *pair, return_tensors="pt")).logits[0]


def read_csv(path, delimiter=","):
    with Path(path).open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter=delimiter))


def test_a_csv_keeps_its_cells_and_order_and_gets_class_and_probabilities(folder, here):
    counts = predict(folder / "student", "rows.csv", "out/labelled.csv")
    rows, before = read_csv("out/labelled.csv"), read_csv("rows.csv")
    shares = [f"probability_{name}" for name in OF_THREE.values()]
    assert list(rows[0]) == ["id", "text", "note", "prediction", "probability", *shares]
    assert [{name: row[name] for name in before[0]} for row in rows] == before
    for row in rows:
        expected = alone(folder / "student", row["text"]).softmax(-1)
        assert [float(row[name]) for name in shares] == pytest.approx(expected.tolist(), abs=2e-6)
        assert row["prediction"] == OF_THREE[int(expected.argmax())]
        assert float(row["probability"]) == pytest.approx(float(expected.max()), abs=2e-6)
    assert (counts.rows, counts.without_text, sum(counts.classes.values())) == (20, 0, 20)


def test_a_csv_of_excel_is_written_so_that_excel_reads_it(folder, here):
    rows = "text;note\r\ngood film;\u00dcberweisung\r\n"
    for name, encoding, mark in (("a", "utf-8-sig", True), ("b", "utf-16", True), ("c", "utf-8", False)):
        Path(f"{name}.csv").write_bytes(rows.encode(encoding))
        predict(folder / "student", f"{name}.csv", f"{name}_out.csv")
        written = Path(f"{name}_out.csv").read_bytes()
        assert written.startswith(b"\xef\xbb\xbf") is mark
        lines = written.decode("utf-8-sig").splitlines()
        assert lines[0].startswith("text;note;prediction;")
        assert lines[1].startswith("good film;\u00dcberweisung;")
        predict(folder / "student", f"{name}_out.csv", "again.csv", prefix="again_")
    predict(folder / "student", "a.csv", "a.jsonl")
    assert Path("a.jsonl").read_bytes().startswith(b'{"text"')


def test_a_csv_keeps_its_delimiter_packed_or_in_capitals(folder, here):
    rows = b"text;note\ngood film;a,b\n"
    (here / "rows.CSV").write_bytes(rows)
    (here / "packed.csv.gz").write_bytes(gzip.compress(rows))
    for name in ("rows.CSV", "packed.csv.gz"):
        predict(folder / "student", name, "out.csv")
        assert (here / "out.csv").read_text().splitlines()[0].startswith("text;note;prediction;")


def test_rows_come_out_the_same_however_many_are_held(folder, here, monkeypatch):
    predict(folder / "student", "rows.csv", "whole.csv")
    monkeypatch.setattr("hfdistill.data.row_files._ROWS", 3)
    predict(folder / "student", "rows.csv", "parts.csv", batch_size=2)
    whole, parts = read_csv("whole.csv"), read_csv("parts.csv")
    for one, other in zip(whole, parts, strict=True):
        numbers = [name for name in one if name.startswith("probability")]
        assert [float(one.pop(n)) for n in numbers] == pytest.approx(
            [float(other.pop(n)) for n in numbers], abs=2e-6
        )
        assert one == other


def test_json_keeps_nested_values_and_rows_without_text_get_nothing(folder, here):
    rows = [
        {"text": TEXTS[0], "meta": {"likes": [1, 2]}, "n": 12345678901234567890},
        {"text": None, "extra": "é"},
        {"text": "  "},
        {"text": TEXTS[1]},
    ]
    (here / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    counts = predict(folder / "student", "rows.jsonl", "labelled.jsonl")
    labelled = [json.loads(line) for line in (here / "labelled.jsonl").read_text().splitlines()]
    for row, new in zip(rows, labelled, strict=True):
        assert {name: new[name] for name in row} == row
    assert [new["prediction"] is None for new in labelled] == [False, True, True, False]
    assert (counts.rows, counts.without_text) == (4, 2)


def test_parquet_keeps_its_types_and_any_kind_becomes_any_other(folder, here):
    table = pa.table({
        "text": pa.array(TEXTS).dictionary_encode(),
        "when": pa.array(range(20), pa.timestamp("s")),
        "tags": pa.array([["a", "b"]] * 20),
    })  # fmt: skip
    pq.write_table(table, "rows.parquet")
    predict(folder / "student", "rows.parquet", "labelled.parquet")
    labelled = pq.read_table("labelled.parquet")
    assert labelled.select(table.column_names).equals(pq.read_table("rows.parquet"))
    names = labelled["prediction"].to_pylist()
    for source in ("rows.parquet", "rows.csv", "labelled.jsonl"):
        for out in ("labelled.jsonl", "again.csv", "again.tsv", "again.parquet"):
            if source != out:
                predict(folder / "student", source, out, prefix="new_" if "labelled" in source else "")
    prefixed = [json.loads(line)["prediction"] for line in (here / "labelled.jsonl").read_text().splitlines()]
    assert prefixed == names
    assert [row["new_prediction"] for row in read_csv("again.tsv", "\t")] == names
    assert pq.read_table("again.parquet")["new_prediction"].to_pylist() == names


def test_pairs_are_read_as_pairs(folder, here):
    (here / "pairs.tsv").write_text(
        "premise\thypothesis\n" + f"{TEXTS[0]}\t{TEXTS[1]}\n{TEXTS[1]}\t{TEXTS[0]}\n"
    )
    predict(folder / "student", "pairs.tsv", "labelled.tsv")
    for row in read_csv("labelled.tsv", "\t"):
        expected = alone(folder / "student", row["premise"], row["hypothesis"]).softmax(-1)
        assert float(row["probability"]) == pytest.approx(float(expected.max()), abs=2e-6)


def test_several_classes_a_row(folder, here):
    predict(folder / "several", "rows.csv", "labelled.csv")
    for row in read_csv("labelled.csv"):
        expected = alone(folder / "several", row["text"]).sigmoid()
        names = [name for name, share in zip(OF_THREE.values(), expected, strict=True) if share > 0.5]
        assert json.loads(row["prediction"]) == names
        assert float(row["probability_bad"]) == pytest.approx(float(expected[0]), abs=2e-6)


def test_numbers(folder, here):
    predict(folder / "number", "rows.csv", "labelled.csv")
    for row in read_csv("labelled.csv"):
        assert float(row["prediction"]) == pytest.approx(
            float(alone(folder / "number", row["text"])), abs=2e-6
        )
        assert "probability" not in row


def test_words(folder, here):
    rows = [{"tokens": text.split()} for text in TEXTS[:3]] + [{"tokens": ["good"] * 40}, {"tokens": []}]
    (here / "words.jsonl").write_text("\n".join(map(json.dumps, rows)))
    predict(folder / "words", "words.jsonl", "labelled.jsonl")
    labelled = [json.loads(line) for line in (here / "labelled.jsonl").read_text().splitlines()]
    model = BertForTokenClassification.from_pretrained(folder / "words").eval()
    for row in labelled[:3]:
        with torch.inference_mode():
            logits = model(**make_tokenizer()(" ".join(row["tokens"]), return_tensors="pt")).logits[0, 1:-1]
        assert row["prediction"] == [model.config.id2label[i] for i in logits.argmax(-1).tolist()]
        assert row["probability"] == pytest.approx(logits.softmax(-1).amax(-1).tolist(), abs=2e-6)
    assert len(labelled[3]["prediction"]) == 40
    assert labelled[3]["prediction"][30:] == [None] * 10  # of 32 tokens two are special
    assert labelled[4]["prediction"] is None


def test_words_of_a_csv_that_was_written_here_are_the_same_words(folder, here):
    rows = [{"tokens": ["good", "film", ","]}, {"tokens": ["good", "", "film"]}, {"tokens": [" "]}]
    (here / "words.jsonl").write_text("\n".join(map(json.dumps, rows)))
    counts = predict(folder / "words", "words.jsonl", "labelled.csv")
    assert counts.without_text == 1
    before = read_csv("labelled.csv")
    predict(folder / "words", "labelled.csv", "again.csv", prefix="new_")
    assert [row["new_prediction"] for row in read_csv("again.csv")] == [row["prediction"] for row in before]
    assert [label is None for label in json.loads(before[1]["prediction"])] == [False, True, False]
    (here / "plain.csv").write_text("tokens\ngood film\n[1] 2\n[1]\n")
    predict(folder / "words", "plain.csv", "plain.jsonl")
    lines = (here / "plain.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["prediction"]) for line in lines] == [2, 2, 1]


def test_a_column_of_words_that_is_not_there_is_refused(folder, here):
    (here / "words.jsonl").write_text(json.dumps({"words": ["good", "film"]}))
    with pytest.raises(ValueError, match=r"no column 'wrods', found \['words'\]\. Did you mean text='words'"):
        predict(folder / "words", "words.jsonl", "labelled.jsonl", text="wrods")
    predict(folder / "words", "words.jsonl", "named.jsonl", text="Words")
    predict(folder / "words", "words.jsonl", "found.jsonl")
    assert (here / "named.jsonl").read_text() == (here / "found.jsonl").read_text()


def test_an_export_gives_the_predictions_of_its_student(here):
    pytest.importorskip("onnxruntime")
    make_bert(1, seed=1, labels=OF_THREE).save_pretrained("student")  # torch.export takes a second a layer
    make_tokenizer().save_pretrained("student")
    hfdistill.export("student", "onnx", int8=None, speed=False)
    predict("student", "rows.csv", "torch.csv")
    predict("onnx", "rows.csv", "onnx.csv")
    predict("onnx/model.onnx", "rows.csv", "file.csv")
    for one, other in zip(read_csv("torch.csv"), read_csv("onnx.csv"), strict=True):
        assert one["prediction"] == other["prediction"]
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=1e-5)
    assert read_csv("file.csv") == read_csv("onnx.csv")


def test_the_file_has_its_name_when_it_is_whole(folder, here, monkeypatch):
    (here / "labelled.csv").write_text("of before")
    monkeypatch.setattr("hfdistill.data.row_files._ROWS", 8)
    calls = []

    def fails_late(self, texts):
        assert (here / "labelled.csv").read_text() == "of before"
        calls.append(len(texts["text"]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return [torch.zeros(3)] * calls[-1]

    monkeypatch.setattr(Predictor, "predict", fails_late)
    with pytest.raises(KeyboardInterrupt):
        predict(folder / "student", "rows.csv", "labelled.csv")
    assert calls == [8, 8, 4]
    assert sorted(path.name for path in here.iterdir()) == ["labelled.csv", "rows.csv"]
    assert (here / "labelled.csv").read_text() == "of before"


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("rows.csv", {}, "is what is read"),
        ("labelled.xlsx", {}, "only .csv, .tsv, .jsonl, .parquet are written"),
        ("labelled.csv", {"label_names": ["a", "b"]}, "has 3 classes .* names 2: 'a', 'b'. Name each"),
        ("labelled.csv", {"label_names": {"x", "y", "z"}}, "names 0: .*'y'.* in a list in the order of its"),
        ("labelled.csv", {"label_names": "xyz"}, "names 0: 'xyz'. Name each one, in a list"),
        ("labelled.csv", {"label_names": ["x", "y", "x"]}, "Several of the student's classes are called 'x'"),
        ("labelled.csv", {"batch_size": 0}, "batch_size is 0, and 1 or more"),
        ("labelled.csv", {"text": "txt"}, "Did you mean text='text'"),
        ("labelled.csv", {"text": "id", "text_pair": "txt"}, "no column 'txt'"),
    ],
)
def test_refusals_leave_no_file(folder, here, out, options, message):
    before = (here / "rows.csv").read_bytes()
    with pytest.raises(ValueError, match=message):
        predict(folder / "student", "rows.csv", out, **options)
    assert [path.name for path in here.iterdir()] == ["rows.csv"]
    assert (here / "rows.csv").read_bytes() == before


def test_columns_of_these_names_are_not_overwritten(folder, here):
    (here / "rows.csv").write_text("text,prediction\na film,x\n")
    with pytest.raises(ValueError, match=r"\['prediction'\] already"):
        predict(folder / "student", "rows.csv", "labelled.csv")


def test_a_bad_line_is_told_before_the_student_is_loaded(here):
    (here / "rows.csv").write_text("id,text\n1,a film\n2,a film, cold\n3,a plot\n")
    with pytest.raises(ValueError, match="line 3 has 3 cells"):
        predict("no/such/student", "rows.csv", "labelled.csv")


def test_a_bad_line_may_be_left_out(folder, here):
    (here / "rows.csv").write_text("id,text\n1,a film\n2,a film, cold\n3,a plot\n")
    counts = predict(folder / "student", "rows.csv", "labelled.csv", on_bad_row="drop")
    assert [row["id"] for row in read_csv("labelled.csv")] == ["1", "3"]
    assert (counts.rows, counts.dropped) == (2, 1)


def test_logits_that_are_not_finite_are_refused(folder, here):
    predictor = load_predictor(folder / "student")
    with torch.no_grad():
        predictor.network.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        predictor.predict({"text": TEXTS[:2]})


def test_names_may_be_told(folder, here):
    for names in (["x", "y", "z"], ("x", "y", "z"), np.array([7, 8, 9])):
        predict(folder / "student", "rows.csv", "labelled.csv", label_names=names)
        assert {row["prediction"] for row in read_csv("labelled.csv")} <= {str(name) for name in names}


def test_values_of_several_types_do_not_go_into_a_parquet_column(folder, here):
    Path("mixed.jsonl").write_text('{"text": "good", "n": "a"}\n{"text": "bad", "n": 5}\n')
    with pytest.raises(ValueError, match=r"holds values of several types .* Write a \.jsonl file"):
        predict(folder / "student", "mixed.jsonl", "labelled.parquet")
    predict(folder / "student", "mixed.jsonl", "labelled.jsonl")
    assert [json.loads(line)["n"] for line in Path("labelled.jsonl").read_text().splitlines()] == ["a", 5]


def test_texts_in_memory_are_for_a_pipeline():
    with pytest.raises(TypeError, match=r"argument of predict is the path of a file, found a list\. For"):
        predict("student", ["a good film"], "out.csv")
