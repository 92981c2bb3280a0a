"""`hfdistill init`, `predict` and `compare`, and what is said of mistyped words."""

import csv
import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, DatasetDict

import hfdistill
from hfdistill.cli import main
from hfdistill.data.table_files import FileOptions
from hfdistill.evaluation.report import Report
from hfdistill.evaluation.side_by_side import side_by_side
from hfdistill.recipe import draft
from tests.conftest import make_bert, make_sentences, make_tokenizer
from tests.recipe import material

pytestmark = pytest.mark.usefixtures("dots")


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    folder = material.make(tmp_path_factory.mktemp("things"))
    material.save(make_bert(2, seed=7), folder / "out" / "tiny" / "student")
    return folder


@pytest.fixture
def here(things, tmp_path, monkeypatch):
    for path in things.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    with (tmp_path / "mail.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["ticket", "what they wrote", "team"])
        for number, (text, label) in enumerate(make_sentences(60)):
            writer.writerow([f"T{number}", f"{text} {PLAIN[number % 7]} {PLAIN[number % 5]}", TEAMS[label]])
    return tmp_path


STUDENT = "out/tiny/student"
PLAIN, TEAMS = ["the", "a", "film", "story", "plot", "cast", "with"], ["billing", "post, and more"]


def test_init_counts_the_rare_classes_that_it_does_not_name(here, capsys):
    rows = "".join(f"text {number},class {number % 7}\n" for number in range(14))
    (here / "rare.csv").write_text("text,label\n" + rows)
    assert main(["init", "rare.csv", "--encoder", "encoder", "--page", "rare.yaml"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "under 10 rows: class 0, class 1, class 2, class 3, class 4 and 2 more. No student" in told


def test_init_writes_a_page_that_trains(here, capsys):
    assert main(["init", "mail.csv", "--encoder", "encoder"]) == 0
    told = capsys.readouterr().out
    page = (here / "hfdistill.yaml").read_text()
    assert "rows: train 60" in told
    assert "text: column 'what they wrote'" in told
    assert "label: column 'team'" in told
    assert "2 classes: billing 30, post, and more 30" in told
    assert "  hfdistill train hfdistill.yaml --check" in told
    assert "  text: what they wrote\n  label: team\n" in page
    assert "  # classes and their rows: billing 30, post, and more 30\n" in page
    assert "  holdout: 0.1  #" in page
    assert "  # not read: ticket\n" in page
    overrides = ["student.shrink.layers=2", "training.use_cpu=true"]
    assert main(["train", "hfdistill.yaml", "--check", *overrides]) == 0
    assert main(["train", "hfdistill.yaml", "--smoke", *overrides]) == 0
    assert (here / "out" / "mail" / "smoke").is_dir()


def test_init_overwrites_nothing_unasked(here, capsys):
    (here / "mine.yaml").write_text("teacher: mine\n")
    assert main(["init", "mail.csv", "--page", "mine.yaml"]) == 1
    assert "mine.yaml exists. Type --overwrite" in capsys.readouterr().err
    assert (here / "mine.yaml").read_text() == "teacher: mine\n"
    assert main(["init", "mail.csv", "--page", "mine.yaml", "--overwrite"]) == 0
    assert "google-bert/bert-base-uncased" in (here / "mine.yaml").read_text()


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("text,label\n" + "ein warmer Film für müde Füße,1\nder öde Schluß,0\n" * 9,
         ["encoder: FacebookAI/xlm-roberta-base", "# classes and their rows: 0 9, 1 9", "# label_names: ["]),
        ("question,passage,label\nwas it warm,it was warm,yes\n" + "a b,c d,no\n" * 9,
         ["text: question", "text_pair: passage", "label: label"]),
        ("review;score\n" + "a warm film;0.75\na dull plot;0.25\n" * 9, ["delimiter: "]),
    ],
)  # fmt: skip
def test_init_writes_what_the_rows_need(here, content, lines):
    (here / "rows.csv").write_text(content)
    words = ["--delimiter", ";"] if ";" in content else []
    assert main(["init", "rows.csv", "--overwrite", *words]) == 0
    page = (here / "hfdistill.yaml").read_text()
    for line in lines:
        assert line in page
    recipe = hfdistill.read_recipe(here / "hfdistill.yaml")
    assert str(recipe.load["source"]).endswith("rows.csv")


def test_init_refuses_rows_without_labels(here, capsys):
    (here / "comments.csv").unlink()
    (here / "comments.csv").write_text("comment\na warm film\nthe plot\n")
    assert main(["init", "comments.csv"]) == 1
    assert "--label" in capsys.readouterr().err
    assert not (here / "hfdistill.yaml").exists()


def test_predict_writes_the_file_and_counts_classes(here, capsys):
    words = [
        "predict",
        "out/tiny/student",
        "mail.csv",
        "--text",
        "what they wrote",
        "--out",
        "labelled.jsonl",
    ]
    assert main(words) == 0
    rows = [json.loads(line) for line in (here / "labelled.jsonl").read_text().splitlines()]
    counts = {name: sum(row["prediction"] == name for row in rows) for name in ("negative", "positive")}
    assert len(rows) == 60
    told = capsys.readouterr().out
    assert told.startswith("labelled.jsonl: 60 rows in ")
    for name, count in counts.items():
        assert not count or f"{count:>9}  {name}\n" in told


def test_compare_says_who_is_right_and_where_they_differ(here, capsys):
    assert main(["compare", "out/tiny/student", "teacher", "--data", "two", "--out", "report.json"]) == 0
    told = capsys.readouterr().out
    report = Report.load("report.json")
    difference = report.differences[0]
    right = [100 * model.metrics["accuracy"] for model in (report.student, report.teacher)]
    assert f"A minus B: accuracy {right[0] - right[1]:+.1f} points, 95 % interval" in told
    assert f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}" in told
    agreement = 100 * report.student.fidelity["agreement"]
    assert f"they give the same prediction for {agreement:.1f} % of the rows" in told
    assert "A: out/tiny/student\nB: teacher\n" in told
    lines = told.splitlines()
    for one in report.classes:
        row = next(line for line in lines if line.startswith(one.label))
        differ = one.teacher_wrong - one.same_wrong - one.corrected
        assert row.split()[-3:] == [str(one.corrected), str(one.new), str(differ)]


