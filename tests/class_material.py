"""A classifier of four named classes that is right on every row, and files that hold some of the classes."""

import csv
from functools import cache
from random import Random

import torch

from tests.conftest import BAD, GOOD, PLAIN, make_bert, make_tokenizer

NAMES = ["joy", "anger", "fear", "calm"]
"""In another order than sorted names have, which `load` numbers."""


def make_four():
    """A width-16 BERT of these classes, whose bias lets it answer with each of them."""
    model, draw = make_bert(2, seed=11, labels=dict(enumerate(NAMES)), initializer_range=0.5), Random(1)
    texts = make_tokenizer()([_text(draw) for _ in range(64)], padding=True, return_tensors="pt")
    with torch.no_grad():
        model.classifier.bias -= model(**texts).logits.mean(0)
    return model


def _text(draw):
    return " ".join(draw.choices(GOOD + BAD + PLAIN, k=draw.randint(3, 9)))


@cache
def answered_rows():
    """(text, class name) of 20 texts for each class, the name being the model's own answer."""
    model, tokenizer, draw = make_four(), make_tokenizer(), Random(0)
    rows = {name: [] for name in NAMES}
    while any(len(texts) < 20 for texts in rows.values()):
        texts = [_text(draw) for _ in range(64)]
        with torch.no_grad():
            answers = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.argmax(-1)
        for text, answer in zip(texts, answers.tolist(), strict=True):
            rows[NAMES[answer]].append(text)
    return [(text, name) for name in NAMES for text in rows[name][:20]]


def write_csv(path, classes, *, spelled=str, column="label"):
    """The rows of these classes, their names spelled in some way."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", column])
        writer.writerows([text, spelled(name)] for text, name in answered_rows() if name in classes)
    return path
