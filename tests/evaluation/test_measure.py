import dataclasses
import json

import numpy as np
import pytest
import torch
from datasets import Dataset, Value
from scipy import stats
from sklearn import metrics as sk
from transformers import DistilBertConfig, DistilBertForSequenceClassification, Trainer, TrainingArguments

from hfdistill.data.encode import encode
from hfdistill.evaluation.measure import Contender, measure
from hfdistill.evaluation.report import Report
from hfdistill.evaluation.speed import SpeedPlan
from hfdistill.network.label_space import LabelSpaceError
from tests.conftest import make_bert, make_dataset, make_report, make_tokenizer

QUICK = SpeedPlan(latency_rows=3, batch_size=4, throughput_rows=8, repeats=2)


@pytest.fixture(scope="module")
def report():
    return make_report({"objective": "KD()", "seeds": (0, 1)})


def reference_logits(model, dataset, tokenizer):
    """One row at a time: no padding, no sorting."""
    rows = []
    with torch.inference_mode():
        for text in dataset["text"]:
            rows.append(model.eval()(**tokenizer(text, return_tensors="pt")).logits[0])
    return torch.stack(rows).double().numpy()


def test_metrics_equal_a_loop_over_single_rows(report, dataset, tokenizer):
    labels = np.array(dataset["label"])
    logits = {
        "teacher": reference_logits(make_bert(4, seed=1), dataset, tokenizer),
        "student": reference_logits(make_bert(2, seed=2), dataset, tokenizer),
        "baseline": reference_logits(make_bert(2, seed=3), dataset, tokenizer),
    }
    for role, model in report.models().items():
        predicted = logits[role].argmax(1)
        assert model.metrics["accuracy"] == sk.accuracy_score(labels, predicted)
        assert model.metrics["macro_f1"] == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
        assert model.metrics["nll"] == pytest.approx(
            sk.log_loss(labels, torch.tensor(logits[role]).softmax(1)), abs=1e-5
        )
    agreed = np.mean(logits["student"].argmax(1) == logits["teacher"].argmax(1))
    assert report.student.fidelity["agreement"] == agreed
    kl = torch.nn.functional.kl_div(
        torch.tensor(logits["student"]).log_softmax(1),
        torch.tensor(logits["teacher"]).softmax(1),
        reduction="batchmean",
    )
    assert report.student.fidelity["kl"] == pytest.approx(kl.item(), abs=1e-5)
    assert report.teacher.fidelity is None
    for found, (i, name) in zip(report.classes, enumerate(["negative", "positive"]), strict=True):
        inside = labels == i
        missed = inside & (logits["teacher"].argmax(1) != i)
        same = missed & (logits["student"].argmax(1) == logits["teacher"].argmax(1))
        assert (found.label, found.rows, found.share) == (name, 16, 0.5)
        assert found.student_recall == np.mean(logits["student"].argmax(1)[inside] == i)
        assert found.teacher_recall == np.mean(logits["teacher"].argmax(1)[inside] == i)
        assert (found.teacher_wrong, found.same_wrong) == (missed.sum(), same.sum())
    assert report.errors.same_wrong == sum(c.same_wrong for c in report.classes)
    assert [d.other for d in report.differences] == ["teacher", "baseline"]
    assert report.differences[1].mean == pytest.approx(
        report.student.metrics["accuracy"] - report.baseline.metrics["accuracy"]
    )


def test_the_report_says_where_and_on_what(report, dataset):
    assert (report.data.rows, report.data.labelled_rows, report.data.pairs) == (32, 32, False)
    assert report.environment.torch == torch.__version__
    assert report.environment.threads == torch.get_num_threads()
    assert report.notes == {"objective": "KD()", "seeds": [0, 1]}
    assert report.student.parameters == sum(p.numel() for p in make_bert(2).parameters())
    assert report.student.embedding_parameters == 36 * 16
    assert report.student.architecture == "transformers.BertForSequenceClassification"
    for model in report.models().values():
        assert model.speed.latency_rows == 3
        assert model.speed.throughput_rows == 8
        assert 0 < model.speed.latency_ms_p50 <= model.speed.latency_ms_p95
        assert model.speed.rows_per_s > 0


def test_the_teachers_classes_are_matched_by_name(report, dataset, tokenizer):
    turned = make_bert(4, seed=1, labels={0: "Positive", 1: "Negative"})
    with torch.no_grad():
        for tensor in turned.classifier.parameters():
            tensor.copy_(tensor.flip(0))
    found = measure(make_bert(2, seed=2), dataset, teacher=turned, tokenizer=tokenizer, speed=None)
    assert found.teacher.metrics == pytest.approx(report.teacher.metrics)
    assert found.student.fidelity == pytest.approx(report.student.fidelity, abs=1e-6)


