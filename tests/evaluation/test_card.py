import dataclasses
import random
import re
import time
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hfdistill.evaluation.card import write_card
from hfdistill.evaluation.comparison import compare_students
from hfdistill.evaluation.measure import measure
from hfdistill.evaluation.plots import write_plots
from hfdistill.evaluation.report import Difference, Report
from hfdistill.evaluation.speed import SpeedPlan
from hfdistill.files.markdown import escape
from hfdistill.files.plain_data import printable, public_name
from tests.conftest import make_bert, make_dataset, make_report, make_tokenizer

QUICK = SpeedPlan(latency_rows=3, batch_size=4, throughput_rows=8, repeats=2)


@pytest.fixture(scope="module")
def report():
    return make_report(
        {
            "objective": "0.5 * CrossEntropy() + 0.5 * KD(temperature=4)",
            "seeds": [0, 1],
            "recipe": {"lr": 5e-5},
        }
    )


def body_of(path):
    """The text that readers see, and the metadata that the Hub sees."""
    card = ModelCard.load(path)
    return card.text, card.data.to_dict()


def test_header(report, tmp_path):
    path = write_card(
        tmp_path,
        report,
        base_model="owner/big",
        dataset="owner/films",
        license="apache-2.0",
        model_name="me/small",
        metadata={"language": "en", "tags": ["sentiment", "hfdistill"]},
    )
    assert path == tmp_path / "README.md"
    _, data = body_of(path)
    index = data.pop("model-index")
    assert data == {
        "base_model": "owner/big",
        "base_model_relation": "finetune",
        "datasets": ["owner/films"],
        "language": "en",
        "library_name": "transformers",
        "license": "apache-2.0",
        "metrics": ["accuracy", "f1"],
        "pipeline_tag": "text-classification",
        "tags": ["hfdistill", "knowledge-distillation", "text-classification", "sentiment"],
    }
    assert index[0]["name"] == "me/small"
    result = index[0]["results"][0]
    assert result["dataset"] == {"name": "owner/films", "type": "owner/films"}
    accuracy = result["metrics"][0]
    assert (accuracy["type"], accuracy["verified"]) == ("accuracy", False)
    assert accuracy["value"] == round(report.student.metrics["accuracy"], 4)
    assert [m["type"] for m in result["metrics"]] == ["accuracy", "f1", "ece", "agreement"]


def test_a_report_may_be_named_by_its_file(report, tmp_path, dots):
    path, names = report.save(tmp_path / "report.json"), {"base_model": "org/teacher", "dataset": "org/data"}
    written = write_card(tmp_path, Report.load(path), **names).read_bytes()
    assert write_card(tmp_path, str(path), **names).read_bytes() == written
    assert write_plots(tmp_path, path) == write_plots(tmp_path, report)
    with pytest.raises(TypeError, match="Found a NoneType in the place of a report"):
        write_card(tmp_path, None, **names)


def test_body_tells_results_cost_training_and_limits(report, tmp_path):
    told = dataclasses.replace(report, differences=(Difference("baseline", "accuracy", 0.01, -0.02, 0.04),))
    text, _ = body_of(
        write_card(tmp_path, told, base_model="owner/big", dataset="films", dataset_license="CC BY 4.0")
    )
    accuracy, error = report.student.metrics["accuracy"], report.student.metrics["accuracy_se"]
    assert f"| **this student** (small) | {100 * accuracy:.1f} % ± {100 * error:.1f} |" in text
    assert "95 % interval -2.0 to +4.0, which includes 0 (same 32 rows)." in text
    assert f"wrong, the student repeats {report.errors.same_wrong} wrong answers" in text
    assert "- Data: films, licence CC BY 4.0" in text
    assert "<code>0.5 &#42; CrossEntropy&#40;&#41; + 0.5 &#42; KD&#40;temperature=4&#41;</code>" in text
    assert "lr: 5.0e-05" in text
    assert "| undistilled student |" in text
    assert f"torch {report.environment.torch}" in text
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# small", "## Use", "## Results", "## Size and speed", "## Training", "## Limits",
        "## How this card was made",
    ]  # fmt: skip
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_a_small_student_has_more_than_no_megabytes(report, tmp_path):
    small = dataclasses.replace(report, student=dataclasses.replace(report.student, size_mb=0.0284))
    body = write_card(tmp_path, small, base_model="t", dataset="d").read_text()
    assert [line for line in body.splitlines() if " | 0.028 | " in line]
    (row,) = [line for line in compare_students({"a": [small]}).splitlines() if line.startswith("| a")]
    assert " | 0.028 | " in row


def test_every_table_row_has_the_cells_of_its_header(report, tmp_path):
    text, _ = body_of(write_card(tmp_path, report, base_model="big", dataset="films"))
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