def test_compare_without_labels_lists_pairs_of_predictions(here):
    models = [make_bert(2, seed=seed, labels={0: "bad", 1: "fair", 2: "good"}) for seed in (1, 2)]
    data = material.rows("three", 40).remove_columns("label")
    report = hfdistill.measure(
        models[0], data, teacher=hfdistill.Contender(models[1]), tokenizer=make_tokenizer(), speed=None
    )
    text = side_by_side(report, "one", "other")
    with torch.inference_mode():
        answers = [
            [int(m(**make_tokenizer()(t, return_tensors="pt")).logits.argmax()) for t in data["text"]]
            for m in models
        ]
    names = ["bad", "fair", "good"]
    pairs = [(names[a], names[b]) for a, b in zip(*answers, strict=True) if a != b]
    assert pairs
    for pair in set(pairs):
        assert [*pair, str(pairs.count(pair))] in [line.split() for line in text.splitlines()]
    assert "minus" not in text


def test_the_version_and_a_bare_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"hfdistill {hfdistill.__version__}\n"
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: hfdistill")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["trian", "page.yaml"], "Did you mean train?"),
        (["train", "page.yaml", "--chek"], "Did you mean --check?"),
        (["measure", "out", "--dta", "two"], "Did you mean --data?"),
        (["measure", "out", "--data", "two", "--labl=x"], "Did you mean --label?"),
        (["measure", "out", "--data", "two", "--output", "x"], "Did you mean --out?"),
        (["init", "rows.csv", "--no-qoutes"], "Did you mean --no-quotes?"),
        (["init", "rows.csv", "--out", "page.yaml"], "unrecognized argument: --out"),  # --no-quotes is far
        (["train", "page.yaml", "--out", "folder"], "unrecognized argument: --out"),  # and so is --timeout
        (["train", "page.yaml", "--teacher", "folder"], "unrecognized argument: --teacher"),
        (["export", "a", "b", "--data", "c", "--int8", "dynamc"], "Did you mean dynamic?"),
    ],
)
def test_mistyped_words_are_told_what_was_meant(capsys, words, meant):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err.rstrip().endswith(meant)


@pytest.mark.parametrize(
    ("model", "meant"),
    [
        ("out/tiny", "Did you mean 'out/tiny/student'?"),
        ("out", "Did you mean 'out/tiny/student'?"),
        ("out/tinny/student", "Did you mean 'out/tiny/student'?"),
        ("out/tinny", "Did you mean 'out/tiny'?"),
        ("out/ti ny", "Did you mean 'out/tiny'?"),
        ("./teachr", "Did you mean 'teacher'?"),
        ("two", "Type a folder that holds a config.json"),
        ("mail.csv", "is a file, and a model is a folder"),
    ],
)
def test_a_mistyped_folder_is_told_what_was_meant(here, capsys, model, meant):
    for words in (["measure", model, "--data", "two"], ["compare", "teacher", model, "--data", "two"]):
        assert main([*words, "--rows", "4"]) == 1
        assert meant in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match=r"[Nn]ame|mean|folder"):
        hfdistill.load_classifier(model)


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["predict", STUDENT, "both.csv", "--out", "x.csv"], "Say which: --text ... (and --text-pair ...)"),
        (["measure", STUDENT, "--data", "two.csv"], "Say which: --delimiter ';'"),
    ],
)
def test_what_the_library_calls_an_argument_is_a_flag_here(here, capsys, words, flags):
    (here / "two.csv").write_text("text;x|label\na;b|1\n")
    (here / "both.csv").write_text("about,message\nthe film,it was warm\nthe cast,it was fine\n")
    assert main(words) == 1
    assert flags in capsys.readouterr().err