def test_a_label_map_pairs_classes_without_names(report, dataset, tokenizer):
    nameless = make_bert(4, seed=1, labels={0: "LABEL_0", 1: "LABEL_1"})
    student = make_bert(2, seed=2)
    with pytest.raises(LabelSpaceError, match="have no names"):
        measure(student, dataset, teacher=nameless, tokenizer=tokenizer, speed=None)
    paired = Contender(nameless, label_map={"LABEL_0": "negative", "LABEL_1": "positive"})
    found = measure(student, dataset, teacher=paired, tokenizer=tokenizer, speed=None)
    assert found.student.fidelity == pytest.approx(report.student.fidelity, abs=1e-6)


def test_models_load_from_folders_with_their_own_tokenizers(report, dataset, tokenizer, tmp_path):
    for name, model in {"big": make_bert(4, seed=1), "small": make_bert(2, seed=2)}.items():
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    found = measure(tmp_path / "small", dataset, teacher=str(tmp_path / "big"), speed=None)
    assert (found.student.name, found.teacher.name) == ("small", "big")
    assert found.student.metrics == pytest.approx(report.student.metrics)
    assert found.student.fidelity == pytest.approx(report.student.fidelity, abs=1e-6)
    assert str(tmp_path) not in json.dumps(dataclasses.asdict(found))


def test_encoded_data_gives_the_same(report, dataset, tokenizer):
    encoded = dataset.map(lambda row: tokenizer(row["text"]), remove_columns="text")
    found = measure(make_bert(2, seed=2), encoded, teacher=make_bert(4, seed=1), speed=None)
    assert found.student.metrics == pytest.approx(report.student.metrics)
    bare = encoded.select_columns(["input_ids", "label"])
    assert measure(make_bert(2, seed=2), bare, speed=None).student.metrics == pytest.approx(
        report.student.metrics
    )


def test_each_model_gets_only_what_its_forward_has(dataset, tokenizer):
    config = DistilBertConfig(
        vocab_size=36, dim=16, n_layers=1, n_heads=4, hidden_dim=32, max_position_embeddings=32,
        id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1},
    )  # fmt: skip
    student = DistilBertForSequenceClassification(config)
    pairs = dataset.add_column("text_pair", dataset["text"])
    found = measure(student, pairs, teacher=make_bert(2), tokenizer=tokenizer, max_length=32, speed=QUICK)
    assert found.data.pairs
    assert found.data.max_length == 32


def test_models_are_left_as_they_were(dataset, tokenizer):
    student = make_bert(2, hidden_dropout_prob=0.5)
    student.train()
    student.bert.encoder.eval()
    before = [module.training for module in student.modules()]
    weights = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    first = measure(student, dataset, tokenizer=tokenizer, speed=None)
    assert [module.training for module in student.modules()] == before
    assert all(torch.equal(weights[name], tensor) for name, tensor in student.state_dict().items())
    assert measure(student, dataset, tokenizer=tokenizer, speed=None).student == first.student


def test_without_labels_only_closeness_is_told(dataset, tokenizer, tmp_path):
    plain = dataset.cast_column("label", Value("int64"))
    cases = {
        "absent": plain.remove_columns("label"),
        "hidden": plain.map(lambda row: {"label": -1}),
        "none": plain.map(lambda row: {"label": None}, features=plain.features),
    }
    for name, data in cases.items():
        found = measure(make_bert(2), data, teacher=make_bert(4), tokenizer=tokenizer, speed=None)
        assert found.student.metrics is None, name
        assert (found.errors, found.differences, found.data.labelled_rows) == (None, (), 0)
        assert 0 <= found.student.fidelity["agreement"] <= 1
        assert "accuracy" not in found.table()
        assert Report.load(found.save(tmp_path / "report.json")) == found


def test_rows_without_a_label_count_for_closeness_alone(report, dataset, tokenizer):
    plain = dataset.cast_column("label", Value("int64"))
    half = plain.map(lambda row, i: {"label": row["label"] if i < 16 else -100}, with_indices=True)
    found = measure(make_bert(2, seed=2), half, teacher=make_bert(4, seed=1), tokenizer=tokenizer, speed=None)
    first = measure(make_bert(2, seed=2), dataset.select(range(16)), tokenizer=tokenizer, speed=None)
    assert (found.data.rows, found.data.labelled_rows) == (32, 16)
    assert found.student.metrics == pytest.approx(first.student.metrics)
    assert found.student.fidelity == pytest.approx(report.student.fidelity, abs=1e-6)