@pytest.mark.filterwarnings("ignore:The `grad_fn`:UserWarning")
@pytest.mark.parametrize("pairs", [False, True])
def test_the_snippets_run(report, tmp_path, pairs, capsys):
    make_bert(2, seed=2).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    told = dataclasses.replace(report, data=dataclasses.replace(report.data, pairs=pairs))
    text, _ = body_of(write_card(tmp_path, told, base_model="big", dataset="films"))
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        assert "path/to/this/folder" in snippet
        for written in ("The text to classify.", "The first text."):  # longer than the model reads
            snippet = snippet.replace(written, "good film " * 40)
        exec(snippet.replace("path/to/this/folder", str(tmp_path)), {})  # noqa: S102
    assert "positive" in capsys.readouterr().out


def test_the_snippet_names_a_model_only_where_the_hub_would_find_it(report, tmp_path):
    text, _ = body_of(write_card(tmp_path, report, base_model="big", dataset="films", model_name="me/small"))
    assert 'model="me/small", truncation=True)' in text
    cut = dataclasses.replace(report, data=dataclasses.replace(report.data, max_length=24))
    text, _ = body_of(write_card(tmp_path, cut, base_model="big", dataset="films"))
    assert text.count("truncation=True, max_length=24") == 2


@pytest.mark.parametrize(
    ("architecture", "first"),
    [
        ("transformers.BertForSequenceClassification", "from transformers import pipeline"),
        ("hfdistill.CNNForSequenceClassification", "import hfdistill  # knows this architecture"),
        ("hfdistill_plugin.Bow", "# Import the code that registers Bow with Transformers first."),
    ],
)
def test_the_snippet_imports_what_knows_the_architecture(report, tmp_path, architecture, first):
    student = dataclasses.replace(report.student, architecture=architecture)
    text = write_card(tmp_path, dataclasses.replace(report, student=student), base_model="b", dataset="d")
    assert text.read_text().split("```python\n")[1].startswith(first + "\n")


def test_folders_stay_out_of_the_card(report, tmp_path):
    teacher, data = tmp_path / "secret place" / "big-model", tmp_path / "films.csv"
    teacher.mkdir(parents=True)
    data.write_text("")
    path = write_card(
        tmp_path, report, base_model=str(teacher), dataset=str(data), model_name=str(tmp_path / "mine")
    )
    _, header = body_of(path)
    text = path.read_text()
    assert "secret place" not in text
    assert str(tmp_path) not in text
    assert not {"base_model", "base_model_relation", "datasets"} & header.keys()
    assert header["model-index"][0]["name"] == "mine"
    assert header["model-index"][0]["results"][0]["dataset"] == {"name": "films.csv", "type": "other"}
    assert "**big-model**" in text


def test_a_relative_folder_is_no_hub_id(report, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("out/big").mkdir(parents=True)
    _, header = body_of(write_card("out", report, base_model="out/big", dataset="../films"))
    assert not {"base_model", "datasets"} & header.keys()


def test_a_report_without_labels_claims_no_accuracy(report, tmp_path):
    hidden = make_dataset().remove_columns("label")
    bare = measure(make_bert(2), hidden, teacher=make_bert(4), tokenizer=make_tokenizer(), speed=None)
    text, header = body_of(write_card(tmp_path, bare, base_model="big", dataset="films"))
    assert "metrics" not in header
    assert [m["type"] for m in header["model-index"][0]["results"][0]["metrics"]] == ["agreement"]
    assert "how often the model is right is not known" in text
    alone = measure(make_bert(2), hidden, tokenizer=make_tokenizer(), speed=None)
    _, header = body_of(write_card(tmp_path, alone, base_model="big", dataset="films"))
    assert not {"metrics", "model-index", "model_name"} & header.keys()


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_other_tasks(task, tmp_path):
    names = {0: "a", 1: "b"} if task == "multi_label" else {0: "score"}
    kind = "multi_label_classification" if task == "multi_label" else "regression"
    data = make_dataset().remove_columns("label")
    data = data.add_column(
        "label", [[1.0, 0.0]] * 32 if task == "multi_label" else [float(i) for i in range(32)]
    )
    models = [make_bert(n, labels=names, problem_type=kind) for n in (2, 4)]
    found = measure(models[0], data, teacher=models[1], tokenizer=make_tokenizer(), speed=None)
    text, header = body_of(write_card(tmp_path, found, base_model="big", dataset="films"))
    assert header["metrics"] == (["f1"] if task == "multi_label" else ["mse", "pearsonr", "spearmanr"])
    assert f'function_to_apply="{"sigmoid" if task == "multi_label" else "none"}"' in text


def test_many_classes_are_cut_to_the_worst(report, tmp_path):
    classes = tuple(
        dataclasses.replace(report.classes[0], label=f"class-{i}", student_recall=i / 100, teacher_recall=0.9)
        for i in range(77)
    )
    text, _ = body_of(
        write_card(tmp_path, dataclasses.replace(report, classes=classes), base_model="b", dataset="d")
    )
    rows = re.findall(r"^\| class-(\d+) ", text, flags=re.MULTILINE)
    assert rows == [str(i) for i in range(10)]
    assert "The 10 of 77 classes" in text


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"base_model": "x"}, "fills base_model itself"),
        ({"model-index": []}, "fills model-index itself"),
        ({"pipeline_tag": "x", "library_name": "y"}, "fills library_name, pipeline_tag itself"),
        ({"language": object()}, "must be plain"),
        ({"score": float("nan")}, "must be plain"),
        ({"description": "x" * 70_000}, "more than 65536"),
    ],
)
def test_metadata_that_would_break_the_header_is_refused(report, metadata, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_card(tmp_path, report, base_model="big", dataset="films", metadata=metadata)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_card(report, tmp_path, monkeypatch):
    path = write_card(tmp_path, report, base_model="big", dataset="films")
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_card(tmp_path, report, base_model="other", dataset="films")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]