def test_a_traceback_is_shown_where_it_is_asked_for(capsys, monkeypatch):
    words = ["init", "data", "--page", "page.txt"]
    assert main(words) == 1
    assert "--page is 'page.txt', and a page ends in .yaml. Type --page page.yaml." in capsys.readouterr().err
    monkeypatch.setenv("HFDISTILL_TRACEBACK", "1")
    with pytest.raises(ValueError, match=r"a page ends in .yaml"):
        main(words)


@pytest.mark.parametrize("words", [["init", "mail.csv"], ["train", "mail.yaml"]])
def test_a_row_without_a_label_is_left_out_by_what_is_said(here, capsys, words):
    lines = [f"{text},{label}" for text, label in make_sentences(24)]
    (here / "mail.csv").write_text("\n".join(["text,label", *lines, "a mail,", ""]))
    (here / "mail.yaml").write_text(
        "teacher: teacher\nstudent: {shrink: {layers: 1}}\ndata: {source: mail.csv}\n"
        "training: {output_dir: out/mail}\n"
    )
    assert main([*words, *(["--check"] if words[0] == "train" else [])]) == 1
    said = "on_bad_row: drop" if words[0] == "train" else "--on-bad-row drop"
    assert f"leave them out with {said}." in capsys.readouterr().err


def test_predict_counts_what_it_left_out(capsys, monkeypatch):
    classes = Counter({f"LABEL_{number}": 20 - number for number in range(12)})
    done = SimpleNamespace(rows=1200, classes=classes, without_text=3, dropped=2)
    monkeypatch.setattr("hfdistill.prediction.label_file.predict", lambda *places, **options: done)
    assert main(["predict", "student", "mail.csv", "--out", "labelled.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("labelled.csv: 1,200 rows in ")
    assert lines[1] == "         20  LABEL_0"
    assert lines[11:] == [
        "  and 2 more classes",
        "3 rows hold no text and have no prediction",
        "2 lines of mail.csv are not rows and were left out",
        "The student's classes have no names. Type them: --label-names NAME NAME …",
    ]


def test_a_page_is_drafted_of_words_and_of_texts_under_other_names():
    words = DatasetDict(train=Dataset.from_dict({"tokens": [["a"]], "tags": [[0]]}))
    assert draft._columns(words, None, None, "tags") == draft._Columns(None, None, "tags", [])
    facts = draft._Facts(rows=1, tokens=1, foreign=False, words=True, measured=True, classes=None)
    named = draft._Columns(None, None, None, [])
    lines = draft._data_lines("rows.csv", named, FileOptions(on_bad_row="drop"), facts)
    assert lines == ["data:", "  source: rows.csv", "  on_bad_row: drop"]
    summary = draft._summary(words, named, facts)
    assert summary[0] == "rows: train 1"
    assert not any(line.startswith(("text:", "label:")) for line in summary)


@pytest.mark.parametrize(
    ("classes", "line"),
    [
        ({"1": 4, "0": 9}, "  # label_names: [name of 0, name of 1]  # the classes have no names yet"),
        ({"5": 4, "1": 9}, "  # label_names: ['1', '5']  # for a student of these classes alone"),
        ({"01": 4, "02": 9}, None),  # names that are codes
        ({"False": 4, "True": 9}, None),
    ],
)
def test_a_page_proposes_names_to_classes_without_them(classes, line):
    facts = draft._Facts(rows=13, tokens=1, foreign=False, words=False, measured=True, classes=classes)
    lines = draft._data_lines("rows.csv", draft._Columns("text", None, "label", []), FileOptions(), facts)
    assert lines[4].startswith("  # classes and their rows: ")
    assert lines[5:] == ([] if line is None else [line])


def test_numbers_alone_are_no_page():
    rows = DatasetDict(train=Dataset.from_dict({"a": [1, 2], "b": [0.5, 1.5]}))
    with pytest.raises(ValueError, match="text="):
        draft._columns(rows, None, None, None)


def test_export_reads_rows_to_calibrate_from_their_training_split(monkeypatch, capsys):
    asked = []

    def rows(args, *, usual="validation"):
        asked.append((args.data, args.split, usual))
        return args.data

    def exported(student, folder, **options):
        asked.append((options["calibration"], options["data"]))
        return SimpleNamespace(table=lambda: "the table")

    monkeypatch.setattr("hfdistill.cli.export.rows", rows)
    monkeypatch.setattr("hfdistill.exporters.export", exported)
    words = ["export", "student", "onnx", "--data", "two", "--split", "test", "--calibration", "more"]
    assert main(words) == 0
    assert asked == [("more", None, "train"), ("two", "test", "validation"), ("more", "two")]
    assert capsys.readouterr().out == "the table\n"