def test_regression(dataset, tokenizer):
    options = {"labels": {0: "score"}, "problem_type": "regression"}
    values = [float(i % 7) for i in range(32)]
    data = Dataset.from_dict({"text": dataset["text"], "label": [*values[:-1], float("nan")]})
    teacher, student = make_bert(4, seed=1, **options), make_bert(2, seed=2, **options)
    found = measure(student, data, teacher=teacher, tokenizer=tokenizer, speed=None)
    own, theirs = (
        reference_logits(student, data, tokenizer)[:, 0],
        reference_logits(teacher, data, tokenizer)[:, 0],
    )
    assert found.student.metrics["pearson"] == pytest.approx(
        stats.pearsonr(own[:31], values[:31]).statistic, abs=1e-5
    )
    assert found.student.metrics["spearman"] == pytest.approx(
        stats.spearmanr(own[:31], values[:31]).statistic, abs=1e-5
    )
    assert found.student.fidelity["pearson_teacher"] == pytest.approx(
        stats.pearsonr(own, theirs).statistic, abs=1e-5
    )
    assert (found.data.labelled_rows, found.classes, found.errors) == (31, (), None)
    assert "Spearman" in found.table()


def test_multi_label(dataset, tokenizer):
    names = {0: "anger", 1: "joy", 2: "fear"}
    options = {"labels": names, "problem_type": "multi_label_classification"}
    labels = [[float(i % 2), float(i % 3 == 0), 0.0] for i in range(32)]
    data = Dataset.from_dict({"text": dataset["text"], "label": labels})
    teacher, student = make_bert(4, seed=1, **options), make_bert(2, seed=2, **options)
    found = measure(student, data, teacher=teacher, tokenizer=tokenizer, speed=None)
    own, theirs = (
        reference_logits(student, data, tokenizer) > 0,
        reference_logits(teacher, data, tokenizer) > 0,
    )
    truth = np.array(labels) > 0
    assert found.student.metrics["subset_accuracy"] == np.mean((own == truth).all(1))
    assert found.student.metrics["micro_f1"] == pytest.approx(sk.f1_score(truth, own, average="micro"))
    assert found.student.fidelity["agreement"] == np.mean((own == theirs).all(1))
    assert [c.rows for c in found.classes] == [16, 11, 0]
    assert found.classes[2].student_recall is None
    wrong = theirs[:, 1] != truth[:, 1]
    assert found.classes[1].teacher_wrong == wrong.sum()
    assert found.classes[1].same_wrong == (wrong & (own[:, 1] != truth[:, 1])).sum()
    assert found.differences[0].metric == "subset_accuracy"


def test_an_empty_dataset_is_refused(dataset, tokenizer):
    with pytest.raises(ValueError, match="empty dataset"):
        measure(make_bert(2), dataset.select([]), tokenizer=tokenizer)


def test_logits_that_are_not_finite_name_model_and_rows(dataset, tokenizer):
    broken = make_bert(2)
    word = tokenizer.convert_tokens_to_ids("lovely")
    with torch.no_grad():
        broken.bert.embeddings.word_embeddings.weight[word] = float("nan")
    rows = [i for i, text in enumerate(dataset["text"]) if "lovely" in text.split()]
    with pytest.raises(
        ValueError, match=rf"The teacher's logits are not finite on rows \[{', '.join(map(str, rows))}\]"
    ):
        measure(make_bert(2), dataset, teacher=broken, tokenizer=tokenizer, speed=None)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 7], r"data, row 1: label 7 is out of range, the student has 2 classes"),
        ([0, -2], r"data, row 1: label -2 is out of range"),
        ([0.0, 0.5], r"data, row 1: label 0.5 is not a class id"),
        (["good", "bad"], r"data has text labels \(row 0: 'good'\)"),
        ([[0, 1], [1, 0]], r"data has a list of labels a row \(row 0: \[0, 1\]\)"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message, tokenizer):
    data = Dataset.from_dict({"text": ["good film", "bad film"], "label": labels})
    with pytest.raises(ValueError, match=message):
        measure(make_bert(2), data, tokenizer=tokenizer, speed=None)


def test_labels_in_another_order_are_read_by_name(report, dataset, tokenizer):
    turned = make_bert(2, seed=2, labels={0: "positive", 1: "negative"})
    with torch.no_grad():
        for tensor in turned.classifier.parameters():
            tensor.copy_(tensor.flip(0))
    found = measure(turned, dataset, tokenizer=tokenizer, speed=None).student.metrics
    assert found == pytest.approx(report.student.metrics)