def test_the_card_points_to_the_report_beside_it(report, tmp_path):
    assert "report.json" not in write_card(tmp_path, report, base_model="big", dataset="films").read_text()
    report.save(tmp_path / "report.json")
    assert "report.json" in write_card(tmp_path, report, base_model="big", dataset="films").read_text()


# Hostile names

PIECES = [
    "<script>alert(1)</script>", "](javascript:alert(1))", "[x](http://evil.example)",
    "![x](//evil.example/p.png)", "\n---\n", "\r\n---\r\n", "\u2028---\u2029", "\x85", "`", "```", "~~~",
    "|", "| a | b |", "\u202e", "\x00", "\x1b[31m", "---", "...", ": ", "#", "- ", "&", "&lt;", "\\", "'",
    '"', "{{x}}", "%YAML 1.2", "!!python/object:os.system", "*x*", "</pre>", "</code>", "</table>", "<!--",
    "-->", "<img src=x onerror=alert(1)>", "http://evil.example", "www.evil.example", "\ud800", "\ufeff",
    "\ufffe", "null", "true", "0x1", "@a", "$x$", "日本", "é", "\t", " ", "=", "\U0001f600", "a", "b",
]  # fmt: skip
LONG = ["x" * 10**6, "\n" * 200_000, "<" * 10**6, "](" * 10**5, "---\n" * 10**5]


def hostile(seed):
    rng = random.Random(seed)
    return LONG[seed] if seed < len(LONG) else "".join(rng.choices(PIECES, k=rng.randint(1, 8)))


def test_d12_a_thousand_hostile_names_stay_text(report, tmp_path):
    harmless, _ = body_of(write_card(tmp_path, report, base_model="big", dataset="films"))
    tags, headings = set(re.findall("<[^>]*>", harmless)), harmless.count("\n#")
    rows = harmless.count("\n|")
    for seed in range(0, 1000, 10):
        names = [hostile(seed + i) for i in range(10)]
        label, other, student, teacher, model, base, dataset, licence, field, note = names
        evil = dataclasses.replace(
            report,
            student=dataclasses.replace(report.student, name=student),
            teacher=dataclasses.replace(report.teacher, name=teacher),
            classes=tuple(
                dataclasses.replace(c, label=n) for c, n in zip(report.classes, (label, other), strict=True)
            ),
            data=dataclasses.replace(report.data, split=note),
            notes={"objective": note, "recipe": {field: [note, {"a": label}]}},
        )
        metadata = {"note": field[:10_000], "tags": [field[:100]]}
        path = write_card(
            tmp_path, evil, base_model=base, dataset=dataset, dataset_license=licence, license=licence[:500],
            model_name=model, metadata=metadata,
        )  # fmt: skip
        start = time.process_time()
        text, header = body_of(path)
        assert time.process_time() - start < 1, seed
        assert header["note"] == metadata["note"]
        assert header["tags"][-1] == metadata["tags"][0]
        assert header["license"] == licence[:500]
        assert header["model-index"][0]["name"] == (printable(public_name(model)) or "student")
        assert set(re.findall("<[^>]*>", text)) <= tags, seed
        assert "](" not in text, seed
        assert text.count("<") == harmless.count("<"), seed
        assert text.count("\n#") == headings, seed
        assert text.count("\n|") == rows, seed
        assert "\u202e" not in text
        assert "\x1b" not in text
        for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
            assert len({line.count("|") for line in block.splitlines()}) == 1, seed
        assert len(text) < 60_000


def test_escape_keeps_plain_names_readable():
    assert escape("bert-base-uncased v1.5, 日本") == "bert-base-uncased v1.5, 日本"
    assert escape("<b>[x](y)") == "&#60;b&#62;&#91;x&#93;&#40;y&#41;"
    assert escape("a\nb\u202ec") == "a&#92;nb&#92;u202ec"
    assert escape("x" * 100, limit=5) == "xxxxx…"
