"""Chains of students, unlabelled text and changed students: a page does what a script does."""

import json

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertTokenizerFast

from hfdistill import (
    DistillationTrainer,
    Refit,
    augment,
    block_importance,
    load,
    load_classifier,
    measure,
    most_important,
    shrink,
)
from hfdistill.data import Delete
from hfdistill.data.label_columns import multi_hot_names, with_listed_classes
from hfdistill.recipe import RecipeError, read_recipe, schema
from hfdistill.recipe.models import ModelBuilder
from hfdistill.recipe.rows import read_rows
from hfdistill.recipe.run import run_recipe
from hfdistill.recipe.schema import Splits
from tests.conftest import make_bert, make_sentences, make_tokenizer

PAGE = """teacher: teacher
student:
  shrink: {layers: 1}
data: two
objective: [{cross_entropy: {weight: 0.5}}, {kd: {weight: 0.5, temperature: 4}}]
training: {output_dir: out, max_steps: 2, use_cpu: true, disable_tqdm: true}
measure: null
"""


def run(*overrides):
    return run_recipe(read_recipe("page.yaml", overrides=overrides))


def same(one, other):
    first, second = (load_file(f"{folder}/model.safetensors") for folder in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_an_assistant_is_two_pages_in_one(here):
    """The assistant is the first page's student; the student is cut from the teacher, taught by it."""
    run("assistants=[{shrink: {layers: 3}}]")
    run("student.shrink.layers=3", "training.output_dir=first")
    run("teacher=first/student", "student.shrink.source=teacher", "training.output_dir=second")
    assert same("out/assistant-1", "first/student")
    assert same("out/student", "second/student")


def test_generations_begin_with_labels_alone(here):
    overrides = ["teacher=null", "student.shrink.source=encoder", "measure={speed: false}"]
    report = run(*overrides, "generations=3", "objective=[cross_entropy, kd]")
    run(*overrides, "objective=null", "training.output_dir=alone")
    assert same("out/generation-1", "alone/student")
    assert not same("out/generation-2", "out/generation-1")
    assert not same("out/student", "out/generation-2")
    assert report.teacher.name == "generation-1"


@pytest.mark.parametrize("more", ["generations=2", "assistants=[{shrink: {layers: 3}}]"])
def test_a_chain_that_begins_with_a_peer_is_measured_beside_its_first_student(here, more):
    teacher = "teacher={peer: {model: encoder, layers: 2}}"
    report = run(teacher, "objective=[cross_entropy, kd]", "measure={speed: false}", more)
    assert report.teacher.name == ("generation-1" if "gen" in more else "assistant-1")


def test_a_chain_that_is_started_again_repeats_and_skips_no_stage(here, monkeypatch):
    """Its stages end within an epoch: one that is resumed at its end must take no step more."""
    page = ["assistants=[{shrink: {layers: 3}}]", "training.max_steps=1", "training.teacher_check_rows=0"]
    page += ["training.save_strategy=steps", "training.save_steps=1"]
    real = DistillationTrainer.train

    def train(trainer, **told):
        if trainer.args.output_dir.endswith("student"):
            raise KeyboardInterrupt
        return real(trainer, **told)

    with monkeypatch.context() as patched:
        patched.setattr(DistillationTrainer, "train", train)
        with pytest.raises(KeyboardInterrupt):
            run(*page)
    first = load_file("out/assistant-1/model.safetensors")
    run(*page)
    again = load_file("out/assistant-1/model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert [path.name for path in here.glob("out/*/checkpoint-*")] == ["checkpoint-1"] * 2


def test_a_page_that_is_another_goes_on_from_no_checkpoint(here):
    saved = ["training.save_strategy=steps", "training.save_steps=1", "training.max_steps=1"]
    run(*saved)
    for override in ("data.source=values", "training.weight_decay=0.5", "theseus={}"):
        with pytest.raises(ValueError, match=f"another page .{override.partition('=')[0]}"):
            run(*saved, override)
    rows = read_rows({"source": "two"}, Splits(), seed=42).train
    (here / "two").unlink()
    (here / "two").mkdir()
    rows.shuffle(seed=1).to_parquet(here / "two" / "train.parquet")
    with pytest.raises(ValueError, match=r"another page \(the training rows"):
        run(*saved)
    run(*saved, "training.allow_changed=true", "data.evaluation_rows=3")


def test_no_row_is_both_learned_from_and_measured_on(here):
    """A file with one split, whatever it is called, is divided."""
    (here / "alone").mkdir()
    (here / "alone" / "test.parquet").symlink_to(here / "two" / "train.parquet")
    rows = read_rows({"source": "alone"}, Splits(train="test", holdout=0.25), seed=0)
    assert (len(rows.train), len(rows.evaluation)) == (48, 16)
    with pytest.raises(ValueError, match="both learned from and measured on"):
        read_rows({"source": "two"}, Splits(evaluation="train"), seed=0)


def test_text_without_labels_joins_the_training_rows(here):
    loading = {"source": "two"}
    text = {"source": "comments.csv", "text": "comment", "rows": 10}
    rows = read_rows(loading, Splits(labelled_rows=20, unlabelled=text), seed=0)
    assert (len(rows.train), len(rows.labelled), len(rows.evaluation)) == (64 + 10, 20, 20)
    assert rows.train["label"][:20] == rows.labelled["label"][:]
    assert rows.train["label"][20:] == [None] * 54
    assert len(set(rows.train["text"][:64])) == len(set(read_rows(loading, Splits(), seed=0).train["text"]))
    (here / "more.txt").write_text("a dull end\n\na DULL end\na story of some warmth\n")
    lines = read_rows(loading, Splits(unlabelled="more.txt"), seed=0).train[64:]
    assert lines == {"text": ["a dull end", "a story of some warmth"], "label": [None, None]}
    with pytest.raises(ValueError, match="'text_pair' is missing"):
        read_rows({"source": "pairs"}, Splits(unlabelled=text), seed=0)


def test_text_that_is_measured_on_is_not_learnt_from(here):
    """A holdout of a file, and the same file as text: nothing of the holdout may come back."""
    file = {"source": "reviews.csv", "text": "review", "label": "verdict"}
    told = Splits(holdout=0.25, unlabelled={"source": "reviews.csv", "text": "review"})
    rows = read_rows(file, told, seed=0)
    assert (len(rows.labelled), len(rows.train), len(rows.evaluation)) == (30, 30 + 30, 10)
    assert not set(rows.evaluation["text"]) & set(rows.train["text"])


def test_a_text_that_stands_twice_is_not_on_both_sides_of_a_holdout(here, caplog):
    lines = [f"{text},{label}" for text, label in make_sentences(30)]
    (here / "once.csv").write_text("\n".join(["text,label", *lines, ""]))
    (here / "twice.csv").write_text("\n".join(["text,label", *lines, *lines, ""]))
    once = read_rows({"source": "once.csv"}, Splits(holdout=0.2), seed=1)
    assert (len(once.train), len(once.evaluation)) == (24, 6)
    assert "left out" not in caplog.text
    twice = read_rows({"source": "twice.csv"}, Splits(holdout=0.2), seed=1)
    held, learnt = twice.evaluation["text"][:], twice.train["text"][:]
    assert not {*held} & {*learnt}
    assert len(held) == 12
    assert len(learnt) == 60 - 2 * len({*held})
    (here / "same.csv").write_text("text,label\n" + "the same,0\nthe same,1\n" * 5)
    with pytest.raises(ValueError, match="All 8 rows to learn from have the texts of the 2 that holdout"):
        read_rows({"source": "same.csv"}, Splits(holdout=0.2), seed=1)


def test_the_teacher_and_the_baseline_see_labelled_rows_alone(here, monkeypatch):
    seen = []

    def train(trainer, **_):
        seen.append((trainer.args.output_dir.rpartition("/")[2], len(trainer.train_dataset)))

    monkeypatch.setattr("hfdistill.recipe.run.DistillationTrainer.train", train)
    finetuned = "teacher={finetune: {encoder: encoder}}"
    run(finetuned, "data.labelled_rows=20", "measure={baseline: true, speed: false}")
    assert seen == [("teacher", 20), ("student", 64), ("baseline", 20)]


def test_rows_are_written_anew_for_the_teacher(here):
    rows = read_rows({"source": "two"}, Splits(augment=[("delete", {"p": 0.5})], copies=2), seed=3)
    straight = augment(load("two")["train"], Delete(p=0.5), copies=2, seed=3)
    assert rows.train["text"][:] == straight["text"][:]
    assert set(rows.train["label"][64:]) == {-100}
    assert len(rows.labelled) == 64 < len(rows.train)


def test_rows_of_several_labels_that_are_kept_back_are_measured_by_the_names_of_their_classes(here):
    texts = [text for text, _ in make_sentences(40)]
    lines = [
        {"text": text, "tags": [name for name, often in (("a", 2), ("b", 3), ("c", 5)) if i % often == 0]}
        for i, text in enumerate(texts)
    ]
    (here / "tags.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = read_rows({"source": "tags.jsonl", "label": "tags"}, Splits(holdout=0.25), seed=1, choosing=0.4)
    for part in (rows.train, rows.labelled, rows.evaluation, rows.choosing):
        assert multi_hot_names(part) == ["a", "b", "c"]
    kept = set(rows.evaluation["text"][:])
    truth = load([line for line in lines if line["text"] in kept], label="tags")["train"]
    with_listed_classes(rows.evaluation).to_parquet("kept.parquet")
    kind = "multi_label_classification"
    model = make_bert(2, seed=1, labels={0: "c", 1: "b", 2: "a"}, problem_type=kind)
    scores = [
        measure(model, part, tokenizer=make_tokenizer(), speed=None).student.metrics
        for part in (truth, rows.evaluation, load("kept.parquet")["train"])
    ]
    assert scores[1:] == [pytest.approx(scores[0])] * 2


def test_rows_of_a_file_that_nobody_labelled_join_as_text(here):
    labels = ["positive", "negative", "-100", "-100"] * 6
    lines = [f"{text},{label}" for (text, _), label in zip(make_sentences(24), labels, strict=True)]
    (here / "some.csv").write_text("\n".join(["text,label", *lines, ""]))
    rows = read_rows({"source": "some.csv"}, Splits(holdout=0.25), seed=0)
    assert rows.class_names() == ["negative", "positive"]
    assert (len(rows.train), len(rows.labelled), len(rows.evaluation)) == (21, 9, 3)
    assert sum(label is not None for label in rows.train["label"][:]) == 9
    assert {*rows.labelled["label"][:], *rows.evaluation["label"][:]} == {0, 1}
    fewer = read_rows({"source": "some.csv"}, Splits(holdout=0.25, labelled_rows=4), seed=0)
    assert (len(fewer.train), len(fewer.labelled)) == (21, 4)
    assert sorted(fewer.train["text"][:]) == sorted(rows.train["text"][:])
    tags = [{"text": f"text {i}", "label": [[1, 0], [-100, -100]][i % 2]} for i in range(12)]
    several = read_rows({"source": {"train": tags}}, Splits(holdout=0.5), seed=0)
    assert (several.train["label"][:], len(several.evaluation)) == ([[1.0, 0.0]] * 3 + [None] * 6, 3)
    report = run("data=some.csv", "measure={speed: false, baseline: true}")
    assert report.notes["labelled"] == 11
    assert report.data.labelled_rows == report.data.rows == 1


def test_theseus_compares_the_logits_alone_where_a_page_leaves_the_objective_open(here, capfd):
    run("theseus={}", "objective=recommended", "student.shrink.layers=[1, 2]")
    err = " ".join(capfd.readouterr().err.split())
    assert "recommended: 0.5 * CrossEntropy() + 0.5 * KD(temperature=4); " in err
    assert "the teacher's blocks stand in for those to compare" in err


def test_theseus_needs_one_model_to_take_places_in(here):
    for override in ("teacher={ema: {}}", "assistants=[teacher]"):
        with pytest.raises(RecipeError, match="the places of one teacher's"):
            read_recipe("page.yaml", overrides=["theseus={}", "student=teacher", override])


def test_rows_to_tune_on_are_never_test_rows(here):
    (here / "three-splits").mkdir()
    for split, kind in (("train", "train"), ("validation", "validation"), ("test", "validation")):
        (here / "three-splits" / f"{split}.parquet").symlink_to(here / "two" / f"{kind}.parquet")
    told = Splits(evaluation="test", holdout=0.25)
    assert len(read_rows({"source": "three-splits"}, told, seed=0, searching=True).evaluation) == 20
    (here / "three-splits" / "validation.parquet").unlink()
    rows = read_rows({"source": "three-splits"}, told, seed=0, searching=True)
    assert (len(rows.train), len(rows.evaluation)) == (48, 16)
    assert len(read_rows({"source": "three-splits"}, told, seed=0).train) == 64


def test_blocks_are_chosen_by_importance(here):
    workshop = ModelBuilder(read_rows({"source": "two"}, Splits(), seed=0), seed=0, max_length=9)
    teacher = load_classifier("teacher")
    plan = schema.Student("shrink", {"layers": 2, "choose": "importance"})
    student, tokenizer = workshop.student(plan, of=teacher, origin="teacher", like=None)
    worth = block_importance(teacher, workshop._calibration(teacher, tokenizer))
    straight = shrink(teacher, layers=most_important(worth, 2))
    assert student.config.shrunk_from["layers"] == straight.config.shrunk_from["layers"]


@pytest.mark.parametrize("fit", [True, 20, "two/train.parquet"])
def test_a_student_is_fitted_to_the_training_texts_or_to_others(here, monkeypatch, fit):
    rows = read_rows({"source": "two"}, Splits(), seed=0)
    workshop = ModelBuilder(rows, seed=0, max_length=9, device="the accelerator")
    teacher, moved = load_classifier("teacher"), []
    monkeypatch.setattr(teacher, "to", lambda device: moved.append(device) or teacher)
    plan = schema.Student("shrink", {"layers": 2, "fit": fit})
    student, tokenizer = workshop.student(plan, of=teacher, origin="teacher", like=None)
    assert moved == ["the accelerator"]
    texts = Dataset.from_parquet(fit)["text"][:] if isinstance(fit, str) else workshop.rows.train["text"][:]
    rows = 20 if fit == 20 else None
    straight = shrink(teacher, layers=2, fit=Refit(texts, rows=rows, max_length=9), tokenizer=tokenizer)
    assert student.config.shrunk_from["fitted_on"] == (rows or len(texts))
    assert all(torch.equal(v, student.state_dict()[n]) for n, v in straight.state_dict().items())


def test_a_student_with_fewer_words_and_its_teacher_read_ids_of_their_own(here, monkeypatch):
    seen = []

    def pruned(model, tokenizer, corpus, **told):
        seen.append((corpus.column_names, len(corpus), told))
        words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
        (here / "vocab.txt").write_text("\n".join([*words[:5], *words[:4:-1]]))
        return model, BertTokenizerFast(vocab=str(here / "vocab.txt"))

    monkeypatch.setattr("hfdistill.recipe.models.prune_vocabulary", pruned)
    monkeypatch.setattr("hfdistill.recipe.run.DistillationTrainer.train", lambda self, **_: seen.append(self))
    run("student={shrink: {layers: 1}, prune_vocabulary: {keep: 0.5}}")
    assert seen[0] == (["text"], 64, {"keep": 0.5})
    columns = next(iter(seen[1].get_train_dataloader()))
    assert (columns["teacher_input_ids"] != columns["input_ids"]).any()
    assert AutoTokenizer.from_pretrained("out/student").get_vocab() != seen[1].teacher.tokenizer.get_vocab()


def test_recorded_answers_teach_as_the_live_teacher_does(here):
    run("teacher_cache=answers")
    run("training.output_dir=live")
    assert list((here / "answers").rglob("*"))
    cached, live = (load_file(f"{name}/student/model.safetensors") for name in ("out", "live"))
    assert max(float((cached[name] - live[name]).abs().max()) for name in live) < 1e-5


def test_members_of_an_ensemble_are_asked_once_each(here):
    both = "teacher={ensemble: {members: [teacher, other], weights: confidence}}"
    model = make_bert(2, seed=5)
    model.save_pretrained(here / "other")
    make_tokenizer().save_pretrained(here / "other")
    overrides = [both, "student.shrink.source=teacher"]
    run(*overrides, "teacher_cache=answers")
    run(*overrides, "training.output_dir=live")
    assert len(list((here / "answers").iterdir())) == 2
    cached, live = (load_file(f"{name}/student/model.safetensors") for name in ("out", "live"))
    assert max(float((cached[name] - live[name]).abs().max()) for name in live) < 1e-5


@pytest.mark.parametrize("student", ["static: {width: 8}", "cnn: {filters: 4}", "bilstm: {hidden_size: 8}"])
def test_students_without_attention_read_pairs(here, student):
    run(f"student={{{student}}}", "data=pairs")
    (kind,) = json.loads((here / "out" / "student" / "config.json").read_text())["architectures"]
    assert kind.lower().startswith(student.partition(":")[0])
    assert json.loads((here / "out" / "student" / "config.json").read_text())["pairs"] is True