def test_models_of_other_tasks_and_vocabularies_are_refused(dataset, tokenizer):
    student = make_bert(2)
    with pytest.raises(
        ValueError, match="The teacher is a multi_label model and the student a single_label one"
    ):
        measure(
            student,
            dataset,
            teacher=make_bert(2, problem_type="multi_label_classification"),
            tokenizer=tokenizer,
        )
    wide = make_bert(2, vocab_size=50)
    with pytest.raises(
        ValueError, match=r"vocabulary of 50 and the student one of 36.*teacher=Contender\(model"
    ):
        measure(student, dataset, teacher=wide, tokenizer=tokenizer)
    assert measure(
        student, dataset, teacher=Contender(wide, make_tokenizer()), tokenizer=tokenizer, speed=None
    ).teacher


def test_texts_are_cut_to_what_each_model_reads(tokenizer, caplog):
    long = Dataset.from_dict({"text": ["good " * 30, "bad"], "label": [1, 0]})
    short, options = make_bert(2, max_position_embeddings=16), {"tokenizer": tokenizer, "speed": None}
    for max_length in (None, 24):
        found = measure(short, long, teacher=make_bert(2, seed=3), max_length=max_length, **options)
        assert (found.data.tokens_max, found.data.max_length) == (16, 16)
    assert "1 of 2 rows are longer than 16 tokens and were cut" in caplog.text
    alone = measure(make_bert(2, seed=3), long, **options)
    whole = measure(short, long, teacher=make_bert(2, seed=3), **options).teacher
    assert whole.metrics == alone.student.metrics  # the teacher reads what it can
    assert alone.data.max_length is None
    assert measure(make_bert(2), long, max_length=8, **options).data.max_length == 8


def test_a_missing_tokenizer_and_a_long_row_are_refused(dataset, tokenizer):
    with pytest.raises(ValueError, match="The student came without a tokenizer"):
        measure(make_bert(2), dataset)
    long = encode(Dataset.from_dict({"text": ["good " * 30], "label": [1]}), tokenizer)
    with pytest.raises(ValueError, match="has 32 tokens, the student reads 16 at most"):
        measure(make_bert(2, max_position_embeddings=16), long, tokenizer=tokenizer, speed=None)


def test_notes_that_are_no_plain_numbers_are_refused_before_anything_runs(dataset):
    with pytest.raises(ValueError, match="Out of range float"):
        measure("no/such-model", dataset, notes={"loss": float("nan")})


def test_d13_neither_secrets_nor_folders_reach_the_report(dataset, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "canary-in-the-coal-mine")
    notes = {
        "argv": ["train.py", "--data=/home/ada/secret-project/sst2.csv", "hf_abcdefghijklmnopqrstuvwx"],
        "cwd": tmp_path,
        "hub_token": "anything",
        "log": "used canary-in-the-coal-mine here",
        "windows": "C:\\Users\\ada\\model",
        "objective": "0.5 * CrossEntropy() + 0.5 * KD(temperature=4) / (1/2/3)",
        "url": "https://huggingface.co/owner/name",
    }
    found = measure(make_bert(2), dataset, tokenizer=tokenizer, speed=None, notes=notes)
    text = found.save(tmp_path / "report.json").read_text()
    for secret in ("canary", "ada", "secret-project", "hf_abc", "anything", str(tmp_path.parent), "Users"):
        assert secret not in text
    assert found.notes["objective"] == notes["objective"]
    assert found.notes["url"] == notes["url"]
    assert found.notes["argv"][1] == "--data=sst2.csv"


def test_the_table_hides_columns_that_nobody_has(dataset, tokenizer):
    text = measure(make_bert(2), dataset, tokenizer=tokenizer, speed=None).table()
    assert "rows/s" not in text
    assert "agreement" not in text


def test_a_model_fresh_from_bf16_training_is_measured_as_it_is_saved(tmp_path):
    """accelerate leaves autocast around `forward`; logits in bf16 are not the student's."""
    args = TrainingArguments(str(tmp_path), bf16=True, use_cpu=True, max_steps=1, report_to="none")
    tokenizer, data = make_tokenizer(), make_dataset(16)
    encoded = data.map(lambda row: tokenizer(row["text"]), remove_columns="text")
    trainer = Trainer(make_bert(2, seed=3), args, train_dataset=encoded, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    wrapped = vars(trainer.model)["forward"]
    fresh = measure(trainer.model, encoded, tokenizer=tokenizer, speed=None)
    saved = measure(str(tmp_path), encoded, speed=None)
    assert fresh.student.metrics == saved.student.metrics
    assert vars(trainer.model)["forward"] is wrapped
