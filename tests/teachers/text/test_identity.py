"""What tells one function from another: its code and what it reads, and nothing that a process draws anew."""

import functools

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from transformers import pipeline

from hfdistill.teachers.text.identity import UnknownIdentityError, identity_of_function
from tests.conftest import make_bert, make_dataset, make_tokenizer

PROMPT = "Is it good?"


def ask(prompt, texts):
    return [[0.5, 0.5] if prompt else [0.4, 0.6] for _ in texts]


def of_global(texts):
    return [ask(PROMPT, [text])[0] for text in texts]


class Asker:
    def __init__(self, prompt):
        self.prompt = prompt

    def __call__(self, texts):
        return ask(self.prompt, texts)


def closed_over(value):
    return lambda texts: [value for _ in texts]


def classifier(**options):
    data = make_dataset()
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression(**options))
    return fitted.fit(data["text"][:], data["label"][:])


def of_pipeline(seed=0, **options):
    made = pipeline(
        "text-classification",
        model=make_bert(2, seed=seed),
        tokenizer=make_tokenizer(),
        device="cpu",
        **options,
    )
    return lambda texts: [{row["label"]: row["score"] for row in rows} for rows in made(texts)]


SAME = [
    lambda: of_global,
    lambda: Asker("a"),
    lambda: Asker("a").__call__,
    lambda: closed_over(np.arange(3)),
    lambda: closed_over({"a": [1, 2], "b": {3, 4}}),
    lambda: functools.partial(ask, "a"),
    lambda: classifier().predict_proba,
    lambda: of_pipeline(top_k=None),
]


def test_the_same_function_has_one_identity_and_others_have_others():
    prints = [identity_of_function(make()) for make in SAME]
    assert [identity_of_function(make()) for make in SAME] == prints
    others = [
        identity_of_function(answer)
        for answer in (
            Asker("b"),
            closed_over(np.arange(4)),
            closed_over({"a": [1, 3], "b": {3, 4}}),
            functools.partial(ask, "b"),
            classifier(C=2.0).predict_proba,
            of_pipeline(top_k=1),
            of_pipeline(seed=1, top_k=None),
        )
    ]
    assert len({*prints, *others}) == len(prints) + len(others)


def test_asking_changes_nothing():
    for make in (*SAME[:2], *SAME[-2:]):
        answer = make()
        before = identity_of_function(answer)
        answer(["a film"])
        assert identity_of_function(answer) == before


def test_a_global_that_the_function_reads_has_a_part(monkeypatch):
    before = identity_of_function(of_global)
    monkeypatch.setitem(globals(), "PROMPT", "Is it bad?")
    other = identity_of_function(of_global)
    monkeypatch.setitem(globals(), "ask", lambda prompt, texts: [[0.9, 0.1] for _ in texts])
    assert len({before, other, identity_of_function(of_global)}) == 3


def test_what_cannot_be_told_apart_asks_for_a_name():
    with pytest.raises(UnknownIdentityError, match=r"reads a generator, .* name='intents, prompt 3'"):
        identity_of_function(closed_over(row for row in [1]))


class Named:
    def __init__(self, name):
        self.name = name

    def fingerprint(self):
        return self.name


def test_a_value_of_its_own_fingerprint_a_tokenizer_and_one_seen_twice_tell_functions_apart():
    tokenizer, other = make_tokenizer(), make_tokenizer()
    other.add_tokens(["<new>"])
    assert identity_of_function(closed_over(tokenizer)) == identity_of_function(closed_over(make_tokenizer()))
    assert identity_of_function(closed_over(tokenizer)) != identity_of_function(closed_over(other))
    assert identity_of_function(closed_over(Named("a"))) == identity_of_function(closed_over(Named("a")))
    assert identity_of_function(closed_over(Named("a"))) != identity_of_function(closed_over(Named("b")))
    one, two = Asker("p"), Asker("q")
    assert identity_of_function(closed_over([one, one])) != identity_of_function(closed_over([one, two]))
