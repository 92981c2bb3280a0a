"""Words with a label each, and tiny models that label them."""

import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import BertConfig, BertForTokenClassification

from tests.conftest import BAD, GOOD, make_bert, make_sentences

TAGS = ["O", "B-good", "I-good", "B-bad", "I-bad"]


def make_words(rows: int = 32, *, bare: int = 5) -> Dataset:
    """Sentences as words; opinions are entities, some of two words, and "film" comes with punctuation.

    Row i has no label at all where i is a multiple of `bare` (0: none has), and one word of each third row
    has none.
    """
    tokens, labels = [], []
    for i, (sentence, positive) in enumerate(make_sentences(rows)):
        words, tags = [], []
        for word in sentence.split():
            opinion = word in GOOD + BAD
            words.append("film, film" if word == "film" else word)
            tags.append(TAGS.index("B-good" if positive else "B-bad") if opinion else 0)
            if opinion and i % 2:
                words.append("end")
                tags.append(tags[-1] + 1)
        if i % 3 == 1:
            tags[0] = -100
        tokens.append(words)
        labels.append(None if bare and i % bare == 3 else tags)
    return Dataset.from_dict(
        {"tokens": tokens, "label": labels},
        features=Features({"tokens": List(Value("string")), "label": List(Value("int64"))}),
    )


def make_named_words(rows: int = 16) -> Dataset:
    """Words with a named label each, without gaps."""
    data = make_words(rows, bare=0)
    labels = [[max(label, 0) for label in row] for row in data["label"]]
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=TAGS))})
    return Dataset.from_dict({"tokens": data["tokens"][:], "ner_tags": labels}, features=features)


def make_tagger(layers: int = 2, *, seed: int = 0, **options) -> BertForTokenClassification:
    """`make_bert` with a head on every token."""
    config = make_bert(1, labels=options.pop("labels", dict(enumerate(TAGS))), **options).config
    config = BertConfig(**{**config.to_dict(), "num_hidden_layers": layers})
    torch.manual_seed(seed)
    return BertForTokenClassification(config).eval()
