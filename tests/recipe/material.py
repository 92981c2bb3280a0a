"""Tiny models and data in a folder, as pages name them."""

import json

from datasets import ClassLabel, Dataset, Features, Value
from transformers import BertModel

from tests.conftest import make_bert, make_sentences, make_tokenizer
from tests.word_material import make_named_words

THREE = {0: "bad", 1: "fair", 2: "good"}


def save(model, folder):
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def rows(kind, count):
    """Sentences with two or three classes, pairs of them, or a number."""
    texts = [text for text, _ in make_sentences(count)]
    columns = {"text": texts}
    features = {"text": Value("string")}
    if kind == "pairs":
        columns = {"sentence1": texts, "sentence2": texts[::-1]}
        features = {"sentence1": Value("string"), "sentence2": Value("string")}
    if kind == "values":
        return Dataset.from_dict({**columns, "label": [float(i % 5) + 0.5 for i in range(count)]})
    names = list(THREE.values()) if kind == "three" else ["negative", "positive"]
    features["label"] = ClassLabel(names=names)
    return Dataset.from_dict(
        {**columns, "label": [i % len(names) for i in range(count)]}, features=Features(features)
    )


def make(folder):
    """Folders teacher, encoder, two, three, pairs, values, words; files of reviews, comments and answers."""
    teacher = make_bert(4, seed=1)
    save(teacher, folder / "teacher")
    save(BertModel(teacher.config), folder / "encoder")
    for kind in ("two", "three", "pairs", "values"):
        (folder / kind).mkdir()
        rows(kind, 64).to_parquet(folder / kind / "train.parquet")
        rows(kind, 20).to_parquet(folder / kind / "validation.parquet")
    (folder / "words").mkdir()
    make_named_words(64).to_parquet(folder / "words" / "train.parquet")
    make_named_words(20).to_parquet(folder / "words" / "validation.parquet")
    comments = [text for text, _ in make_sentences(44)[20:]]  # none that is measured on
    answers = [
        json.dumps({"text": text, "label": ("bad", "good")[i % 2], "confidence": 0.8})
        for i, text in enumerate(comments)
    ]
    (folder / "answers.jsonl").write_text("\n".join(answers))
    (folder / "comments.csv").write_text("\n".join(["comment", *comments]) + "\n")
    lines = [f"{text},{('bad', 'good')[label]}" for text, label in make_sentences(40)]
    (folder / "reviews.csv").write_text("\n".join(["review,verdict", *lines]) + "\n")
    return folder


# A page as Python reads it, of the folders that `here` has.
TRAINING = {"output_dir": "out", "num_train_epochs": 2, "per_device_train_batch_size": 16, "use_cpu": True}
VALUES = {
    "teacher": "teacher",
    "student": {"shrink": {"layers": 1}},
    "data": "two",
    "objective": [{"kd": {}}],
    "training": TRAINING,
}
